"""Measure false alarms and coverage of the comparison of groups of studies.

    python benchmarks/subgroups.py [--num_cohorts 200]

Draws cohorts of patients with one to three studies and four random groupings. In the null cohorts
no group differs: how many have a corrected p-value of at most 0.05. In the others the sensitivity
of one group is less by a known gap: how often it is found, how often the interval of the difference
holds the gap, and how often the worst group is that one. Prints each with its Monte Carlo error,
then JSON; status 3 where more than 5 % of the null cohorts alarm, or less than 0.93 cover.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from common.cli import run_script
from common.errors import CheckFailed
from common.statistics.subgroups import (
    Grouping,
    Studies,
    compare_groups,
    part,
    worst_group,
)

SENSITIVITY, SPECIFICITY = 0.92, 0.85
GAP = 0.25
GAP_GROUP = ("kernel", "sharp")
NUM_PATIENTS = 300
LEVELS = {
    "kernel": ("soft", "sharp"),
    "model": tuple("abcde"),
    "age": tuple("0123456"),
    "sex": ("female", "male"),
}


def draw(rng: np.random.Generator, gap: float) -> tuple[Studies, dict[str, Grouping]]:
    """Return a cohort whose sensitivity in GAP_GROUP is less by a gap, and its groupings.

    Studies of a patient have its groups and label, and their calls are alike.
    """
    owner = np.repeat(np.arange(NUM_PATIENTS), rng.choice([1, 1, 1, 2, 3], NUM_PATIENTS))
    columns = {
        name: pd.Series(rng.choice(levels, NUM_PATIENTS)[owner]) for name, levels in LEVELS.items()
    }
    y = (rng.random(NUM_PATIENTS) < 0.4).astype(np.float64)[owner]
    is_worse = (columns[GAP_GROUP[0]] == GAP_GROUP[1]).to_numpy()
    share = np.where(y == 1, SENSITIVITY - gap * is_worse, 1 - SPECIFICITY)
    # Of a patient half of the studies get the call that the first one has.
    alike = rng.random(NUM_PATIENTS)[owner]
    shared = rng.random(len(owner)) < 0.5
    calls = np.where(shared, alike, rng.random(len(owner))) < share
    p = expit(rng.normal(0, 1, len(owner)) + 2.5 * calls - 1.25)
    groupings = {name: Grouping(part(values)) for name, values in columns.items()}
    return Studies(y, p, owner.astype(object), calls=calls.astype(float)), groupings


def measure(num_cohorts: int, seed: int = 0) -> dict[str, float]:
    """Return the shares of cohorts."""
    alarms, found, covered, named = [], [], [], []
    for number in range(num_cohorts):
        for gap in (0.0, GAP):
            groups = compare_groups(*draw(np.random.default_rng((seed, number, int(gap > 0))), gap))
            p_values = [
                difference.adjusted_p_value
                for each in groups.values()
                for group in each.values()
                for difference in group.differences.values()
                if difference.adjusted_p_value is not None
            ]
            if not gap:
                alarms.append(min(p_values) <= 0.05)
                continue
            title, name = GAP_GROUP
            difference = groups[title][name].differences["sensitivity"]
            _, low, high = difference.limits()
            covered.append(low <= -gap <= high)
            found.append((difference.adjusted_p_value or 0.0) <= 0.05)
            named.append((worst_group(groups) or ())[:2] == GAP_GROUP)
    shares = {"false_alarms": alarms, "found": found, "covered": covered, "named": named}
    return {name: float(np.mean(values)) for name, values in shares.items()}


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num_cohorts", type=int, default=200)
    number = parser.parse_args().num_cohorts
    shares = measure(number)
    for name, share in shares.items():
        error = np.sqrt(share * (1 - share) / number)
        print(f"{name:<14} {share:.3f} +- {error:.3f} of {number} cohorts")
    print_figures(shares)
    if shares["false_alarms"] > 0.05 or shares["covered"] < 0.93:
        raise CheckFailed(["false alarms above 5 %, or coverage below 0.93"])


if __name__ == "__main__":
    run_script(main)
