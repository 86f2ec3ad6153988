"""A study network asks a slice network once: what it said of the test rows is kept."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feature_files import write_features
from slice_experiments import make_slice_experiment
from tiny_dataset import make_tiny_dataset

from common.experiment import Experiment
from common.features.slice_outputs import Scaling, load_slice_outputs, load_test_outputs
from common.models import build_series_model
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.predictors.sequence import StudyPredictor
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from rsna_model import build_model
from rsna_task import LABEL_WEIGHTS, LABELS

FOLD = 1


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A dataset whose last two patients are test, and a slice experiment that predicted them."""
    folder = tmp_path_factory.mktemp("kept")
    dataset = make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    frame = pd.read_parquet(dataset / "slices.parquet")
    is_test = frame["patient_id"].isin(["patient4", "patient5"])
    frame["split"] = frame["split"].mask(is_test, "test")
    frame.to_parquet(dataset / "slices.parquet")
    folds = pd.read_csv(dataset / "folds.csv")
    folds[~folds["image_id"].isin(frame.loc[is_test, "image_id"])].to_csv(
        dataset / "folds.csv", index=False
    )
    experiment = Experiment(make_slice_experiment(folder, "0001", "tiny"))
    table, own = SliceTable.load(dataset), experiment.fold(FOLD)
    rows = np.flatnonzero(is_test)
    predictor = load_predictor(own.predictor, build_model)
    found = predictor.predict_rows(table, rows, PredictOptions(with_features=True))
    of_rows = table.frame.iloc[rows]
    kept = build_predictions(of_rows, found.logits, LABELS, FOLD, "0001/fold_1")
    write_predictions(own.predictions_file("test"), kept, LABELS)
    block = (of_rows["image_id"].to_numpy(), found.features, FOLD, "plain")
    write_features(own.features, "test", [block], {"experiment": "0001"})
    return folder


@pytest.fixture
def table(place) -> SliceTable:
    return SliceTable.load(place / "input" / "datasets" / "tiny")


@pytest.fixture
def rows(table) -> np.ndarray:
    return np.flatnonzero(table.frame["split"].eq("test"))


def make_study(place: Path, table: SliceTable, with_features: bool) -> StudyPredictor:
    folder = place / "output" / "results" / "0001"
    views = ("plain",) if with_features else None
    scaling: Scaling | None = None
    dims: list[int] = []
    if with_features:
        outputs = load_slice_outputs(folder, table, LABELS, views)
        assert outputs.features is not None
        scaling, dims = outputs.scaling[FOLD], [outputs.features.dim]
    model = {"name": "study-bigru", "num_labels": 6, "dim": 8, "feature_dims": dims}
    return StudyPredictor(
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
        network=build_series_model({**model, "num_networks": 1}).eval(),
        slice_predictors=[load_predictor(folder / f"fold_{FOLD}" / "predictor", build_model)],
        scalings=[scaling],
        slice_views=[(("plain",), "logits")],
        kept=[load_test_outputs(folder, FOLD, table, views, scaling)],
        table=table,
    )


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many rows slice networks are asked for, call by call."""
    calls: list[int] = []
    predict = StudyPredictor._outputs_of

    def counted(self, number, table, rows, found):
        calls.append(len(rows))
        return predict(self, number, table, rows, found)

    monkeypatch.setattr(StudyPredictor, "_outputs_of", counted)
    return calls


@pytest.mark.parametrize("with_features", [False, True])
def test_what_is_kept_is_what_would_be_computed(place, table, rows, asked, with_features):
    study, counted = make_study(place, table, with_features), []
    options = PredictOptions(on_batch=counted.append)
    found = study.predict_rows(table, rows, options)
    assert not asked and sum(counted) == len(rows) == 8
    fresh = replace(study, kept=()).predict_rows(table, rows)
    assert asked == [8]
    np.testing.assert_allclose(found.logits, fresh.logits, atol=1e-6)
    assert not found.unreadable.any()


def test_other_rows_views_and_tables_are_computed(place, table, rows, asked):
    study = make_study(place, table, with_features=True)
    study.predict_rows(table, np.arange(4))
    study.predict_rows(table, rows, PredictOptions(views=("plain", "flip_lr")))
    study.predict_rows(SliceTable.load(table.folder), rows)
    assert asked == [4, 8, 8]


def test_rows_that_had_the_prior_are_no_outputs(place, table, rows, asked):
    own = Experiment(place / "output" / "results" / "0001").fold(FOLD)
    path = own.predictions_file("test")
    whole = path.read_bytes()
    frame = pd.read_parquet(path)
    frame.loc[2, [f"logit_{label}" for label in LABELS]] = np.float32(np.log(0.2 / 0.8))
    frame.to_parquet(path)
    try:
        kept = make_study(place, table, with_features=False).kept[0]
        assert kept is not None and kept.is_known.sum() == 7
        make_study(place, table, with_features=True).predict_rows(table, rows)
    finally:
        path.write_bytes(whole)
    assert asked == [8]


def test_files_that_are_missing_or_damaged_are_computed_again(place, table, caplog):
    own = Experiment(place / "output" / "results" / "0001").fold(FOLD)
    assert load_test_outputs(own.folder.parent, 0, table, None, None) is None
    assert not caplog.records
    path = own.features / "test.b2nd"
    path.rename(path.with_suffix(".away"))
    try:
        assert load_test_outputs(own.folder.parent, FOLD, table, ("plain",), None) is None
        assert "computed again" in caplog.text
    finally:
        path.with_suffix(".away").rename(path)
    assert load_test_outputs(own.folder.parent, FOLD, table, ("plain", "flip_lr"), None) is None


def test_outputs_of_pixels_before_the_dataset_was_prepared_again_are_not_used(place, table, caplog):
    folder = place / "output" / "results" / "0001"
    assert load_test_outputs(folder, FOLD, table, None, None) is not None
    slices, test = table.folder / "slices.parquet", folder / "fold_1/predictions/test.parquet"
    before = slices.stat().st_mtime_ns
    os.utime(slices, ns=(test.stat().st_mtime_ns + 1,) * 2)
    try:
        assert load_test_outputs(folder, FOLD, table, None, None) is None
        assert "prepared again since" in caplog.text
    finally:
        os.utime(slices, ns=(before, before))
