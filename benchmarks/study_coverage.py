"""Measure how often the intervals of studies hold the true value, and a triage its promise.

    python benchmarks/study_coverage.py [--settings overconfident]

Draws cohorts of patients, who have one to three studies that are alike, from a population of
simulated ones, and makes the statistics of `common.statistics` for each. The true value is that of
the population with the share of positive patients of the cohorts. The sensitivity is known: the
threshold of each cohort is one of those where the population's is 0.8, 0.85, 0.9 and 0.95; one
group of patients has less (`gap`). Wilson's interval is right on average over sensitivities, not at
each one (Brown, Cai, DasGupta, Statistical Science 2001): hence several.

Prints a table per setting (a star: not shown in a report), then for splits of patients the error
rate of the triage with its Monte Carlo error; as its last line JSON. Status 3 if an interval that
is shown covers less than 0.93, or an error rate is above the promised one by 3 Monte Carlo errors.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage import COHORTS, failures, share_covered, table_lines
from benchmarks.figures import print_figures
from common.cli import run_script
from common.errors import CheckFailed
from common.statistics.conformal import fit_triage, triage_rates
from common.statistics.estimates import Estimate
from common.statistics.rates import (
    LEAST_PATIENTS,
    RATES,
    at_prevalence,
    net_benefit,
    operating_point,
    weighted_sum,
)
from common.statistics.scores import SCORES, compare, score

Floats = NDArray[np.float64]

SENSITIVITIES = (0.8, 0.85, 0.9, 0.95)
# Distance of the logits of positive and negative studies, and factor of the best logits.
SETTINGS = {"strong": (2.8, 1.0), "weak": (1.2, 1.0), "overconfident": (2.0, 1.5)}
USER_PREVALENCE, NET_THRESHOLD = 0.1, 0.2
COMPARED = ("auc", "average_precision", "log_loss", "brier")
SHOWN_FROM = {name: (row.least, row.least_paired) for name, row in SCORES.items()}


@dataclass(frozen=True)
class Rows:
    """Studies: label, two experiments' probabilities, group and patient."""

    labels: Floats
    first: Floats
    second: Floats
    group: NDArray[np.bool_]
    patients: NDArray[np.int64]


class Population:
    """Patients with one to three studies, the first half positive; a third is of a worse group.

    Args:
        setting: of SETTINGS.
    """

    def __init__(self, setting: tuple[float, float], num_patients: int, seed: int) -> None:
        (distance, factor), rng = setting, np.random.default_rng(seed)
        self.num_positive = num_patients // 2
        sizes = rng.choice([1, 1, 1, 1, 2, 3], num_patients)
        self.starts = np.concatenate(([0], np.cumsum(sizes)))
        owner = np.repeat(np.arange(num_patients), sizes)
        labels = (owner < self.num_positive).astype(np.float64)
        # One study of some positive patients is of before or after the bleeding.
        labels[(np.arange(len(owner)) != self.starts[owner]) & (rng.random(len(owner)) < 0.3)] = 0
        group = (rng.random(num_patients) < 1 / 3)[owner]
        shift = rng.standard_t(8, num_patients)[owner] * 0.7
        noise = shift + 0.7 * rng.standard_normal(len(owner))
        signal = distance * (labels - 0.5) - 0.5 * group * labels
        first = logit(0.1) + factor * distance * (signal + noise)
        second = first + 0.6 * rng.standard_normal(len(owner))
        self.rows = Rows(labels, expit(first), expit(second), group, owner)

    def of(self, patients: NDArray[np.int64]) -> Rows:
        """Return the studies of patients, drawn once or several times."""
        sizes = np.diff(self.starts)[patients]
        number = np.repeat(np.arange(len(patients)), sizes)
        begins = np.concatenate(([0], np.cumsum(sizes)))[:-1]
        rows = self.starts[patients][number] + np.arange(len(number)) - begins[number]
        own = self.rows
        labels, first, second = (part[rows] for part in (own.labels, own.first, own.second))
        return Rows(labels, first, second, own.group[rows], number)

    def draw(self, rng: Any, num_positive: int, num_patients: int) -> Rows:
        """Return the studies of a cohort."""
        positive = rng.integers(0, self.num_positive, num_positive)
        total = len(self.starts) - 1
        negative = rng.integers(self.num_positive, total, num_patients - num_positive)
        return self.of(np.concatenate([positive, negative]))

    def whole(self, num_positive: int, num_patients: int) -> Rows:
        """Return all patients, so often that the share of positive ones is that of a cohort."""
        share = np.gcd(num_positive, num_patients - num_positive)
        positive = np.tile(np.arange(self.num_positive), num_positive // share)
        negative = np.arange(self.num_positive, len(self.starts) - 1)
        return self.of(
            np.concatenate([positive, np.tile(negative, (num_patients - num_positive) // share)])
        )

    def thresholds(self) -> list[float]:
        """Return those of SENSITIVITIES."""
        positive = self.rows.first[self.rows.labels == 1]
        return [float(np.quantile(positive, 1 - share)) for share in SENSITIVITIES]


def of_rates(rows: Rows, threshold: float, prevalence: float) -> dict[str, Estimate]:
    """Return what a cohort says at a threshold."""
    calls = rows.first >= threshold
    rates = operating_point(rows.labels, calls, rows.patients)
    both = rates["sensitivity"], rates["specificity"]
    found: dict[str, Estimate] = {name: rates[name] for name in RATES}
    asked = at_prevalence(*both, USER_PREVALENCE)
    found |= {f"{name} at {USER_PREVALENCE:g}": each for name, each in asked.items()}
    found |= net_benefit(*both, prevalence, NET_THRESHOLD)
    del found["treat_all"]
    groups = [
        operating_point(rows.labels[chosen], calls[chosen], rows.patients[chosen])["sensitivity"]
        for chosen in (rows.group, ~rows.group)
    ]
    found["gap"] = weighted_sum([(1.0, groups[0]), (-1.0, groups[1])])
    return found


def of_scores(rows: Rows) -> dict[str, Estimate]:
    """Return the scores of a cohort, hidden intervals too, and those of the second experiment."""
    found = {name: score(name, rows.labels, rows.first, rows.patients) for name in SCORES}
    both = {"first": rows.first, "second": rows.second}
    for name in COMPARED:
        found[f"{name} paired"] = compare(name, rows.labels, both, rows.patients)["second"]
    return found


def is_shown(name: str, num_positive: int, num_patients: int) -> bool:
    """Return whether a report has the interval where there are so many positive patients."""
    family, rarer = name.removesuffix(" paired"), min(num_positive, num_patients - num_positive)
    if family not in SHOWN_FROM:
        return num_positive >= LEAST_PATIENTS
    return rarer >= SHOWN_FROM[family][family != name]


def value_of(estimate: Estimate) -> float:
    assert estimate.value is not None, estimate.reason
    return estimate.value


def measure(
    population: Population, num_positive: int, num_patients: int, num_cohorts: int, seed: int
) -> dict[str, Any]:
    """Return for each statistic its coverage, the Monte Carlo error, and the median width."""
    rng = np.random.default_rng([seed, num_positive, num_patients])
    whole = population.whole(num_positive, num_patients)
    thresholds, prevalence = population.thresholds(), float(whole.labels.mean())
    of_whole = of_scores(whole)
    truths = [of_rates(whole, threshold, prevalence) | of_whole for threshold in thresholds]
    covered: dict[str, list[bool]] = {name: [] for name in truths[0]}
    widths: dict[str, list[float]] = {name: [] for name in truths[0]}
    for cohort in range(num_cohorts):
        rows, place = population.draw(rng, num_positive, num_patients), cohort % len(thresholds)
        estimates = of_rates(rows, thresholds[place], prevalence) | of_scores(rows)
        for name, each in estimates.items():
            if each.low is not None and each.high is not None:
                true = value_of(truths[place][name])
                covered[name].append(each.low - 1e-12 <= true <= each.high + 1e-12)
                widths[name].append(each.high - each.low)
    result: dict[str, Any] = {"positive": num_positive, "patients": num_patients}
    for name, hits in covered.items():
        shown = is_shown(name, num_positive, num_patients)
        result[name] = share_covered(
            np.array(hits, np.float64), np.array(widths[name]), num_cohorts, shown
        )
    return result


def triage(population: Population, num_splits: int, seed: int) -> list[dict[str, Any]]:
    """Return the mean error rates of new patients over splits, and what they were promised."""
    found = []
    for size, error_rate in ((19, 0.05), (60, 0.05), (200, 0.02), (200, 0.1)):
        rng = np.random.default_rng([seed, size])
        rates = []
        for _ in range(num_splits):
            calibration = population.draw(rng, size, 2 * size)
            fresh = population.draw(rng, 100, 200)
            fitted = fit_triage(
                calibration.labels,
                calibration.first,
                calibration.patients,
                rule_out_error=error_rate,
                rule_in_error=error_rate,
            )
            made = triage_rates(fresh.labels, fitted.decide(fresh.first), fresh.patients)
            rates.append([value_of(made[key]) for key in ("missed", "false_alarms", "decided")])
        means, errors = np.mean(rates, axis=0), np.std(rates, axis=0) / np.sqrt(num_splits)
        row: dict[str, Any] = {"patients": size, "promised": error_rate}
        for place, key in enumerate(("missed", "false_alarms", "decided")):
            row[key], row[f"{key}_error"] = float(means[place]), float(errors[place])
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num_cohorts", type=int, default=1000)
    parser.add_argument("--num_population", type=int, default=4000, help="patients")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=4667)
    arguments = parser.parse_args()
    started = time.perf_counter()
    # Hidden intervals are measured too.
    SCORES.update({name: replace(row, least=1, least_paired=2) for name, row in SCORES.items()})
    found: dict[str, Any] = {}
    triages: dict[str, Any] = {}
    for name in arguments.settings:
        population = Population(SETTINGS[name], arguments.num_population, arguments.seed)
        found[name] = [
            measure(population, *cohort, arguments.num_cohorts, arguments.seed)
            for cohort in COHORTS
        ]
        print("\n".join(table_lines(name, found[name])), flush=True)
        triages[name] = triage(population, arguments.num_cohorts, arguments.seed)
        for row in triages[name]:
            print(
                f"triage, {row['patients']} calibration patients a class: promised "
                f"{row['promised']:g}, missed {row['missed']:.4f} +- {row['missed_error']:.4f}, "
                f"false alarms {row['false_alarms']:.4f} +- {row['false_alarms_error']:.4f}, "
                f"decided {row['decided']:.2f}"
            )
    below = failures(found)
    below += [
        f"{name}, triage of {row['patients']}: {key} {row[key]:.4f} of {row['promised']:g}"
        for name, rows in triages.items()
        for row in rows
        for key in ("missed", "false_alarms")
        if row[key] > row["promised"] + 3 * row[f"{key}_error"]
    ]
    minutes = (time.perf_counter() - started) / 60
    print_figures({"minutes": minutes, "below": below, "triage": triages} | found)
    if below:
        raise CheckFailed(below)


if __name__ == "__main__":
    run_script(main)
