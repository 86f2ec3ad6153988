"""predict.py and evaluate.py by two processes: the files of one, written by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_dataset, make_predictor

from common.files import write_json
from rsna_model import RSNAModel
from rsna_task import LABELS

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("together")
    network = RSNAModel("test_resnet")
    for name in ("one", "two"):
        make_predictor(
            network=network, model=network.specification, training={"dataset": "else"}
        ).save(place / name)
    folder = place / "input" / "datasets" / "own"
    make_dataset(folder)
    write_json(folder / "manifest.json", {"source": "dicom", "num_by_status": {}})
    return place


def run(root: Path, launcher: tuple[str, ...], script: str, **flags: object):
    given = [f"--{name}={value}" for name, value in flags.items()]
    return subprocess.run(
        [sys.executable, *launcher, script, *given],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_same_tables(one: Path, other: Path) -> None:
    first, second = (pd.read_parquet(folder / "predictions.parquet") for folder in (one, other))
    assert first["image_id"].equals(second["image_id"])
    np.testing.assert_allclose(first[list(LABELS)], second[list(LABELS)], rtol=0, atol=1e-6)


@pytest.mark.long
def test_predictions_are_those_of_one_process(project_root, place):
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        folders = {
            "pr_input": place / "input" / "datasets" / "own",
            "pr_output": place / f"p_{name}",
        }
        views = {"pr_tta_views": "flip_lr"}
        flags = {"pr_predictor": place / name, "n_jobs": 0, **folders, **views}
        done = run(project_root, launcher, "predict.py", **flags)
        assert done.returncode == 0, done.stderr
        # One process prints and writes.
        assert done.stdout.count("33 slices and 5 studies") == 1
    assert_same_tables(place / "p_one", place / "p_two")
    names = [sorted(path.name for path in (place / f"p_{n}").iterdir()) for n in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.long
def test_evaluations_are_those_of_one_process(project_root, place):
    metrics = []
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        flags = {"pr_predictor": place / name, "data_dataset": "own", "n_jobs": 0}
        flags |= {"data_input_folder": place / "input", "mlflow_enabled": 0}
        done = run(project_root, launcher, "evaluate.py", **flags)
        assert done.returncode == 0, done.stderr
        folder = place / name / "evaluations" / "own"
        metrics.append(json.loads((folder / "metrics.json").read_text())["weighted_log_loss"])
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)
    assert_same_tables(*(place / name / "evaluations" / "own" for name in ("one", "two")))


@pytest.mark.long
def test_input_that_can_not_be_predicted_ends_all_with_one_line(project_root, place, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "no.dcm").write_text("no DICOM")
    flags = {"pr_predictor": place / "one", "n_jobs": 0}
    flags |= {"pr_input": tmp_path / "in", "pr_output": tmp_path / "out"}
    done = run(project_root, TORCHRUN, "predict.py", **flags)
    assert done.returncode == 1  # torchrun's own
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "nothing usable in" in errors[0]
    assert "stopped by the failure of another process: process 0: nothing usable" in done.stderr
    assert "a fault of the program" not in done.stderr
