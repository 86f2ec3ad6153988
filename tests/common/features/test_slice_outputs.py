"""Outputs of slice experiments as study networks read them, where files are not as they should."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from slice_experiments import make_slice_experiment
from tiny_dataset import make_tiny_dataset

from common.errors import InputError
from common.features import slice_outputs
from common.features.slice_outputs import FeaturesInMemory, load_slice_outputs
from common.slices.table import SliceTable
from rsna_task import LABELS


@pytest.fixture
def place(tmp_path) -> Path:
    make_tiny_dataset(tmp_path / "input" / "datasets" / "tiny", num_patients=2, num_slices=3)
    return tmp_path


def test_rows_of_no_fold_are_no_outputs(place):
    folder = make_slice_experiment(place, "0001", "tiny")
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    path = folder / "predictions" / "oof.parquet"
    frame = pd.read_parquet(path)
    frame["fold"] = frame["fold"].astype("Int64")
    frame.loc[1, "fold"] = pd.NA
    is_known = frame["fold"].notna().to_numpy()
    frame.to_parquet(path)
    for views in (None, ("plain",)):
        found = load_slice_outputs(folder, table, LABELS, views)
        rows = table.rows_of(frame["image_id"])
        np.testing.assert_array_equal(found.is_known[rows], is_known)


def test_a_damaged_manifest_is_told_with_its_name(place):
    folder = make_slice_experiment(place, "0001", "tiny")
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    for text in ('{"folds_sha', "[1]"):
        (folder / "features" / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json can't be read"):
            load_slice_outputs(folder, table, LABELS)


@pytest.mark.parametrize("num_rows", [1, 10, 25])
def test_scaling_is_mean_and_spread_also_where_the_spread_is_small(num_rows, monkeypatch):
    monkeypatch.setattr(slice_outputs, "_BLOCK_ROWS", 7)
    values = 1e3 + 1e-2 * np.random.default_rng(2).normal(size=(30, 4))
    values = values.astype(np.float32)
    rows = np.random.default_rng(3).permutation(30)[:num_rows]
    found = slice_outputs.measure_scaling(FeaturesInMemory(values), rows)
    chosen = values[rows].astype(np.float64)
    np.testing.assert_allclose(found.mean, chosen.mean(axis=0), rtol=1e-6)
    least = slice_outputs._LEAST_SPREAD
    np.testing.assert_allclose(found.spread, np.maximum(chosen.std(axis=0), least), rtol=1e-5)
