"""Networks of `any` alone as members of blends, second levels and study networks."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from slice_experiments import make_slice_experiment
from tiny_dataset import make_tiny_dataset

import ensemble
import evaluate
import predict
import train
from common.cli import status_of
from common.scoring.metrics import log_loss
from common.slices.table import SliceTable
from rsna_task import ANY_ONLY, SUBTYPES
from scripts import second_level


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("levels")
    make_tiny_dataset(place / "input" / "datasets" / "tiny", num_patients=6, num_slices=4)
    for number in (1, 2):
        make_slice_experiment(place, f"000{number}", "tiny", seed=number, task=ANY_ONLY)
    make_slice_experiment(place, "0006", "tiny")
    return place


def run(monkeypatch, place: Path, script, *flags: str) -> int:
    common = ["--output_dir", str(place / "output"), "--n_jobs", "0", *flags]
    if script is not predict:
        common += ["--data_input_folder", str(place / "input")]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *common])
    return status_of(script.main)


STUDY = (
    *("--data_dataset", "tiny", "--data_features", "0001,0002", "--net_num_classes", "1"),
    *("--net_model", "study-first_place", "--net_study_dim", "8", "--net_study_hidden", "4"),
    *("--tr_iteration_num", "2", "--tr_iteration_valid", "0", "--mlflow_enabled", "0"),
)
LEVELS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "blend": (
        ensemble,
        ("--ens_experiments", "0001,0002", "--ens_method", "stacking", "--ens_consistency", "1"),
    ),
    "smooth": (second_level, ("--sl_experiments", "0001,0002")),
    "study": (train, STUDY),
}


@pytest.mark.parametrize(
    "level",
    ["blend", *(pytest.param(name, marks=pytest.mark.long) for name in ("smooth", "study"))],
)
def test_a_level_over_any_alone_is_of_any_alone(monkeypatch, capsys, place, tmp_path, level):
    script, flags = LEVELS[level]
    assert run(monkeypatch, place, script, "--experiment_id", level, *flags) == 0
    folder = place / "output" / "results" / level
    assert run(monkeypatch, place, evaluate, "--experiment_id", level) == 0
    name = "valid" if level == "study" else "oof"
    frame = pd.read_parquet(folder / "predictions" / f"{name}.parquet")
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    labels = table.labels(table.rows_of(frame["image_id"]), ("any",))[:, 0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["weighted_log_loss"] == pytest.approx(log_loss(labels, frame["any"]), abs=1e-9)
    assert metrics["log_loss"]["epidural"] is None
    dataset = str(place / "input" / "datasets" / "tiny")
    places = ("--pr_input", dataset, "--pr_output", str(tmp_path))
    assert run(monkeypatch, place, predict, "--experiment_id", level, *places) == 0
    predicted = pd.read_parquet(tmp_path / "predictions.parquet")
    assert np.isfinite(predicted["any"]).all() and not set(SUBTYPES) & set(predicted)


def test_any_alone_and_six_labels_are_not_mixed(monkeypatch, capsys, place):
    flags = {
        ensemble: ["--ens_experiments", "0001,0006"],
        second_level: ["--sl_experiments", "0001,0006"],
        train: [*STUDY[:3], "0001,0006", *STUDY[4:]],
    }
    for script, given in flags.items():
        assert run(monkeypatch, place, script, "--experiment_id", "mixed", *given) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "different labels" in told or "--data_features 0006: has the labels" in told
    assert not (place / "output" / "results" / "mixed").exists()


def test_what_has_not_ended_is_refused_with_its_name(monkeypatch, capsys, place):
    """A training of all folds that was stopped, or whose predictor is gone."""
    results = place / "output" / "results"
    shutil.copytree(results / "0001", results / "stopped")
    shutil.rmtree(results / "stopped" / "predictor")
    shutil.rmtree(results / "stopped" / "features")
    for script, flags in (
        (second_level, ["--sl_experiments", "stopped"]),
        (train, [*STUDY[:3], "stopped", *STUDY[4:]]),
    ):
        assert run(monkeypatch, place, script, *flags) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "stopped/predictor" in told and "train the experiment first" in told
