"""Measure what calibrators fitted to few patients do to the log loss of other patients.

    python benchmarks/calibration.py [--cohorts 100]

Cohorts are drawn by a seeded generator: slices of patients, some with a label, and the logits of a
network of any quality, too far from 0 or too near, too high or too low. Each calibrator is fitted
to a cohort and scored on 1,000 other patients. Printed by size of the cohort: the log loss after
calibration over that before (mean, 99th percentile, largest), the share of cohorts that it makes
worse by more than 2 %, and how often it is left out. `best` is a temperature and a bias fitted to
the other patients themselves.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from common.scoring.calibration import fit_calibration
from common.scoring.metrics import log_loss
from common.scoring.study_calibration import (
    StudyFeatures,
    fit_study_calibration,
    study_features,
)

SIZES = ((5, 15), (15, 60), (60, 300), (1000, 2000))
NUM_OTHERS, SEED = 1000, 4667
Slices = tuple[NDArray, NDArray, NDArray]


def cohorts(num: int, low: int, high: int) -> Iterator[tuple[Slices, Slices]]:
    """Yield labels (n, 1), logits (n, 1) and patients (n,) of a cohort, and of others like it."""
    rng = np.random.default_rng([SEED, low])
    for _ in range(num):
        separation, spread = rng.uniform(1, 4), rng.uniform(0, 1)
        scale = np.exp(rng.normal(0, 0.6)) if rng.random() < 0.7 else 1.0
        shift = rng.normal() if rng.random() < 0.7 else 0.0
        rate = np.exp(rng.uniform(np.log(0.05), np.log(0.6)))
        sides = []
        for size in (int(np.exp(rng.uniform(np.log(low), np.log(high)))), NUM_OTHERS):
            patients = np.repeat(np.arange(size), rng.integers(15, 35, size))
            has_it = (rng.random(size) < rate)[patients]
            y = ((rng.random(len(patients)) < 0.3) & has_it).astype(float)
            latent = separation * (y - 0.5) + rng.normal(0, 1, len(y))
            latent += spread * rng.normal(0, 1, size)[patients]
            exact = separation * latent / (1 + spread**2) + logit(0.3 * rate)
            sides.append((y[:, None], (scale * exact + shift)[:, None], patients))
        yield sides[0], sides[1]


def studies(slices: Slices) -> tuple[StudyFeatures, NDArray]:
    labels, logits, patients = slices
    num = patients.max() + 1
    of_studies = np.zeros((num, 1))
    np.maximum.at(of_studies[:, 0], patients, labels[:, 0])
    return study_features(expit(logits), patients, num), of_studies


def losses(cohort: Slices, others: Slices) -> dict[str, tuple[float, float]]:
    """Return by calibrator the log loss of the others before and after."""
    y, raw = others[0][:, 0], others[1]
    found = {}
    for name, rows in (("temperature", cohort), ("isotonic", cohort), ("best", others)):
        kind = "temperature" if name == "best" else name
        after = fit_calibration(kind, *rows).apply(raw)
        found[name] = (log_loss(y, expit(raw[:, 0])), log_loss(y, expit(after[:, 0])))
    features, labels = studies(cohort)
    unseen, wanted = studies(others)
    for name, of, y_of in (("studies", features, labels), ("best, studies", unseen, wanted)):
        after = fit_study_calibration(of, y_of).apply(unseen)[:, 0]
        before = log_loss(wanted[:, 0], unseen.largest[:, 0])
        found[name] = (before, log_loss(wanted[:, 0], after))
    return found  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=100)
    num = parser.parse_args().cohorts
    print(f"{'patients':<13}{'calibrator':<15}   mean   99 %    max  worse  left out")
    for low, high in SIZES:
        size = num if high < 1000 else max(1, num // 5)
        every = [losses(*pair) for pair in cohorts(size, low, high)]
        for name in every[0]:
            before, after = np.array([found[name] for found in every]).T
            ratio, same = after / before, np.isclose(after, before, rtol=1e-9)
            print(
                f"{f'{low} to {high}':<13}{name:<15}{ratio.mean():7.3f}"
                f"{np.quantile(ratio, 0.99):7.3f}{ratio.max():7.3f}{np.mean(ratio > 1.02):7.2f}"
                f"{np.mean(same):10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
