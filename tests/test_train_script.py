"""train.py as its user runs it: killed, interrupted, resumed, misused."""

import errno
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_disk import files_up_to
from tiny_dataset import make_tiny_dataset
from train_script import FLAGS, assert_equal_results, results, run, start

import train
from common import checkpoint, files
from common.callbacks import LatestOutputs
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.errors import Interrupted
from common.experiment import Experiment
from rsna.training.results import ResultWriter
from rsna_network import RSNANetwork


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    return folder


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """A training that nothing interrupted, in this process."""
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        flags = [*places, *FLAGS, "--experiment_id", "whole", "--n_jobs", "0"]
        patch.setattr(sys, "argv", ["train.py", *flags])
        assert status_of(train.main) == 0
    torch.set_num_threads(num_threads)
    return results(place, "whole")


KILLS = [("checkpoint", "1")]
MORE_KILLS = [
    (moment, jobs)
    for moment in ("epoch", "validation", "checkpoint")
    for jobs in ("0", "1", "3")
    if (moment, jobs) not in KILLS
]


@pytest.mark.parametrize(
    ("moment", "jobs"),
    [*KILLS, *(pytest.param(*kill, marks=pytest.mark.long) for kill in MORE_KILLS)],
)
def test_kill_and_resume_is_bit_identical(place, whole, moment, jobs):
    name = f"{moment}{jobs}"
    status, _, _ = run(place, *FLAGS, "--experiment_id", name, "--n_jobs", jobs, moment=moment)
    assert status == -signal.SIGKILL
    # The kill fell strictly inside: something was saved, and something was left to do.
    saved = load_checkpoint(results(place, name) / "checkpoints" / "last.pt")
    assert 0 < saved["iteration"] < 12
    assert not (results(place, name) / "predictions").exists()
    status, out, err = run(
        place, "--experiment_id", name, "--tr_resume", "1", "--n_jobs", jobs, moment="never"
    )
    assert (status, out) == (0, f"{name}\n"), err
    assert f"resumed after iteration {saved['iteration']}" in err
    assert_equal_results(whole, results(place, name), place)


def test_what_the_last_validation_computed_is_what_would_be_predicted(place, monkeypatch):
    passes = []
    predict = RSNANetwork.predict
    monkeypatch.setattr(RSNANetwork, "predict", lambda *a: passes.append(1) or predict(*a))
    tables = {}
    for name in ("kept", "anew"):
        if name == "anew":
            monkeypatch.setattr(LatestOutputs, "on_metrics", lambda *_: None)
        places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / name)]
        flags = [*places, *FLAGS, "--tr_iteration_valid", "12", "--n_jobs", "0"]
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        assert status_of(train.main) == 0
        folder = place / name / "results" / "0001" / "predictions"
        tables[name] = [pd.read_parquet(folder / f"{f}.parquet") for f in ("valid", "valid_best")]
        assert len(passes) == {"kept": 0, "anew": 2}[name]
    for kept, anew in zip(tables["kept"], tables["anew"], strict=True):
        pd.testing.assert_frame_equal(kept, anew, check_exact=True)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_signal_saves_and_prints_the_command_that_goes_on(place, number):
    name = f"stopped{int(number)}"
    flags = [*FLAGS, "--tr_iteration_num", "100000", "--n_jobs", "2", "--experiment_id", name]
    process = start(place, *flags)
    metrics = results(place, name) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    # To the whole group, workers included, as a terminal or a cluster does.
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    command = f"python train.py --experiment_id {name} --tr_resume 1"
    assert command in err.splitlines()[-1]
    saved = load_checkpoint(results(place, name) / "checkpoints" / "last.pt")
    assert 0 < saved["iteration"] < 100000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted(signal.SIGTERM, "python train.py of a new experiment"), 143),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "full"), 2),
    ],
)
def test_stopped_while_results_are_written_it_says_how_to_go_on(
    place, capsys, monkeypatch, error, status
):
    def stop(*_):
        raise error

    monkeypatch.setattr(ResultWriter, "write", stop)
    output = place / "out put"
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(output)]
    flags = ["--tr_iteration_num", "2", "--experiment_id", f"stop{status}"]
    monkeypatch.setattr(sys, "argv", ["../train.py", *places, *FLAGS, *flags, "--n_jobs", "0"])
    assert status_of(train.main) == status
    command = (
        f"python ../train.py --experiment_id stop{status} --tr_resume 1 --output_dir '{output}'"
    )
    assert (
        command
        in capsys.readouterr().err
        + (output / "results" / f"stop{status}" / "train.log").read_text()
    )


@pytest.mark.parametrize(("num_saved", "name"), [(0, None), (0, "full0"), (2, "full2")])
def test_a_full_disk_ends_with_what_to_do(place, capsys, monkeypatch, num_saved, name):
    """A checkpoint does not fit: the first one, or a later one."""
    saved = []

    def write(path, data):
        if len(saved) == num_saved:
            monkeypatch.setattr(files.os, "fsync", full)
        files.write_bytes(path, data)
        saved.append(path)

    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(checkpoint, "write_bytes", write)
    output = place / "full_disk"
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(output)]
    flags = [*places, *FLAGS, "--n_jobs", "0", *(["--experiment_id", name] if name else [])]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    assert status_of(train.main) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the disk is full (") and "free some space, then " in line
    folder = output / "results" / (name or "0001")
    if num_saved:
        resume = f"python train.py --experiment_id {name} --tr_resume 1 --output_dir {output}"
        assert line.endswith(f"then go on: {resume}")
    elif name:
        assert line.endswith(f"then remove {folder} and run the same command again")
    else:
        assert line.endswith("then run the same command again")
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert all(load_checkpoint(path) for path in folder.rglob("*.pt"))


def test_a_file_beyond_the_limit_of_the_system_is_no_fault_of_the_program(tmp_path, capsys):
    def write() -> None:
        with files_up_to(1000):
            (tmp_path / "large").write_bytes(bytes(2000))

    assert status_of(write) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the file is larger than") and "raise the limit, then" in line


def test_a_folder_whose_flags_do_not_fit_on_the_disk_is_not_kept(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        Experiment.create(tmp_path / "results", None, "seed: 1")
    assert not list((tmp_path / "results").iterdir())


def test_a_damaged_checkpoint_is_refused_and_the_offered_one_goes_on(
    place, whole, capsys, monkeypatch
):
    folder = results(place, "damaged")
    shutil.copytree(whole, folder)
    last = folder / "checkpoints" / "last.pt"
    sound = {path: load_checkpoint(path)["iteration"] for path in last.parent.glob("iteration*")}
    newest = max(sound, key=sound.__getitem__)
    content = bytearray(last.read_bytes())
    content[len(content) // 3] ^= 1
    last.write_bytes(content)
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    flags = ["--experiment_id", "damaged", "--tr_resume", "1", "--n_jobs", "0"]
    monkeypatch.setattr(sys, "argv", ["train.py", *places, *flags])
    assert status_of(train.main) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: checkpoint {last}: damaged")
    assert f"{newest}, of iteration {sound[newest]}: copy it to last.pt" in line
    shutil.copy(newest, last)
    torch.set_num_threads(1)
    assert status_of(train.main) == 0
    assert_equal_results(whole, folder, place)


@pytest.mark.parametrize("jobs", ["0", "1"])
def test_damaged_pixels_are_no_fault_of_the_program(place, capsys, monkeypatch, jobs):
    dataset = make_tiny_dataset(place / "input" / "datasets" / f"broken{jobs}")
    for path in (dataset / "store").iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "broken")]
    flags = [*places, *FLAGS, "--data_dataset", dataset.name, "--n_jobs", jobs]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    assert status_of(train.main) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and ".b2nd can't be opened" in line
    assert line.endswith(": preprocessing.py --pre_check 1 lists all that is damaged")
    assert "Traceback" not in line and "UnreadableChunk" not in line


TINY = ("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ((*TINY, "--experiment_id", "whole"), "--experiment_id whole exists"),
        (("--experiment_id", "whole", "--tr_resume", "1", "--seed", "9"), "--seed 9"),
        (("--experiment_id", "never", "--tr_resume", "1"), "no experiment at"),
        ((*TINY, "--data_dataset", "absent"), "absent"),
        ((*TINY, "--data_fold", "9"), "--data_fold 9"),
        ((*TINY, "--data_valid_transform", "train_small"), "must not depend on chance"),
        ((*TINY, "--data_train_transform", "no_such"), "--data_train_transform no_such"),
        ((*TINY, "--net_weight_file", "/no/such.pt"), "/no/such.pt: no such file"),
        ((*TINY, "--device", "cuda"), "--device cuda"),
    ],
)
def test_flags_that_do_not_fit_exit_2_with_one_line(place, whole, flags, word, capsys, monkeypatch):
    results_folder = place / "output" / "results"
    before = sorted(path.name for path in results_folder.iterdir())
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    monkeypatch.setattr(sys, "argv", ["train.py", *places, *flags])
    assert status_of(train.main) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert word in err.splitlines()[-1]
    assert sorted(path.name for path in results_folder.iterdir()) == before


def test_second_process_on_the_same_experiment_is_refused(place, whole, capsys, monkeypatch):
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    flags = ["--experiment_id", "whole", "--tr_resume", "1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *places, *flags])
    with open(whole / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status_of(train.main) == 2
    assert "another process" in capsys.readouterr().err


@pytest.mark.long
def test_dev_mode_is_the_same_code_on_less(place):
    flags = [*FLAGS, "--dev_enabled", "1", "--dev_num_studies", "3", "--dev_iteration_num", "4"]
    status, out, err = run(place, *flags, "--experiment_id", "dev")
    assert (status, out) == (0, "dev\n"), err
    assert load_checkpoint(results(place, "dev") / "checkpoints" / "last.pt")["iteration"] == 4
    assert (
        pd.read_parquet(results(place, "dev") / "predictions" / "valid.parquet")[
            "study_id"
        ].nunique()
        == 1
    )
