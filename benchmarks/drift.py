"""Measure the false alarms of `scripts.drift`, and how many new studies it takes to find a shift.

    python benchmarks/drift.py input/datasets/demo [--null 800] [--trials 60]

The patients are drawn, with replacement, from a prepared dataset: pixels, spacings and sharpness
are its own; kernel, thickness, kVp, age, sex and the probabilities of a network, which the demo
lacks, are drawn too. Shifts of pixels are made in the pixels, and measured there as in a dataset.
Printed: the share of samples without any shift that alarm, with its Monte Carlo error, by number of
new patients; and for each shift the fewest new patients of those tried with which it is found in at
least 80 % of the trials. Rate of false alarms 0.05, a reference of 200 patients.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit

from common.preparation.pixels import measure_sharpness
from common.scoring.drift import MOST_PATIENTS, Reference, compare_with
from common.slices.summaries import study_summaries
from common.slices.table import SliceTable
from rsna_task import LABELS

SIZES = (3, 5, 8, 12, 20, 30, 50, 80)
RATE, NUM_PERMUTATIONS, SEED, POWER = 0.05, 199, 4667, 0.8
Change = Callable[["Changed", int, np.ndarray], np.ndarray]


class Changed(SliceTable):
    """A dataset whose pixels are changed when they are read, and whose sharpness is of these."""

    change: Change

    def image_hu(self, row: int) -> np.ndarray:
        changed = self.change(self, row, super().image_hu(row).astype(np.float32))
        return np.clip(np.rint(changed), -1024, 31767).astype(np.int16)

    def neighbour(self, row: int) -> np.ndarray:
        return super().image_hu(self.neighbour_rows(row, [1])[0])


def scaled(factor: float, shift: float) -> Change:
    return lambda table, row, image: factor * image + shift


def sharpened(table: Changed, row: int, image: np.ndarray) -> np.ndarray:
    """A third more of what a Gaussian of one pixel takes away: a somewhat sharper kernel."""
    return image + 0.33 * (image - cv2.GaussianBlur(image, (0, 0), 1.0))


def thickened(table: Changed, row: int, image: np.ndarray) -> np.ndarray:
    """The mean with the next slice: twice as thick, at the same spacing."""
    return (image + table.neighbour(row)) / 2


PIXELS: dict[str, Change] = {
    "HU + 1": scaled(1, 1),
    "HU + 3": scaled(1, 3),
    "HU x 1.05": scaled(1.05, 0),
    "kernel, by its pixels alone": sharpened,
    "thickness, by its pixels alone": thickened,
}


def population(folder: Path, change: Change | None) -> pd.DataFrame:
    table = SliceTable.load(folder)
    if change is not None:
        table = Changed(table.frame, folder)
        table.change = change  # type: ignore[attr-defined]
        rows = np.flatnonzero(table.readable)
        sharpness = [measure_sharpness(table.image_hu(row)) for row in rows.tolist()]
        table.frame.loc[rows, "sharpness"] = pd.Series(sharpness, rows, dtype="float64")
    return study_summaries(table).dropna(axis=1, how="all")


def draw(rows: pd.DataFrame, number: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return patients, with the headers and probabilities that the dataset lacks."""
    drawn = rows.iloc[rng.integers(len(rows), size=number)].reset_index(drop=True)
    severity = np.where(rng.random(number) < 0.4, 1.5, -2.5) + rng.normal(0, 1.2, number)
    logits = {name: severity - 1.5 + rng.normal(0, 1, number) for name in LABELS[:-1]}
    return drawn.assign(
        kernel=rng.choice(["H30s", "H31s", "STANDARD"], number, p=[0.5, 0.3, 0.2]),
        slice_thickness=rng.choice([5.0, 4.8, 3.0], number, p=[0.7, 0.2, 0.1]),
        kvp=rng.choice([120.0, 130.0], number, p=[0.8, 0.2]),
        age_decade=10.0 * rng.integers(2, 10, number),
        sex=rng.choice(["M", "F"], number),
        **{f"probability of {name}": expit(value) for name, value in logits.items()},
        **{"probability of any": expit(severity)},
    )


def half_kernel(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows.assign(kernel=rows["kernel"].mask(rng.random(len(rows)) < 0.5, "Br40"))


def half_thickness(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    is_thin = rng.random(len(rows)) < 0.5
    return rows.assign(slice_thickness=rows["slice_thickness"].mask(is_thin, 1.25))


def higher(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Logits higher by 1."""
    names = [name for name in rows.columns if name.startswith("probability")]
    odds = rows[names] / (1 - rows[names]) * math.e
    return rows.assign(**odds / (1 + odds))


ROWS = {
    "kernel, by its name in half of the studies": half_kernel,
    "thickness, by its header in half of the studies": half_thickness,
    "probabilities: logits + 1": higher,
}


def share_of_alarms(
    make: Callable[[int, np.random.Generator], pd.DataFrame],
    rows: pd.DataFrame,
    size: int,
    trials: int,
) -> float:
    alarms = 0
    for trial in range(trials):
        rng = np.random.default_rng([SEED, size, trial])
        reference = Reference.of("", MOST_PATIENTS, draw(rows, MOST_PATIENTS, rng))
        options = {"rate": RATE, "num_permutations": NUM_PERMUTATIONS, "seed": trial}
        alarms += compare_with(reference, make(size, rng), **options).p_value <= RATE  # type: ignore[arg-type]
    return alarms / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--null", type=int, default=800)
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows = population(arguments.dataset, None)
    print(f"{len(rows)} patients; HU of 8 slices each in {time.perf_counter() - started:.1f} s")
    for size in (5, 30):
        share = share_of_alarms(lambda m, rng: draw(rows, m, rng), rows, size, arguments.null)
        error = np.sqrt(share * (1 - share) / arguments.null)
        print(f"no shift, {size:2} new patients: alarms {share:.4f} (+- {error:.4f})", flush=True)
    shifts: dict[str, Callable[[int, np.random.Generator], pd.DataFrame]] = {}
    for name, change in PIXELS.items():
        other = population(arguments.dataset, change)
        shifts[name] = lambda m, rng, other=other: draw(other, m, rng)  # type: ignore[misc]
    for name, shift in ROWS.items():
        shifts[name] = lambda m, rng, shift=shift: shift(draw(rows, m, rng), rng)  # type: ignore[misc]
    print(f"{'shift':<50} found in 80 % with")
    for name, make in shifts.items():
        for size in SIZES:
            power = share_of_alarms(make, rows, size, arguments.trials)
            if power >= POWER:
                break
        number = f"{size} patients" if power >= POWER else f"more than {size}"
        print(f"{name:<50} {number} ({power:.2f})", flush=True)


if __name__ == "__main__":
    main()
