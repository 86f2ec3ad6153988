"""Measures how much of the demo a detector of brightness can see: histograms, no shapes.

A logistic regression per label on the 64-bin histogram of the brain window (0 to 80 HU), its mean
and the center of mass of the windowed slice is fitted on the patients outside each fold and scored
on those inside. Its weighted log loss should stay above 0.85 of the constant prior's: a network
that does better has learnt what hemorrhage looks like.

    python benchmarks/demo_difficulty.py --data_dataset demo

Takes about a minute. Prints a table and, as its last line, the figures as JSON.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from common.cli import run_script
from common.scoring.metrics import row_log_losses, training_prior
from common.slices.folds import read_folds
from common.slices.table import SliceTable
from rsna_task import LABEL_WEIGHTS, LABELS

Floats = NDArray[np.float64]

NUM_BINS = 64
WINDOW_HU = (0.0, 80.0)
# The strength of the penalty is chosen on the scored rows, in favour of the histogram.
PENALTIES = (0.001, 0.01, 0.1, 1.0)


def histogram_features(image_hu: NDArray[np.int16]) -> Floats:
    """Return the features of one slice (rows, columns), as shares: (NUM_BINS + 3,)."""
    image = image_hu.astype(np.float32)
    counts = np.histogram(image, NUM_BINS, WINDOW_HU)[0] / image.size
    mean = counts @ np.arange(NUM_BINS) / max(float(counts.sum()), 1e-9) / NUM_BINS
    windowed = np.clip(image, *WINDOW_HU)
    total = max(float(windowed.sum()), 1e-9)
    center = [
        windowed.sum(axis=1 - axis) @ np.arange(size) / total / size
        for axis, size in enumerate(image.shape)
    ]
    return np.array([*counts, mean, *center])


def out_of_fold(
    features: Floats, labels: NDArray[np.int_], folds: NDArray[np.int_], penalty: float
) -> tuple[Floats, Floats]:
    """Return out-of-fold probabilities (rows, labels) of the regression and of the prior."""
    fitted, prior = np.zeros(labels.shape), np.zeros(labels.shape)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        prior[test] = training_prior(labels[train])
        for column in range(labels.shape[1]):
            if len(np.unique(labels[train, column])) < 2:
                fitted[test, column] = prior[test, column]
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(features[train], labels[train, column])
            fitted[test, column] = model.predict_proba(features[test])[:, 1]
    return fitted, prior


def measure(features: Floats, labels: NDArray[np.int_], folds: NDArray[np.int_]) -> dict[str, Any]:
    """Return the weighted log loss of the prior, of the best regression, and their ratio."""
    tries = [out_of_fold(features, labels, folds, penalty) for penalty in PENALTIES]
    by_label = [row_log_losses(labels, fitted).mean(axis=0) for fitted, _ in tries]
    losses = np.average(by_label, axis=1, weights=LABEL_WEIGHTS)
    best = int(np.argmin(losses))
    prior_by_label = row_log_losses(labels, tries[best][1]).mean(axis=0)
    prior_loss = float(np.average(prior_by_label, weights=LABEL_WEIGHTS))
    return {
        "num_slices": len(labels),
        "prior_weighted_log_loss": prior_loss,
        "histogram_weighted_log_loss": float(losses[best]),
        "ratio": float(losses[best]) / prior_loss,
        "penalty": PENALTIES[best],
        "ratio_by_label": dict(zip(LABELS, (by_label[best] / prior_by_label).tolist())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data_input_folder", type=Path, default=Path("input"))
    parser.add_argument("--data_dataset", default="demo")
    arguments = parser.parse_args()
    folder = arguments.data_input_folder / "datasets" / arguments.data_dataset
    table = SliceTable.load(folder)
    folds = read_folds(folder / "folds.csv").set_index("image_id")["fold"]
    folds = folds.reindex(pd.Index(table.frame["image_id"]))
    known = table.frame[list(LABELS)].notna().all(axis=1).to_numpy()
    rows = np.flatnonzero(folds.notna().to_numpy() & known & table.readable)
    features = np.stack([histogram_features(table.image_hu(int(row))) for row in rows])
    labels = table.frame.loc[rows, list(LABELS)].to_numpy(dtype=int)
    result = measure(features, labels, folds.to_numpy()[rows].astype(int))
    print(f"{'label':<18}{'prevalence':>11}{'of the prior':>14}")
    for column, (name, ratio) in enumerate(result["ratio_by_label"].items()):
        print(f"{name:<18}{labels[:, column].mean():>11.3f}{ratio:>14.3f}")
    print_figures(result)


if __name__ == "__main__":
    run_script(main)
