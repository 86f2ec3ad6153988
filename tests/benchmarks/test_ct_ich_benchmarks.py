"""Pooled scores of some folds, and the temperature of another source."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score
from tiny_dataset import make_tiny_dataset

from benchmarks.ct_ich_ablation import fit_temperature
from benchmarks.pooled_folds import pool
from common.errors import InputError
from common.files import write_json
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from common.tables import write_parquet
from rsna.evaluation.scoring import score_line, score_lines
from rsna_task import LABEL_WEIGHTS, LABELS


@pytest.fixture
def table(tmp_path: Path) -> SliceTable:
    return SliceTable.load(make_tiny_dataset(tmp_path / "data", num_patients=24))


def write_blend(folder: Path, table: SliceTable) -> pd.DataFrame:
    """Out-of-fold predictions of slices in three folds, and calibrated ones of studies."""
    rng = np.random.default_rng(3)
    labels = table.labels(np.arange(len(table)), LABELS)
    logits = logit(0.3) + 1.5 * (labels - 0.5) + rng.normal(0, 1, labels.shape)
    patients = table.frame["patient_id"].str.removeprefix("patient").astype(int).to_numpy()
    parts = [
        build_predictions(table.frame[patients % 3 == k], logits[patients % 3 == k], LABELS, k, "x")
        for k in range(3)
    ]
    frame = pd.concat(parts, ignore_index=True)
    write_predictions(folder / "predictions" / "oof.parquet", frame, LABELS)
    by_study = table.frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    studies = by_study[["study_id", "patient_id"]].copy()
    for name in LABELS:
        studies[f"label_{name}"] = by_study[name].astype(float)
        studies[f"raw_{name}"] = 0.5
        studies[f"calibrated_{name}"] = rng.uniform(0.1, 0.9, len(studies))
    write_parquet(folder / "predictions" / "studies.parquet", studies)
    by_label = dict.fromkeys(LABELS, 0.2)
    content = {
        "format_version": 1,
        "kind": "blend",
        "label_names": list(LABELS),
        "prior": by_label,
        "training": {},
        "threshold": 0.5,
        "study_prior": dict.fromkeys(LABELS, 0.4),
        "fold_priors": {str(k): dict.fromkeys(LABELS, 0.1 * (k + 1)) for k in range(3)},
    }
    write_json(folder / "predictor" / "predictor.json", content)
    return studies


def weighted(labels: np.ndarray, p: np.ndarray) -> float:
    losses = [log_loss(labels[:, k], p[:, k], labels=[0, 1]) for k in range(len(LABELS))]
    return float(np.average(losses, weights=LABEL_WEIGHTS))


def test_some_folds_of_a_blend_are_scored_with_its_own_studies(table, tmp_path) -> None:
    studies = write_blend(tmp_path / "blend", table)
    frame = pd.read_parquet(tmp_path / "blend" / "predictions" / "oof.parquet")
    scored = pool([tmp_path / "blend"], table, "oof", selected=False, folds=(0, 2))
    own = frame[frame["fold"] != 1]
    labels = table.labels(table.rows_of(own["image_id"]), LABELS)
    probabilities = own[list(LABELS)].to_numpy()
    values = scored.metrics
    assert values["weighted_log_loss"] == pytest.approx(weighted(labels, probabilities))
    assert values["auc"]["any"] == pytest.approx(roc_auc_score(labels[:, -1], probabilities[:, -1]))
    prior = np.tile((0.1 * (own["fold"].to_numpy() + 1))[:, None], 6)
    assert values["prior_weighted_log_loss"] == pytest.approx(weighted(labels, prior))
    own_studies = studies[studies["patient_id"].isin(own["patient_id"])]
    of_studies = own_studies[[f"label_{name}" for name in LABELS]].to_numpy()
    p = own_studies[[f"calibrated_{name}" for name in LABELS]].to_numpy()
    study = values["study"]
    assert study["weighted_log_loss"] == pytest.approx(weighted(of_studies, p))
    share = np.tile(of_studies.mean(axis=0), (len(p), 1))
    clipped = np.clip(share, 0.5 / len(p), 1 - 0.5 / len(p))
    assert study["scored_prior_weighted_log_loss"] == pytest.approx(weighted(of_studies, clipped))
    with pytest.raises(InputError, match="--folds 7: no row"):
        pool([tmp_path / "blend"], table, "oof", selected=False, folds=(7,))


def test_a_line_has_each_score_with_its_interval(table, tmp_path) -> None:
    write_blend(tmp_path / "blend", table)
    values = pool([tmp_path / "blend"], table, "oof", selected=False).metrics
    slices, studies = score_lines("title", values)
    for line, scores in ((slices, values), (studies, values["study"])):
        of, loss = scores["interval"], scores["weighted_log_loss"]
        for key in ("scored_prior", "prior"):
            low, high = of[f"weighted_log_loss_to_{key}"]
            ratio = loss / scores[f"{key}_weighted_log_loss"]
            assert f"{ratio:.2f} ({low:.2f} to {high:.2f}) of the" in line
        area, interval = scores["auc"]["any"], of["auc"]["any"]
        spread = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        assert line.endswith(f"AUC of any {area:.3f}{spread}") if area else "AUC" not in line
        low, high = of["weighted_log_loss"]
        assert f"weighted log loss {loss:.4f} ({low:.3f} to {high:.3f})" in line
    assert score_line("none", {"weighted_log_loss": None, "study": {}}).endswith("loss -")


def test_the_temperature_is_that_of_the_logits() -> None:
    """Labels drawn from logits / 2: a grid finds the same minimum of the loss."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (4000, len(LABELS)))
    labels = (rng.random(logits.shape) < expit(logits / 2)).astype(float)
    found = fit_temperature(labels, logits)
    grid = np.linspace(1.9, 2.1, 41)
    losses = [weighted(labels, expit(logits / t)) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.006)
    assert found == pytest.approx(2, abs=0.1)
