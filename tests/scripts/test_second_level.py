"""scripts/second_level.py: from out-of-fold tables to an experiment that predicts."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_predictor, small_transform
from tiny_dataset import make_tiny_dataset

from common.cli import status_of
from common.ensembling.sequences import level_inputs
from common.predictors.loading import load_predictor
from common.predictors.second_level import mean_of_levels
from common.scoring.metrics import training_prior, weighted_log_loss
from common.scoring.predictions import build_predictions, read_predictions, write_predictions
from common.slices.folds import read_folds
from common.slices.leakage import folds_digest
from common.slices.table import SliceTable
from config import Config, recorded_config
from rsna.evaluation.evaluation import evaluate_experiment
from rsna_model import RSNAModel, build_model
from rsna_task import LABEL_WEIGHTS, LABELS
from scripts import second_level

TREES = ["--sl_method", "boosting", "--sl_rounds", "3", "--sl_min_leaf", "5", "--sl_patience", "0"]


def digest_of(place: Path) -> str:
    return folds_digest(read_folds(place / "input" / "datasets" / "tiny" / "folds.csv"))


def make_experiment(place: Path, name: str, seed: int) -> None:
    """What --data_fold all leaves of a network, here of random logits that know a little."""
    folder = place / "output" / "results" / name
    folder.mkdir(parents=True)
    flags = {"data_dataset": "tiny", "data_input_folder": str(place / "input")}
    (folder / "config.yaml").write_text(Config().with_flags(**flags, data_fold="all").to_yaml())
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    network = RSNAModel("test_resnet")
    labels = table.labels(np.arange(len(table)), LABELS)
    make_predictor(
        network=network,
        model=network.specification,
        transform=small_transform().with_normalization(0.5, 0.5),
        prior=training_prior(labels),
        training={"dataset": "tiny", "fold": "all", "folds_sha256": digest_of(place)},
    ).save(folder / "predictor")
    rng = np.random.default_rng(seed)
    is_test = table.frame["split"].eq("test").to_numpy()
    logits = 2 * np.nan_to_num(labels) - 1 + rng.normal(0, 1.5, labels.shape)
    fold_of = table.frame["patient_id"].str.removeprefix("patient").astype(int) % 3
    parts = [
        build_predictions(table.frame[chosen], logits[chosen], LABELS, fold, name)
        for fold in range(3)
        for chosen in [(~is_test & (fold_of == fold)).to_numpy()]
    ]
    oof = pd.concat(parts, ignore_index=True).sample(frac=1, random_state=seed)
    write_predictions(folder / "predictions" / "oof.parquet", oof, LABELS)
    test = build_predictions(table.frame[is_test], logits[is_test], LABELS, None, name)
    write_predictions(folder / "predictions" / "test.parquet", test, LABELS)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("levels")
    dataset = make_tiny_dataset(place / "input" / "datasets" / "tiny", 10, 8, num_folds=3)
    frame = pd.read_parquet(dataset / "slices.parquet")
    is_test = frame["patient_id"] == "patient9"
    frame.loc[is_test, "split"] = "test"
    frame.loc[is_test, list(LABELS)] = np.nan
    frame.loc[frame.index[is_test][3], ["status", "store_index", "store_file"]] = [
        "bad",
        None,
        None,
    ]
    frame.to_parquet(dataset / "slices.parquet")
    folds = pd.read_csv(dataset / "folds.csv")
    folds[folds["patient_id"] != "patient9"].to_csv(dataset / "folds.csv", index=False)
    for seed, name in enumerate(("0001", "0002")):
        make_experiment(place, name, seed)
    return place


def run(monkeypatch, place: Path, *flags: str) -> int:
    places = ["--output_dir", str(place / "output"), "--n_jobs", "0"]
    monkeypatch.setattr(sys, "argv", ["scripts/second_level.py", *places, *flags])
    return status_of(second_level.main)


def read_oof(place: Path, name: str) -> pd.DataFrame:
    path = place / "output" / "results" / name / "predictions" / "oof.parquet"
    return read_predictions(path, LABELS).set_index("image_id").sort_index()


@pytest.mark.parametrize("method", ["smooth", pytest.param("boosting", marks=pytest.mark.long)])
def test_an_experiment_is_left_that_stands_alone(monkeypatch, place, tmp_path, method):
    more = TREES if method == "boosting" else []
    flags = ["--experiment_id", method, "--sl_experiments", "0001,0002", *more]
    assert run(monkeypatch, place, *flags) == 0
    folder = place / "output" / "results" / method
    oof, below = read_oof(place, method), read_oof(place, "0001")
    pd.testing.assert_series_equal(oof["fold"], below["fold"])
    assert set(oof["experiment_id"]) == {method} and set(oof["view"]) == {"mean"}

    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    labels = table.labels(table.rows_of(oof.index), LABELS)
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = weighted_log_loss(labels, oof[list(LABELS)], LABEL_WEIGHTS)
    assert metrics["weighted_log_loss"] == pytest.approx(expected, abs=1e-12)
    assert metrics["selected"] is False and set(metrics["members"]) == {"0001", "0002"}
    if method == "smooth":  # no widths at all are always among those to choose from
        assert metrics["weighted_log_loss"] < min(metrics["members"].values())
    assert recorded_config(folder).second_level.sl_method == method

    again = evaluate_experiment(folder, table).metrics
    for name in ("weighted_log_loss", "prior_weighted_log_loss", "interval", "auc"):
        assert again[name] == metrics[name], name
    assert (folder / "report.html").is_file()
    test = pd.read_parquet(folder / "predictions" / "test.parquet")
    assert len(test) == 8 and test["fold"].isna().all()

    shutil.copytree(folder / "predictor", tmp_path / "copy")
    predictor = load_predictor(tmp_path / "copy", build_model)
    rows = np.flatnonzero(table.frame["patient_id"].isin(["patient9", "patient2"]).to_numpy())
    result = predictor.predict_rows(table, rows)
    assert result.unreadable.tolist() == (~table.readable[rows]).tolist()
    # a part of a series is predicted as in the whole of it
    part = predictor.predict_rows(table, rows[2:5])
    np.testing.assert_allclose(part.logits, result.logits[2:5], atol=1e-5)
    members = [member.predict_rows(table, rows).logits for member in predictor.members]
    readable = table.readable[rows]
    stacked = np.stack(members, axis=1)[readable]
    again = mean_of_levels(predictor.levels, level_inputs(table, rows[readable], stacked))
    np.testing.assert_allclose(result.logits[readable], again, atol=1e-5)


def test_rows_of_a_fold_owe_nothing_to_its_labels(monkeypatch, place, tmp_path):
    """With other labels in fold 0, its own predictions stay, those of the other folds change."""
    copy = tmp_path / "place"
    shutil.copytree(place / "input", copy / "input")
    for name in ("0001", "0002"):
        shutil.copytree(place / "output" / "results" / name, copy / "output" / "results" / name)
    flags = ["--experiment_id", "first", "--sl_experiments", "0001", *TREES]
    flags += ["--data_input_folder", str(copy / "input")]
    assert run(monkeypatch, copy, *flags) == 0
    path = copy / "input" / "datasets" / "tiny" / "slices.parquet"
    frame = pd.read_parquet(path)
    fold_0 = read_oof(copy, "first").query("fold == 0").index
    chosen = frame["image_id"].isin(fold_0)
    frame.loc[chosen, list(LABELS)] = 1 - frame.loc[chosen, list(LABELS)]
    frame.to_parquet(path)
    flags[1] = "second"
    assert run(monkeypatch, copy, *flags) == 0
    one, other = (read_oof(copy, name)[[*LABELS, "fold"]] for name in ("first", "second"))
    same = (one == other).all(axis=1)
    assert same[one["fold"] == 0].all() and not same[one["fold"] != 0].any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--sl_experiments is missing"),
        (["--sl_experiments", "nowhere"], "no experiment at"),
        (["--sl_experiments", "0001,0001"], "must be different experiments"),
        (["--sl_experiments", "0001", "--experiment_id", "0002"], "0002 exists"),
        (["--sl_experiments", "0001", "--sl_smooth_widths", "[0]"], "each greater than 0"),
    ],
)
def test_unusable_flags_are_refused(monkeypatch, place, capsys, flags, message):
    assert run(monkeypatch, place, *flags) == 2
    assert message in capsys.readouterr().err


def test_planted_leaks_are_refused(monkeypatch, place, tmp_path, capsys):
    """Predictions of a model that saw the patient, and folds made again after the training."""
    copy = tmp_path / "place"
    shutil.copytree(place / "input", copy / "input")
    source = place / "output" / "results" / "0001"
    shutil.copytree(source, copy / "output" / "results" / "0001")
    flags = ["--sl_experiments", "0001", "--data_input_folder", str(copy / "input")]
    path = copy / "output" / "results" / "0001" / "predictions" / "oof.parquet"
    oof = pd.read_parquet(path)
    is_moved = oof["patient_id"] == "patient3"
    oof.assign(fold=oof["fold"].where(~is_moved, 2)).to_parquet(path)
    assert run(monkeypatch, copy, *flags) == 2
    assert "8 rows of 1 patient from a model that was" in capsys.readouterr().err
    oof.to_parquet(path)
    folds_file = copy / "input" / "datasets" / "tiny" / "folds.csv"
    folds = pd.read_csv(folds_file)
    folds.assign(fold=(folds["fold"] + 1) % 3).to_csv(folds_file, index=False)
    assert run(monkeypatch, copy, *flags) == 2
    assert "were made with other folds" in capsys.readouterr().err
    assert not (copy / "output" / "results" / "0003").exists()


def test_one_fold_is_not_enough(monkeypatch, place, tmp_path, capsys):
    copy = tmp_path / "results" / "0001"
    shutil.copytree(place / "output" / "results" / "0001", copy)
    path = copy / "predictions" / "oof.parquet"
    oof = pd.read_parquet(path)
    oof[oof["fold"] == 1].to_parquet(path)
    flags = ["--sl_experiments", "0001", "--output_dir", str(tmp_path)]
    assert run(monkeypatch, place, *flags) == 2
    assert "rows of one fold alone" in capsys.readouterr().err
