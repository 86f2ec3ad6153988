"""Plants label errors in a dataset and prints how many of them a review shows first.

    python benchmarks/label_errors.py --experiment_id ct_ich

The labels of 2 % of the slices are changed, one subtype in each, with `any` as its consequence; the
predictions are those of the experiment, whose networks learnt from the right labels. So the figures
say what the order of a review is worth, not how a training on wrong labels would spoil it. Where
cleanlab is installed (the project does not need it), its order of the slices is there too.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from common.cli import run_script
from common.scoring.doubts import label_doubts
from common.slices.study_labels import known_labels
from common.slices.table import SliceTable
from config import parse_config
from rsna.evaluation.review import LABEL, find_reasons, open_reviewed
from scripts.review import GROUPS

SHARE, TRIALS = 0.02, 40
FIRST_SLICES, FIRST_STUDIES = (20, 50, 100), (10, 20)


def by_cleanlab(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return (n,): how doubtful cleanlab finds the labels of each slice, as it comes."""
    from cleanlab.multilabel_classification import get_label_quality_scores

    classes = [np.flatnonzero(row).tolist() for row in labels]
    return 1 - np.asarray(get_label_quality_scores(classes, p))


ORDERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "slices": lambda labels, p: label_doubts(labels, p).max(axis=1)
}
if importlib.util.find_spec("cleanlab"):
    ORDERS["slices, by cleanlab"] = by_cleanlab


def main() -> None:
    reviewed = open_reviewed(parse_config(__doc__ or "", GROUPS, sys.argv[1:]))
    table, names = reviewed.table, reviewed.label_names
    rows = table.rows_of(reviewed.predictions.index.to_numpy())
    p, right = reviewed.predictions.to_numpy(), known_labels(table, rows, names)
    known = ~np.isnan(right).any(axis=1)
    rows, p, right = rows[known], p[known], right[known]
    studies = table.frame["study_id"].iloc[rows].to_numpy(dtype=object)
    num, num_studies = round(SHARE * len(rows)), len(set(studies))
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for trial in range(TRIALS):
        rng, wrong = np.random.default_rng(trial), right.copy()
        planted = rng.choice(len(rows), num, replace=False)
        kinds = rng.integers(right.shape[1] - 1, size=num)
        wrong[planted, kinds] = 1 - wrong[planted, kinds]
        wrong[planted, -1] = wrong[planted, :-1].max(axis=1)
        frame = table.frame.copy()
        frame.loc[rows, list(names)] = wrong
        changed = dataclasses.replace(reviewed, table=SliceTable(frame, table.folder))
        for name, doubts in ORDERS.items():
            order = np.argsort(-doubts(wrong, p), kind="stable")
            for first in FIRST_SLICES:
                hits = len(set(order[:first]) & set(planted))
                found.setdefault((name, first), []).append((hits / num, min(1, first / num)))
        with_error = set(studies[planted])
        for first in FIRST_STUDIES:
            reasons = find_reasons(changed, first)
            shown = set(reasons.loc[reasons["kind"].eq(LABEL), "study_id"])
            share, best = len(shown & with_error) / len(with_error), first / len(with_error)
            found.setdefault(("studies", first), []).append((share, min(1, best)))
    print(f"{num} errors in {len(rows)} slices of {num_studies} studies, {TRIALS} trials")
    print(f"{'first':<23} {'found':>6} {'chance':>7} {'at most':>8}")
    for (what, first), shares in found.items():
        of = num_studies if what == "studies" else len(rows)
        share, best = np.mean(shares, axis=0)
        print(f"{first:>3} {what:<19} {share:6.2f} {first / of:7.2f} {best:8.2f}")


if __name__ == "__main__":
    run_script(main)
