"""The predictor of all folds is the mean of its members, and stands alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from predictor_factory import build_network, make_dataset, make_predictor
from scipy.special import expit

from common.errors import InputError
from common.predictors.base import PredictOptions
from common.predictors.folds import FoldsPredictor
from common.predictors.loading import load_predictor
from common.scoring.predictions import probabilities_of
from common.slices.table import SliceTable
from rsna_task import LABELS

MODEL = {"name": "tiny", "num_classes": 6, "in_chans": 3}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    return make_dataset(tmp_path_factory.mktemp("dataset"), num_patients=3)


def make_folds(**changes) -> FoldsPredictor:
    members = {
        fold: make_predictor(
            network=build_network({**MODEL, "seed": fold}), prior=np.full(6, 0.1 * (fold + 1))
        )
        for fold in (0, 1, 2)
    }
    return FoldsPredictor(members, **changes)


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_it_is_the_mean_of_its_members(table, mean):
    folds = make_folds(mean=mean)
    rows = np.arange(len(table))
    options = {"views": ("plain", "rot90", "random_1"), "seed": 3}
    result = folds.predict_rows(table, rows, PredictOptions(**options))
    parts = np.array(
        [
            m.predict_rows(table, rows, PredictOptions(**options)).logits
            for m in folds.members.values()
        ]
    )
    seen = ~result.unreadable
    parts = parts[:, seen].astype(np.float64)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    found = result.logits[seen]
    if mean == "logits":
        np.testing.assert_allclose(found, parts.mean(axis=0), atol=1e-6)
    else:
        np.testing.assert_allclose(expit(found), expit(parts).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("lacking", [None, 1])
def test_logits_of_series_are_the_mean_where_all_members_have_their_own(
    table, monkeypatch, lacking
):
    of_series = np.random.default_rng(0).normal(size=(3, len(table), 6)).astype(np.float32)
    parts_of = FoldsPredictor._predict_parts

    def with_series(self, *arguments):
        results, unreadable = parts_of(self, *arguments)
        pairs = enumerate(zip(results, of_series, strict=True))
        return [
            one if fold == lacking else replace(one, series_logits=own)
            for fold, (one, own) in pairs
        ], unreadable

    monkeypatch.setattr(FoldsPredictor, "_predict_parts", with_series)
    found = make_folds().predict_rows(table, np.arange(len(table))).series_logits
    if lacking is None:
        np.testing.assert_allclose(found, of_series.mean(axis=0), atol=1e-6)
    else:
        assert found is None


def test_what_can_not_be_read_has_the_mean_prior(table):
    result = make_folds().predict_rows(table, np.arange(len(table)))
    np.testing.assert_array_equal(result.unreadable, ~table.readable)
    probabilities = probabilities_of(result.logits[result.unreadable])
    np.testing.assert_allclose(probabilities, 0.2, rtol=1e-5)


def test_the_folder_stands_alone(tmp_path, table):
    folds = make_folds(mean="probabilities", threshold=0.4, training={"experiment_id": "0003"})
    folds.save(tmp_path / "predictor")
    shutil.move(tmp_path / "predictor", tmp_path / "elsewhere")
    loaded = load_predictor(tmp_path / "elsewhere", build_network)
    assert isinstance(loaded, FoldsPredictor)
    assert (list(loaded.members), loaded.mean, loaded.threshold) == (
        [0, 1, 2],
        "probabilities",
        0.4,
    )
    assert loaded.training == {"experiment_id": "0003"}
    assert tuple(loaded.label_names) == LABELS
    rows = np.arange(len(table))
    before, after = (one.predict_rows(table, rows).logits for one in (folds, loaded))
    np.testing.assert_array_equal(before, after)
    shutil.rmtree(tmp_path / "elsewhere" / "fold_1")
    with pytest.raises(InputError, match=r"no predictor at .*fold_1"):
        load_predictor(tmp_path / "elsewhere", build_network)


def test_features_are_those_of_a_member(table):
    with pytest.raises(InputError, match="no features of slices"):
        make_folds().predict_rows(table, [0], PredictOptions(with_features=True))


def test_a_member_of_other_labels_is_refused(tmp_path):
    make_folds().save(tmp_path / "p")
    path = tmp_path / "p" / "predictor.json"
    content = json.loads(path.read_text())
    for names in (content["label_names"][::-1], sorted(content["label_names"])):
        path.write_text(json.dumps({**content, "label_names": names}))
        with pytest.raises(InputError, match="fold_0 has other labels"):
            load_predictor(tmp_path / "p", build_network)
