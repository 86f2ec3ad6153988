"""How well the arrangement of findings can be recognised from one slice, from three, from a study.

Draws findings as the levels dataset does and looks up how often each view of them is blood: that
there is a finding; its height too; the two slices beside it too. A model that sees findings without
error can't have a smaller log loss than this. With the whole study it is 0: blood is in one piece.

    python benchmarks/levels/levels_bounds.py

Takes about half a minute. Prints a table and, as its last line, the means over the kinds as JSON.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.levels.arrangement import FINDINGS_PER_STUDY, NUM_SLICES, draw_finding
from benchmarks.levels.levels import EVIDENT_SHARE
from rsna_task import SUBTYPES

VIEWS = ("finding", "height", "neighbours")


def bounds_of(kind: str, num_findings: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the smallest log loss of one kind over all slices of a dataset, by view."""
    counts: dict[str, dict[tuple[int, ...], np.ndarray]] = {
        view: defaultdict(lambda: np.zeros(2)) for view in ("prior", *VIEWS)
    }
    for _ in range(num_findings):
        finding = draw_finding(kind, rng)
        is_evident = not finding.is_blood and rng.random() < EVIDENT_SHARE
        seen = np.zeros(NUM_SLICES + 2, int)
        seen[finding.slices + 1] = 1
        for height in finding.slices:
            keys = {
                "prior": (),
                "finding": (is_evident,),
                "height": (is_evident, height),
                "neighbours": (is_evident, height, seen[height], seen[height + 2]),
            }
            for view, key in keys.items():
                counts[view][key][int(finding.is_blood)] += 1
    num_slices = num_findings * NUM_SLICES * len(SUBTYPES) / FINDINGS_PER_STUDY
    num_blood = counts["prior"][()][1]
    counts["prior"][()][0] = num_slices - num_blood
    return {
        view: float(sum(_loss_sum(*own) for own in by_key.values()) / num_slices)
        for view, by_key in counts.items()
    }


def _loss_sum(num_mimic: float, num_blood: float) -> float:
    """Return the summed log loss of so many slices when each gets the share that is blood."""
    total = num_mimic + num_blood
    parts = np.array([num_mimic, num_blood])
    parts = parts[parts > 0]
    return float(-(parts * np.log(parts / total)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num_findings", type=int, default=20_000, help="of each kind")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    found = {kind: bounds_of(kind, arguments.num_findings, rng) for kind in SUBTYPES}
    print(f"{'kind':<18}" + "".join(f"{view:>12}" for view in ("prior", *VIEWS)))
    for kind, values in found.items():
        print(f"{kind:<18}" + "".join(f"{value:>12.4f}" for value in values.values()))
    views = ("prior", *VIEWS)
    means = {view: float(np.mean([own[view] for own in found.values()])) for view in views}
    print(json.dumps({view: round(value, 4) for view, value in means.items()}))


if __name__ == "__main__":
    main()
