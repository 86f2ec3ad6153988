"""Study networks through train.py, evaluate.py and predict.py, over slice experiments."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from prepared import write_series_files
from slice_experiments import make_slice_experiment
from tiny_dataset import make_tiny_dataset

import evaluate
import lr_finder
import predict
import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.errors import InputError
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.slices.table import SliceTable
from rsna_model import build_model
from rsna_task import LABELS

FLAGS = {
    "data_dataset": "tiny",
    "net_model": "study-bigru",
    "data_features": "0001",
    "net_study_dim": 16,
    "net_study_hidden": 8,
    "tr_iteration_num": 8,
    "tr_batch_size": 2,
    "tr_accumulation_step": 2,
    "tr_iteration_valid": 4,
    "tr_iteration_checkpoint": 3,
    "optim_ema_decay": 0.9,
    "net_drop_rate": 0.3,
    "data_study_thin": 0.5,
    "mlflow_enabled": 0,
    "n_jobs": 0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny", num_patients=8, num_slices=12)
    make_slice_experiment(folder, "0001", "tiny")
    make_slice_experiment(folder, "0002", "tiny", seed=1, model="test_vit")
    return folder


def run(monkeypatch, place: Path, script, experiment: str, **flags) -> int:
    values = {"experiment_id": experiment, "output_dir": place / "output", **flags}
    if script is not predict:
        values["data_input_folder"] = place / "input"
    arguments = [f"--{name}={value}" for name, value in values.items()]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments])
    return status_of(script.main)


def results(place: Path, experiment: str) -> Path:
    return place / "output" / "results" / experiment


@pytest.mark.long
@pytest.mark.parametrize(
    "flags",
    [
        {
            "net_model": "study-first_place",
            "net_study_inputs": "both",
            "data_features": "0001,0002",
        },
        {"net_model": "study-transformer"},
        {"net_model": "study-lstm", "data_study_crop": 5},
    ],
)
def test_predictor_gives_what_was_validated(place, monkeypatch, capsys, flags):
    name = flags["net_model"].removeprefix("study-")
    assert run(monkeypatch, place, train, name, **{**FLAGS, **flags}) == 0, capsys.readouterr().err
    folder = results(place, name)
    valid = pd.read_parquet(folder / "predictions" / "valid.parquet")
    assert len(valid) == 48 and set(valid["fold"]) == {0}
    assert run(monkeypatch, place, evaluate, name) == 0, capsys.readouterr().err
    metrics = json.loads((folder / "metrics.json").read_text())
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert metrics["weighted_log_loss"] == pytest.approx(last["valid_weighted_log_loss"], 1e-12)

    # The predictor folder stands alone, and sees a slice in its whole series.
    alone = place / f"alone_{name}"
    shutil.copytree(folder / "predictor", alone)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    rows = table.rows_of(valid["image_id"])[::5]
    predictor = load_predictor(alone, build_model)
    found = predictor.predict_rows(table, rows)
    columns = [f"logit_{label}" for label in LABELS]
    np.testing.assert_allclose(found.logits, valid[columns].iloc[::5], atol=2e-3)
    assert not found.unreadable.any()
    with pytest.raises(InputError, match="no features"):
        predictor.predict_rows(table, rows, PredictOptions(with_features=True))


@pytest.mark.long
def test_evaluates_on_another_dataset_and_predicts(place, monkeypatch, capsys):
    make_tiny_dataset(place / "input" / "datasets" / "other", num_patients=2, num_slices=5)
    assert run(monkeypatch, place, train, "0010", **FLAGS) == 0, capsys.readouterr().err
    assert run(monkeypatch, place, evaluate, "0010", data_dataset="other", n_jobs=0) == 0
    other = results(place, "0010") / "evaluations" / "other"
    assert len(pd.read_parquet(other / "predictions.parquet")) == 10
    dataset, output = place / "input" / "datasets" / "other", place / "predicted"
    flags = {"pr_input": dataset, "pr_output": output, "n_jobs": 0}
    assert run(monkeypatch, place, predict, "0010", **flags) == 0, capsys.readouterr().err
    found = pd.read_parquet(output / "predictions.parquet")
    expected = pd.read_parquet(other / "predictions.parquet")
    assert np.allclose(found["any"], expected["any"])


def test_resume_is_bit_identical(place, monkeypatch, capsys):
    flags = {**FLAGS, "net_model": "study-first_place", "net_study_inputs": "both"}
    assert run(monkeypatch, place, train, "whole", **flags) == 0, capsys.readouterr().err
    # 0.0 s: it stops after each iteration.
    assert run(monkeypatch, place, train, "halves", **flags, tr_max_hours=1e-9) == 143
    saved = load_checkpoint(results(place, "halves") / "checkpoints" / "last.pt")
    assert 0 < saved["iteration"] < 8
    assert run(monkeypatch, place, train, "halves", tr_resume=1, tr_max_hours=0) == 0
    states = [
        load_checkpoint(results(place, name) / "checkpoints" / "last.pt")
        for name in ("whole", "halves")
    ]
    for kind in ("model", "averages"):
        one, other = (state[kind] for state in states)
        if kind == "averages":
            one, other = (state["WeightAverage"]["model"] for state in (one, other))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    one, other = (
        pd.read_parquet(results(place, name) / "predictions" / "valid.parquet")
        for name in ("whole", "halves")
    )
    one, other = (table.drop(columns="experiment_id") for table in (one, other))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.long
def test_resume_with_other_outputs_of_the_slice_experiment_is_refused(place, monkeypatch, capsys):
    folder = copied(place, "0003")
    flags = {**FLAGS, "data_features": "0003", "tr_max_hours": 1e-9}
    assert run(monkeypatch, place, train, "changed", **flags) == 143, capsys.readouterr().err
    change_predictions(folder, lambda frame: frame.assign(logit_any=frame["logit_any"] + 0.1))
    assert run(monkeypatch, place, train, "changed", tr_resume=1) == 2
    assert "not those that the checkpoint was made with" in capsys.readouterr().err


def copied(place: Path, name: str) -> Path:
    """A copy of the slice experiment 0001."""
    return Path(shutil.copytree(results(place, "0001"), results(place, name)))


def change_predictions(folder: Path, change) -> None:
    path = folder / "predictions" / "oof.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def test_outputs_of_a_network_that_saw_the_patient_are_refused(place, monkeypatch, capsys):
    folder = copied(place, "leak")
    change_predictions(folder, lambda frame: frame.assign(fold=1 - frame["fold"]))
    flags = {**FLAGS, "data_features": "leak"}
    assert run(monkeypatch, place, train, "refused", **flags) == 2
    assert "was trained on the same patient" in capsys.readouterr().err.replace("\n", " ")
    assert not results(place, "refused").exists()


def test_outputs_made_with_other_folds_are_refused(place, monkeypatch, capsys):
    folder = copied(place, "old")
    manifest = folder / "features" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"folds_sha256": "', '"folds_sha256": "0'))
    assert run(monkeypatch, place, train, "refused", **{**FLAGS, "data_features": "old"}) == 2
    assert "other folds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"data_features": ""}, "--data_features"),
        ({"data_features": "0099"}, "--data_features 0099: no experiment"),
        ({"data_features": "0001,0001"}, "twice"),
        ({"data_sampler": "balanced"}, "--data_sampler balanced"),
        ({"net_model": "study-gru"}, "study-bigru"),
        ({"net_num_classes": 1}, "--net_num_classes"),
        ({"optim_layer_decay": 0.9}, "--optim_layer_decay: study-"),
        ({"net_model": "study-transformer", "net_study_dim": 20}, "a multiple of 4"),
    ],
)
def test_flags_that_do_not_fit_exit_2(place, monkeypatch, capsys, flags, words):
    assert run(monkeypatch, place, train, "refused", **{**FLAGS, **flags}) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (place / "output" / "results" / "refused").exists()


@pytest.mark.long
def test_training_slices_without_outputs_are_left_out_but_not_those_of_validation(
    place, monkeypatch, capsys, caplog
):
    folder = copied(place, "0004")
    patients = ("patient1",)
    change_predictions(folder, lambda frame: frame[~frame["patient_id"].isin(patients)])
    flags = {**FLAGS, "data_features": "0004", "tr_iteration_num": 1, "tr_iteration_valid": 0}
    assert run(monkeypatch, place, train, "fewer", **flags) == 0, capsys.readouterr().err
    assert "left out 12 training slices without out-of-fold predictions" in caplog.text
    assert run(monkeypatch, place, train, "none", **flags, data_fold=1) == 2
    assert "--data_fold all" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.long
def test_a_range_test_of_a_study_network(place, monkeypatch, capsys):
    flags = {**FLAGS, "lrf_iteration_num": 4}
    del flags["mlflow_enabled"]
    assert run(monkeypatch, place, lr_finder, "range", **flags) == 0, capsys.readouterr().err
    assert "4 iterations" in capsys.readouterr().out


@pytest.mark.long
def test_all_folds_from_slices_to_new_dicom(place, monkeypatch, capsys):
    """Slice experiment, study experiment, evaluation and prediction, with nothing but scripts."""
    slices = {
        **{name: FLAGS[name] for name in ("data_dataset", "mlflow_enabled", "n_jobs")},
        "net_model": "test_efficientnet",
        "net_pretrained": 0,
        "data_img_size": 32,
        "tr_iteration_num": 2,
        "data_fold": "all",
        "pr_tta_views": "flip_lr",
    }
    assert run(monkeypatch, place, train, "0100", **slices) == 0, capsys.readouterr().err
    study = {**FLAGS, "data_features": "0100", "data_fold": "all", "net_study_inputs": "both"}
    assert run(monkeypatch, place, train, "0101", **study) == 0, capsys.readouterr().err
    folder = results(place, "0101")
    oof = pd.read_parquet(folder / "predictions" / "oof.parquet")
    assert len(oof) == 96
    assert oof["image_id"].is_unique
    assert run(monkeypatch, place, evaluate, "0101") == 0, capsys.readouterr().err
    assert json.loads((folder / "metrics.json").read_text())["num_slices"] == 96

    # What each fold's predictor says of its own validation rows is what stands in the table.
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    columns = [f"logit_{label}" for label in LABELS]
    for fold in (0, 1):
        own = oof[oof["fold"] == fold]
        predictor = load_predictor(folder / "predictor" / f"fold_{fold}", build_model)
        found = predictor.predict_rows(table, table.rows_of(own["image_id"]))
        np.testing.assert_allclose(found.logits, own[columns], atol=2e-3)

    dicom, output = place / "dicom", place / "predicted_all"
    write_series_files(dicom, num_slices=5, size=32)
    flags = {"pr_input": dicom, "pr_output": output, "n_jobs": 0}
    assert run(monkeypatch, place, predict, "0101", **flags) == 0, capsys.readouterr().err
    predicted = pd.read_parquet(output / "predictions.parquet")
    assert len(predicted) == 5
    assert np.isfinite(predicted[list(LABELS)]).all(axis=None)
