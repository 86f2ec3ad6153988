"""A training with every monitor on, evaluated, predicted with and sent again: what it leaves."""

import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared import prepare_dicom, write_series_files

import evaluate
import predict
import train
from common.cli import status_of
from common.trackers import MLflowBackend
from rsna_task import LABELS, SUBTYPES
from scripts import resend

ROOT = Path(__file__).resolve().parents[3]
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
HAS_NEPTUNE = importlib.util.find_spec("neptune") is not None
needs_tensorboard = pytest.mark.skipif(
    not HAS_TENSORBOARD, reason="pip install -r requirements/tensorboard.txt"
)
NUM_PATIENTS = 4
# Dates as DICOM has them and as people write them; uids that could lead back to a person.
SECRETS = ("SECRETPATIENT", "Secretname", "19031207", "1903-12-07", "9.8.7.6")
FLAGS = [
    *("--data_dataset", "secret", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
    *("--data_img_size", "32", "--tr_iteration_num", "12", "--tr_batch_size", "3"),
    *("--tr_iteration_valid", "3", "--tr_iteration_valid_full", "6", "--tr_valid_subset", "1"),
    *("--tr_batch_size_valid", "8", "--tr_num_best", "2", "--tr_best_metric", "log_loss.mean"),
    *("--cb_outputs_num", "1", "--cb_learning_rates_enabled", "1", "--tr_max_hours", "1"),
    *("--cb_early_stopping_patience", "9", "--cb_telemetry_enabled", "1"),
    *("--cb_telemetry_module_name", "backbone.blocks.0", "--cb_telemetry_log_every", "4"),
    *("--tr_iteration_checkpoint", "2", "--tensorboard_enabled", str(int(HAS_TENSORBOARD))),
    *("--nml_enabled", str(int(HAS_NEPTUNE))),
]


def make_secret_dataset(root: Path) -> Path:
    """DICOM of patients with names and dates, prepared, and labelled at random."""
    source = root / "of_SECRETPATIENT"
    for patient in range(NUM_PATIENTS):
        write_series_files(
            source,
            f"1.2.3.{patient}",
            PatientID=f"SECRETPATIENT{patient}",
            PatientName=f"Secretname^Jane{patient}",
            PatientBirthDate="19031207",
            StudyDate="19031207",
            StudyInstanceUID=f"9.8.7.6.{patient}",
        )
    dataset = root / "input" / "datasets" / "secret"
    _, frame = prepare_dicom(source, dataset)
    labels = np.random.default_rng(0).random((len(frame), len(SUBTYPES))) < 0.3
    frame[list(SUBTYPES)] = labels.astype(np.float32)
    frame["any"] = labels.any(axis=1).astype(np.float32)
    frame["split"] = "train"
    frame["keep_for_training"] = True
    frame.to_parquet(dataset / "slices.parquet", index=False)
    fold = frame["patient_id"].str[-1].astype(int) % 2
    frame[["image_id", "patient_id"]].assign(fold=fold).to_csv(dataset / "folds.csv", index=False)
    return source


def call(module, root: Path, *flags: str) -> int:
    """Run a script in this process."""
    place = ["--output_dir", str(root / "output"), "--experiment_id", "0001"]
    before = sys.argv
    sys.argv = [f"{module.__name__}.py", *place, *flags]
    try:
        return status_of(module.main)
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """What a training, an evaluation, a resend and a prediction leave."""
    root = tmp_path_factory.mktemp("monitored")
    source = make_secret_dataset(root)
    data = ["--data_input_folder", str(root / "input")]
    assert call(train, root, *data, *FLAGS, "--n_jobs", "0") == 0
    # The resend below sends its report: another process would take seconds to import MLflow.
    assert call(evaluate, root, "--n_jobs", "0", "--mlflow_enabled", "0") == 0
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert call(resend, root) == 0
    assert f"MLflow: 0 values sent, {len(record(root))} were there" in said.getvalue()
    folders = ["--pr_input", str(source), "--pr_output", str(root / "predicted")]
    assert call(predict, root, *folders, "--n_jobs", "0") == 0
    return root


def results(root: Path) -> Path:
    return root / "output" / "results" / "0001"


def record(root: Path) -> dict[tuple[str, int], float]:
    """The finite values of metrics.jsonl by name and iteration."""
    values = {}
    for line in (results(root) / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        iteration = line["iteration"]
        for name in line.keys() - {"iteration", "micro_step", "epoch", "time"}:
            assert (name, iteration) not in values
            values[name, iteration] = line[name]
    return {key: value for key, value in values.items() if value is not None}


def mlflow_points(root: Path) -> list[tuple[str, int, float]]:
    with sqlite3.connect(root / "output" / "mlflow.db") as database:
        return database.execute("select key, step, value from metrics order by 1, 2").fetchall()


def assert_is_record(points: list[tuple[str, int, float]], root: Path) -> None:
    """Each value of the record is there once, and nothing else."""
    expected = record(root)
    assert sorted((name, step) for name, step, _ in points) == sorted(expected)
    for name, step, value in points:
        assert value == pytest.approx(expected[name, step], rel=1e-6)


def tensorboard_points(root: Path) -> list[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(results(root) / "tensorboard"), {"scalars": 0})
    events.Reload()
    names = {_tag(name): name for name, _ in record(root)}
    tags = events.Tags()["scalars"]
    return [(names[tag], event.step, event.value) for tag in tags for event in events.Scalars(tag)]


def _tag(name: str) -> str:
    for group in ("valid_subset_", "valid_", "train_", "activation_"):
        if name.startswith(group):
            return f"{group[:-1]}/{name.removeprefix(group)}"
    return name


def contents(folder: Path) -> dict[str, bytes]:
    """What is in every file of a folder, archives unpacked, by name."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[str(path.relative_to(folder))] = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    found[f"{path.relative_to(folder)}!{name}"] = archive.read(name)
    return found


def test_nothing_that_is_left_behind_names_a_patient(root):
    files = contents(root / "output")
    names = "\n".join(files)
    kinds = ["mlflow.db", "train.log", "report.html", "metrics.jsonl", "metrics.json", "last.pt"]
    kinds += ["best.pt", "config.yaml", "predictor.json", "model.pt", ".npz!logits.npy"]
    kinds += ["tfevents"] * HAS_TENSORBOARD + ["data-1.log"] * HAS_NEPTUNE
    for kind in kinds:
        assert kind in names, f"{kind} is not there to be searched"
    # The search finds what is there: the tables of predictions may name patients.
    table = pd.read_parquet(results(root) / "predictions" / "valid.parquet")
    assert table["patient_id"].str.startswith("SECRETPATIENT").all()
    for name, data in files.items():
        if "/predictions/" in name:
            continue
        for secret in SECRETS:
            for encoding in ("utf-8", "utf-16-le"):
                assert secret.encode(encoding) not in data, f"{secret} in {name}"
            assert secret not in name


def test_no_path_is_in_a_monitor_or_a_report(root):
    for name, data in contents(root / "output").items():
        if "tfevents" in name or name.endswith(("report.html", "data-1.log")):
            assert str(root).encode() not in data, name
    with sqlite3.connect(root / "output" / "mlflow.db") as database:
        rows = database.execute("select key, value from params").fetchall()
    assert rows and not [row for row in rows if "/" in row[1]]


def test_validations_are_named_by_what_they_are_of(root):
    values = record(root)
    whole = {step for name, step in values if name == "valid_weighted_log_loss"}
    subset = {step for name, step in values if name == "valid_subset_weighted_log_loss"}
    assert (whole, subset) == ({6, 12}, {3, 9})
    for name in ("valid_log_loss.mean", "activation_std", "learning_rate.group0"):
        assert any(name == key for key, _ in values), name
    checkpoints = {path.name for path in (results(root) / "checkpoints").iterdir()}
    assert checkpoints >= {"iteration_0000006.pt", "iteration_0000012.pt"}
    with np.load(results(root) / "outputs" / "iteration_0000012.npz") as arrays:
        table = pd.read_parquet(results(root) / "predictions" / "valid.parquet")
        logits = table[[f"logit_{name}" for name in LABELS]].to_numpy()
        np.testing.assert_allclose(arrays["logits"], logits, rtol=1e-5)


def test_mlflow_has_the_record_and_a_resend_adds_nothing(root, capsys):
    assert_is_record(mlflow_points(root), root)
    assert call(resend, root) == 0
    assert f"MLflow: 0 values sent, {len(record(root))} were there" in capsys.readouterr().out
    assert_is_record(mlflow_points(root), root)


def test_points_that_mlflow_has_without_saying_so_are_no_new_ones(root, monkeypatch):
    # As after a server that took a batch and did not answer: sent again without a look.
    monkeypatch.setattr(MLflowBackend, "known_iterations", lambda backend, name: set())
    before = mlflow_points(root)
    assert call(resend, root) == 0
    assert mlflow_points(root) == before


def test_mlflow_has_parameters_reports_and_the_end(root):
    with sqlite3.connect(root / "output" / "mlflow.db") as database:
        runs = database.execute("select name, status from runs").fetchall()
        params = dict(database.execute("select key, value from params").fetchall())
    assert runs == [("0001", "FINISHED")]
    assert params["tr_batch_size"] == "3"
    assert not params.keys() & {"data_input_folder", "output_dir"}
    files = {path.name for path in (root / "output" / "mlflow_artifacts").rglob("*.*")}
    assert files == {"report.html", "metrics.json"}


def test_the_log_names_the_command_that_opens_the_monitor(root):
    command = f"python -m scripts.monitor --experiment_id 0001 --output_dir {root / 'output'}"
    assert f"to watch it: {command}\n" in (results(root) / "train.log").read_text()


@needs_tensorboard
def test_tensorboard_has_the_record(root):
    assert_is_record(tensorboard_points(root), root)


@pytest.mark.long
def test_another_store_gets_the_whole_record_once(root, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/other.db"
    for expected in ((len(record(root)), 0), (0, len(record(root)))):
        assert call(resend, root, "--mlflow_uri", uri) == 0
        line = f"MLflow: {expected[0]} values sent, {expected[1]} were there"
        assert line in capsys.readouterr().out
    assert call(resend, root, "--mlflow_enabled", "1") == 0  # and the first one knows its run


def test_a_store_that_is_not_there_is_one_line_and_status_2(root, capsys):
    assert call(resend, root, "--mlflow_uri", "http://127.0.0.1:9") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: MLflow can't be reached")
    off = ["--mlflow_enabled", "0", "--tensorboard_enabled", "0", "--nml_enabled", "0"]
    assert call(resend, root, *off) == 2
    assert "no tracker is asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--tr_best_metric", "auc.epidurall"), "--tr_best_metric auc.epidurall: no validation"),
        (("--tr_best_metric", "f1.mean", "--cb_metrics_enabled", "0"), "--tr_best_metric f1.mean"),
        (
            ("--cb_telemetry_enabled", "1", "--cb_telemetry_module_name", "backbone.blocs.0"),
            "near are backbone.blocks.0",
        ),
    ],
)
def test_names_that_are_not_there_are_refused_before_anything_is_made(root, capsys, flags, word):
    asked = [*FLAGS, "--data_input_folder", str(root / "input"), *flags]
    before = sorted((root / "output" / "results").iterdir())
    assert call(train, root, *asked, "--experiment_id", "new") == 2
    assert word in capsys.readouterr().err.splitlines()[-1]
    assert sorted((root / "output" / "results").iterdir()) == before


@pytest.mark.parametrize(
    ("flag", "module"), [("nml_enabled", "neptune"), ("tensorboard_enabled", "tensorboard")]
)
def test_a_missing_client_says_how_to_install_it(root, capsys, monkeypatch, flag, module):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "rsna.training.preflight.find_spec",
        lambda name: None if name == module else find_spec(name),
    )
    flags = [*FLAGS, "--experiment_id", "new", f"--{flag}", "1"]
    assert call(train, root, "--data_input_folder", str(root / "input"), *flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"pip install -r requirements/{module}.txt" in error
    assert not (root / "output" / "results" / "new").exists()


def run_train(root: Path, *flags: str, moment: str = "never") -> subprocess.CompletedProcess:
    places = ["--data_input_folder", str(root / "input"), "--output_dir", str(root / "output")]
    return subprocess.run(
        [
            sys.executable,
            "tests/helpers/killed_training.py",
            moment,
            *places,
            *flags,
            "--n_jobs",
            "0",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.long
@needs_tensorboard
def test_a_killed_and_resumed_run_is_in_the_monitors_once(tmp_path):
    make_secret_dataset(tmp_path)
    flags = [*FLAGS, "--experiment_id", "0001"]
    assert run_train(tmp_path, *flags, moment="epoch").returncode == -signal.SIGKILL
    result = run_train(tmp_path, "--experiment_id", "0001", "--tr_resume", "1")
    assert result.returncode == 0, result.stderr
    for _ in range(2):
        assert call(resend, tmp_path) == 0
    points = mlflow_points(tmp_path)
    keys = [(name, step) for name, step, _ in points]
    assert sorted(keys) == sorted(set(keys)) == sorted(record(tmp_path))
    assert_is_record(tensorboard_points(tmp_path), tmp_path)


@pytest.mark.long
def test_maximum_time_ends_with_143_and_another_run_goes_on(tmp_path):
    make_secret_dataset(tmp_path)
    flags = [*FLAGS, "--experiment_id", "0001", "--tr_max_hours", "1e-7"]
    result = run_train(tmp_path, *flags)
    assert result.returncode == 143
    assert "the maximum time of 1 ms is used up" in result.stderr
    assert "--experiment_id 0001 --tr_resume 1" in result.stderr.splitlines()[-1]
    result = run_train(
        tmp_path, "--experiment_id", "0001", "--tr_resume", "1", "--tr_max_hours", "0"
    )
    assert result.returncode == 0, result.stderr
    assert (results(tmp_path) / "predictions" / "valid.parquet").is_file()


@pytest.fixture
def server(tmp_path):
    """The address of a real `mlflow server`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_a_real_server_gets_the_run_and_later_what_it_missed(tmp_path, server):
    make_secret_dataset(tmp_path)
    flags = [*FLAGS, "--experiment_id", "0001", "--mlflow_uri"]
    result = run_train(tmp_path, *flags, server)
    assert result.returncode == 0, result.stderr
    assert "did not get everything" not in result.stderr
    database = tmp_path / "server" / "mlflow.db"
    (tmp_path / "output" / "mlflow.db").symlink_to(database)
    assert_is_record(mlflow_points(tmp_path), tmp_path)
    # Values that are lost on the way are sent again, the others are not.
    with sqlite3.connect(database) as connection:
        connection.execute("delete from metrics where step > 6")
    assert call(evaluate, tmp_path, "--n_jobs", "0") == 0
    for _ in range(2):
        assert call(resend, tmp_path) == 0
        assert_is_record(mlflow_points(tmp_path), tmp_path)
    artifacts = {path.name for path in (tmp_path / "server" / "artifacts").rglob("*.*")}
    assert artifacts >= {"report.html", "metrics.json"}
    text = b"".join(contents(tmp_path / "server").values())
    assert not [secret for secret in SECRETS if secret.encode() in text]
