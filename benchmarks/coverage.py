"""Measure how often the intervals of a report hold the true value.

    python benchmarks/coverage.py

Draws cohorts of patients from a population of simulated ones, and makes the intervals of
`common.statistics.intervals` for each. The true value is that of the population, with the share of
positive patients of the cohorts. Slices of a patient are alike: his logits have one heavy-tailed
shift, his bleeding one visibility. A positive patient has a run of positive slices, and one study
or two. Probabilities are calibrated on the population, but in one setting overconfident.

Prints a table per setting and, as its last line, JSON with the Monte Carlo error of each share. A
star marks what a report does not show, as there are too few positive patients
(`MIN_POSITIVE_PATIENTS`). Status 3 if an interval that is shown covers less than 0.93.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from common.cli import run_script
from common.errors import CheckFailed
from common.scoring.metrics import max_by_study, row_log_losses
from common.statistics import intervals
from common.statistics.intervals import paired_interval, patient_intervals

Floats = NDArray[np.float64]

LEAST_COVERAGE = 0.93
LABELS = ("first", "second", "any")
WEIGHTS = (1.0, 1.0, 2.0)
PREVALENCE = np.array([0.03, 0.03, 0.06])
"""The shares that logits start from; the constant to compare with."""

# Positive patients and patients of a cohort.
COHORTS = ((1, 60), (2, 60), (3, 60), (5, 60), (5, 12), (10, 60), (10, 15), (50, 150))
COLUMNS = {
    "auc": "auc",
    "log loss": "weighted_log_loss",
    "to prior": "weighted_log_loss_to_prior",
    "to scored": "weighted_log_loss_to_scored_prior",
    "members": "difference",
    "calibrated": "difference",
    "study auc": "auc",
    "study loss": "weighted_log_loss",
    "study to prior": "weighted_log_loss_to_prior",
    "study to scored": "weighted_log_loss_to_scored_prior",
    "study calibrated": "difference",
}
"""Printed columns, and the kind of interval of each."""


@dataclass(frozen=True)
class Setting:
    """How patients differ.

    Attributes:
        area: the AUC of `any` by slice.
        confidence: factor of the logits that are best for the population.
    """

    area: float
    confidence: float = 1.0


SETTINGS = {"strong": Setting(0.97), "weak": Setting(0.7), "overconfident": Setting(0.9, 1.5)}


@dataclass(frozen=True)
class Rows:
    """Rows of patients, by slice or by study: labels, and probabilities of two members.

    Attributes:
        calibrated: of the first member, with other logits.
        starts: (patients + 1,) where the rows of each patient begin.
    """

    labels: Floats
    first: Floats
    second: Floats
    calibrated: Floats
    starts: NDArray[np.int64]

    def of(self, patients: NDArray[np.int64]) -> tuple["Rows", NDArray[np.int64]]:
        """Return the rows of patients, drawn once or several times, and their patients' numbers."""
        sizes = np.diff(self.starts)[patients]
        starts = np.concatenate(([0], np.cumsum(sizes)))
        number = np.repeat(np.arange(len(patients)), sizes)
        rows = self.starts[patients][number] + np.arange(starts[-1]) - starts[number]
        arrays = (self.labels, self.first, self.second, self.calibrated)
        labels, first, second, calibrated = (array[rows] for array in arrays)
        return Rows(labels, first, second, calibrated, starts), number


class Population:
    """Patients, the first half of them positive.

    Args:
        tails: degrees of freedom of the shift of all logits of a patient.

    Attributes:
        slices, studies: their rows.
    """

    def __init__(self, setting: Setting, num_patients: int, tails: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_positive = num_patients // 2
        num_slices = rng.integers(20, 45, num_patients) * rng.choice([1, 1, 1, 2], num_patients)
        starts = np.concatenate(([0], np.cumsum(num_slices)))
        owner = np.repeat(np.arange(num_patients), num_slices)
        labels = _labels(rng, starts, self.num_positive)
        shift = rng.standard_t(tails, (num_patients, 1)) * 0.6
        shift = shift + 0.3 * rng.standard_normal((num_patients, len(LABELS)))
        seen = 1 + 0.35 * rng.standard_normal((num_patients, 1))
        noise = shift[owner] + 0.75 * rng.standard_normal(labels.shape)
        visible = labels * seen[owner]
        in_study = np.arange(len(owner)) - starts[owner] >= (num_slices[owner] + 1) // 2
        two = (num_slices[owner] > 44) & in_study
        self.study = 2 * owner + two
        weights = np.where(owner < self.num_positive, 1.0, 4.0)
        contrast = brentq(
            lambda c: _area(labels[:, 2], c * visible[:, 2] + noise[:, 2], weights) - setting.area,
            0.0,
            30.0,
        )
        score = contrast * visible + noise
        base = logit(PREVALENCE)

        def loss(scale: float) -> float:
            p = expit(base + scale * (score - contrast / 2))
            return float(weights @ row_log_losses(labels, p) @ np.array(WEIGHTS))

        scale = float(minimize_scalar(loss, bounds=(0.01, 10), method="bounded").x)
        best = base + scale * (score - contrast / 2)
        first = base + setting.confidence * (best - base)
        other = 0.5 * rng.standard_normal((num_patients, len(LABELS)))[owner]
        second = first + other + 0.5 * rng.standard_normal(labels.shape)
        calibrated = base + 0.75 * (first - base)
        self.slices = Rows(labels, expit(first), expit(second), expit(calibrated), starts)
        self.studies = self._studies()

    def _studies(self) -> Rows:
        """Return the rows of studies: each has the largest values of its slices."""
        own = self.slices
        ids, labels, first = max_by_study(own.labels, own.first, self.study)
        others = [max_by_study(own.labels, p, self.study)[2] for p in (own.second, own.calibrated)]
        starts = np.concatenate(([0], np.cumsum(np.bincount(ids // 2))))
        return Rows(labels, first, others[0], others[1], starts)

    def draw(self, rng: Any, num_positive: int, num_patients: int) -> NDArray[np.int64]:
        """Return patients of a cohort."""
        positive = rng.integers(0, self.num_positive, num_positive)
        total = len(self.slices.starts) - 1
        negative = rng.integers(self.num_positive, total, num_patients - num_positive)
        return np.concatenate([positive, negative])

    def truth(self, num_positive: int, num_patients: int) -> list[float]:
        """Return the true value of each column, where this share of patients is positive."""
        share = num_positive / num_patients
        found: list[float] = []
        for rows in (self.slices, self.studies):
            patients = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
            weights = np.where(patients < self.num_positive, share, 1 - share)
            w = np.array(WEIGHTS) / np.sum(WEIGHTS)

            def mean(p: Any, rows: Rows = rows, weights: Floats = weights, w: Floats = w) -> float:
                losses = row_log_losses(rows.labels, np.broadcast_to(p, rows.labels.shape))
                return float(weights @ losses @ w / weights.sum())

            loss = mean(rows.first)
            found.append(_area(rows.labels[:, 2], rows.first[:, 2], weights))
            prevalence = weights @ rows.labels / weights.sum()
            found += [loss, loss / mean(PREVALENCE), loss / mean(prevalence)]
            if rows is self.slices:
                found.append(mean(rows.second) - loss)
            found.append(mean(rows.calibrated) - loss)
        return found


def _labels(rng: Any, starts: NDArray[np.int64], num_positive: int) -> Floats:
    """Return labels of slices: runs of one or both of the two kinds in positive patients."""
    labels = np.zeros((starts[-1], len(LABELS)))
    for patient in range(num_positive):
        begin, size = starts[patient], starts[patient + 1] - starts[patient]
        for kind in rng.choice(2, rng.choice([1, 1, 2]), replace=False):
            length = max(1, round(size * rng.beta(1.2, 3)))
            first = begin + rng.integers(0, size - length + 1)
            labels[first : first + length, kind] = 1
    labels[:, 2] = labels[:, :2].max(axis=1)
    return labels


def _area(labels: Floats, values: Floats, weights: Floats) -> float:
    """Return the AUC of weighted rows, whose values are all different or certainly equal."""
    distinct, place = np.unique(values, return_inverse=True)
    positives = np.bincount(place, weights * labels, len(distinct))
    negatives = np.bincount(place, weights * (1 - labels), len(distinct))
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def intervals_of(population: Population, patients: NDArray[np.int64]) -> list[list[float] | None]:
    """Return the interval of each column for a cohort."""
    found: list[Any] = []
    for rows, owner in (population.slices.of(patients), population.studies.of(patients)):
        values = patient_intervals(
            rows.labels,
            rows.first,
            owner,
            label_names=LABELS,
            weights=WEIGHTS,
            prior=PREVALENCE,
        )
        found += [values["auc"]["any"], values["weighted_log_loss"]]
        found.append(values["weighted_log_loss_to_prior"])
        found.append(values["weighted_log_loss_to_scored_prior"])
        others = [rows.second, rows.calibrated] if len(found) == 4 else [rows.calibrated]
        for other in others:
            paired = paired_interval(rows.labels, rows.first, other, owner, WEIGHTS)
            found.append(paired["interval"])
    return found


def measure(
    population: Population, num_positive: int, num_patients: int, num_cohorts: int, seed: int
) -> dict[str, Any]:
    """Return for each column its coverage, the error of it, and the median width."""
    rng = np.random.default_rng([seed, num_positive, num_patients])
    truth = population.truth(num_positive, num_patients)
    covered = np.zeros((num_cohorts, len(COLUMNS)))
    widths = np.full(covered.shape, np.nan)
    for cohort in range(num_cohorts):
        found = intervals_of(population, population.draw(rng, num_positive, num_patients))
        for column, interval in enumerate(found):
            if interval is None:
                covered[cohort, column] = np.nan
            else:
                covered[cohort, column] = interval[0] <= truth[column] <= interval[1]
                widths[cohort, column] = interval[1] - interval[0]
    result: dict[str, Any] = {"positive": num_positive, "patients": num_patients}
    for column, name in enumerate(COLUMNS):
        known = ~np.isnan(covered[:, column])
        of_column = covered[known, column], widths[known, column]
        is_shown = num_positive >= SHOWN_FROM[COLUMNS[name]]
        result[name] = {"true": truth[column], **share_covered(*of_column, num_cohorts, is_shown)}
    return result


def share_covered(hits: Floats, widths: Floats, num_cohorts: int, is_shown: bool) -> dict[str, Any]:
    """Return the share of intervals with the true value, its Monte Carlo error, and the width.

    Args:
        hits, widths: of the cohorts that have an interval: whether it holds the value; its width.
        is_shown: whether a report shows it.
    """
    num = len(hits)
    share = float(np.mean(hits)) if num else None
    return {
        "coverage": share,
        "error": None if share is None else float(np.sqrt(share * (1 - share) / num)),
        "made": num / num_cohorts,
        "width": float(np.median(widths)) if num else None,
        "shown": is_shown,
    }


SHOWN_FROM = dict(intervals.MIN_POSITIVE_PATIENTS)


def table_lines(name: str, results: list[dict[str, Any]]) -> list[str]:
    """Return the table of a setting: a line per statistic, a column per cohort, stars if hidden."""
    heads = "".join(f"{r['positive']:>9} of {r['patients']:<4}" for r in results)
    cells = [cell for result in results for cell in list(result.values())[2:]]
    error = max(cell["error"] or 0.0 for cell in cells if cell["shown"])
    lines = [
        f"{name}: coverage (share of cohorts with an interval); Monte Carlo error at most "
        f"{error:.3f} where shown",
        f"{'':<26}{heads}",
    ]
    for key in list(results[0])[2:]:
        line = f"{key:<26}"
        for cell in (result[key] for result in results):
            text = "-"
            if cell["coverage"] is not None:
                text = f"{cell['coverage']:.3f}{'' if cell['shown'] else '*'} ({cell['made']:.2f})"
            line += f"{text:>17}"
        lines.append(line)
    return lines


def failures(found: dict[str, Any]) -> list[str]:
    """Return a line for each interval that is shown and covers too seldom."""
    return [
        f"{setting}, {result['positive']} of {result['patients']}: {name} covers "
        f"{cell['coverage']:.3f} (error {cell['error']:.3f})"
        for setting, results in found.items()
        for result in results
        for name, cell in list(result.items())[2:]
        if cell["shown"] and cell["coverage"] is not None and cell["coverage"] < LEAST_COVERAGE
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num_cohorts", type=int, default=1000)
    parser.add_argument("--num_population", type=int, default=4000, help="patients")
    parser.add_argument("--tails", type=float, default=8, help="heavier below, of a t distribution")
    parser.add_argument("--seed", type=int, default=4667)
    arguments = parser.parse_args()
    started = time.perf_counter()
    # Hidden intervals are measured too.
    intervals.MIN_POSITIVE_PATIENTS.update(dict.fromkeys(SHOWN_FROM, 2))
    found: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        population = Population(setting, arguments.num_population, arguments.tails, arguments.seed)
        found[name] = [
            measure(population, *cohort, arguments.num_cohorts, arguments.seed)
            for cohort in COHORTS
        ]
        print("\n".join(table_lines(name, found[name])), flush=True)
    minutes = (time.perf_counter() - started) / 60
    below = failures(found)
    print_figures({"minutes": minutes, "below": below} | found)
    if below:
        raise CheckFailed(below)


if __name__ == "__main__":
    run_script(main)
