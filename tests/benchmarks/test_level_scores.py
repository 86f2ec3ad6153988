"""Levels are compared on the same slices; steps are paired by patient and seed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from sklearn.metrics import log_loss as sklearn_log_loss
from tiny_dataset import make_tiny_dataset

from benchmarks.levels.level_scores import PRIOR, Losses, compare, read_losses, table_lines
from common.errors import InputError
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from rsna_task import LABEL_WEIGHTS, LABELS


@pytest.fixture
def table(tmp_path: Path) -> SliceTable:
    return SliceTable.load(make_tiny_dataset(tmp_path / "data", num_patients=8))


def write_level(folder: Path, table: SliceTable, strength: float, seed: int = 0) -> np.ndarray:
    """Predictions in an order of their own; returns them by the rows of the table."""
    rng = np.random.default_rng(seed)
    labels = table.labels(np.arange(len(table)), LABELS)
    logits = logit(0.3) + strength * (labels - 0.5) + rng.normal(0, 0.3, labels.shape)
    order = rng.permutation(len(table))
    parts = []
    for fold in (0, 1):
        patients = table.frame["patient_id"].str.removeprefix("patient").astype(int)
        rows = order[(patients.to_numpy() % 2 == fold)[order]]
        parts.append(build_predictions(table.frame.iloc[rows], logits[rows], LABELS, fold, "x"))
    write_predictions(folder / "predictions" / "oof.parquet", pd.concat(parts), LABELS)
    return 1 / (1 + np.exp(-logits.astype(np.float32).astype(np.float64)))


def test_losses_are_those_of_scikit_learn(table: SliceTable, tmp_path: Path) -> None:
    folders, expected = {"weak": [], "strong": []}, {}
    for level, strength in (("weak", 1.0), ("strong", 3.0)):
        for seed in (1, 2):
            folders[level].append(tmp_path / f"{level}{seed}")
            p = write_level(folders[level][-1], table, strength, seed)
            labels = table.labels(np.arange(len(table)), LABELS)
            by_label = [sklearn_log_loss(labels[:, i], p[:, i], labels=[0, 1]) for i in range(6)]
            expected.setdefault(level, []).append(np.average(by_label, weights=LABEL_WEIGHTS))
    found = compare(read_losses(table, folders), [("weak", "strong")])
    for level, values in expected.items():
        np.testing.assert_allclose(found["levels"][level]["by_seed"], values, rtol=1e-9)
        assert found["levels"][level]["mean"] == pytest.approx(np.mean(values))
    step = found["steps"]["weak - strong"]
    difference = np.mean(expected["weak"]) - np.mean(expected["strong"])
    assert step["mean"] == pytest.approx(difference)
    assert step["excludes_zero"] and step["interval"][0] < difference < step["interval"][1]
    assert found["levels"][PRIOR]["to_prior"] == 1
    lines = table_lines(found)
    assert any(line.startswith("| weak - strong | +") for line in lines)


def test_what_is_paired_has_a_narrow_step() -> None:
    """Patients differ much, levels little and everywhere alike."""
    rng = np.random.default_rng(0)
    num_slices = np.full(50, 10.0)
    own = rng.uniform(1, 9, (1, 50))
    losses = Losses({"a": own, "b": own - 0.5, PRIOR: own + 5}, num_slices)
    found = compare(losses, [("a", "b"), ("b", "a")])
    np.testing.assert_allclose(found["steps"]["a - b"]["interval"], [0.05, 0.05])
    np.testing.assert_allclose(found["steps"]["b - a"]["interval"], [-0.05, -0.05])
    low, high = found["levels"]["a"]["interval"]
    assert high - low > 0.1


def test_chance_is_not_called_a_step() -> None:
    rng = np.random.default_rng(1)
    own = rng.uniform(1, 9, (3, 40))
    losses = Losses(
        {"a": own, "b": own + rng.normal(0, 1, own.shape), PRIOR: own}, np.full(40, 10.0)
    )
    losses.by_level["b"] -= losses.by_level["b"].mean() - own.mean()
    assert not compare(losses, [("a", "b")])["steps"]["a - b"]["excludes_zero"]


def test_other_slices_are_refused(table: SliceTable, tmp_path: Path) -> None:
    write_level(tmp_path / "one", table, 1.0)
    write_level(tmp_path / "two", table, 1.0)
    path = tmp_path / "two" / "predictions" / "oof.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(InputError, match="b: predicts other slices"):
        read_losses(table, {"a": [tmp_path / "one"], "b": [tmp_path / "two"]})
