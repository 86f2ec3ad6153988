"""Compares levels of models on the same slices: losses, and steps from level to level.

Intervals are of a bootstrap of patients, since the slices of one patient are alike. Every draw of
patients, and of seeds where there are several, is the same for all levels: steps are paired.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.levels.level_runs import Stage, run_stages
from common.errors import InputError
from common.scoring.metrics import row_log_losses, training_prior
from common.scoring.predictions import read_predictions
from common.slices.table import SliceTable
from rsna_task import LABEL_WEIGHTS, LABELS

Floats = NDArray[np.float64]

NUM_RESAMPLES = 2000
LEVEL = 0.95
PRIOR = "prior"
"""The level of the constant: the prevalences in the other folds."""


@dataclass(frozen=True)
class Losses:
    """Summed losses per patient of the same slices.

    Attributes:
        by_level: (seeds, patients) sums of each level's weighted log losses over slices.
        num_slices: (patients,) slices of each patient.
    """

    by_level: dict[str, Floats]
    num_slices: Floats

    def mean(self, level: str) -> float:
        """Return the weighted log loss of a level: the mean over slices, then over seeds."""
        return float(self.by_level[level].sum(axis=1).mean() / self.num_slices.sum())

    def by_seed(self, level: str) -> list[float]:
        return [float(v) for v in self.by_level[level].sum(axis=1) / self.num_slices.sum()]


def read_losses(table: SliceTable, folders: Mapping[str, Sequence[Path]]) -> Losses:
    """Return the losses of experiments on the slices that all predict, and of `PRIOR`.

    Args:
        folders: for each level, the experiment folder of each seed.

    Raises:
        InputError: experiments that predict different slices.
    """
    frames = {
        level: [read_predictions(folder / "predictions" / "oof.parquet", LABELS) for folder in own]
        for level, own in folders.items()
    }
    first = next(iter(frames.values()))[0].set_index("image_id")
    rows = table.rows_of(first.index.to_numpy())
    labels = table.labels(rows, LABELS).astype(np.float64)
    if np.isnan(labels).any():
        raise InputError("some of the predicted slices have unknown labels")
    patients, names = pd.factorize(first["patient_id"])
    num_slices = np.bincount(patients, minlength=len(names)).astype(np.float64)

    def sums(probabilities: Floats) -> Floats:
        losses = row_log_losses(labels, probabilities) @ np.asarray(LABEL_WEIGHTS)
        return np.bincount(patients, losses / np.sum(LABEL_WEIGHTS), len(names)).astype(np.float64)

    by_level: dict[str, Floats] = {}
    for level, own in frames.items():
        summed = []
        for frame in own:
            frame = frame.set_index("image_id")
            if len(frame) != len(first) or not frame.index.isin(first.index).all():
                raise InputError(f"{level}: predicts other slices than the first level")
            summed.append(sums(frame.loc[first.index, list(LABELS)].to_numpy(np.float64)))
        by_level[level] = np.stack(summed)
    folds = first["fold"].to_numpy(dtype=np.int64)
    constant = np.empty_like(labels)
    for fold in np.unique(folds):
        constant[folds == fold] = training_prior(labels[folds != fold])
    num_seeds = max(len(own) for own in by_level.values())
    by_level[PRIOR] = np.tile(sums(constant), (num_seeds, 1))
    return Losses(by_level, num_slices)


def compare(
    losses: Losses, steps: Sequence[tuple[str, str]], seed: int = 4667
) -> dict[str, dict[str, Any]]:
    """Return mean and interval of every level and of every step.

    A step (a, b) is the loss of a less that of b: positive where b is better.

    Returns:
        levels: by name, mean, interval, by_seed, and to_prior, the ratio to the prior's.
        steps: by "a - b", mean, interval, excludes_zero, and by_seed.
    """
    num_seeds = len(next(iter(losses.by_level.values())))
    rng = np.random.default_rng(seed)
    num_patients = len(losses.num_slices)
    shares = np.full(num_patients, 1 / num_patients)
    patients = rng.multinomial(num_patients, shares, NUM_RESAMPLES).astype(np.float64)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES)
    sizes = patients @ losses.num_slices
    drawn = {
        level: ((patients @ own.T) * seeds).sum(axis=1) / num_seeds / sizes
        for level, own in losses.by_level.items()
    }
    levels = {
        level: {
            "mean": losses.mean(level),
            "interval": _interval(drawn[level]),
            "by_seed": losses.by_seed(level),
            "to_prior": losses.mean(level) / losses.mean(PRIOR),
            "to_prior_interval": _interval(drawn[level] / drawn[PRIOR]),
        }
        for level in losses.by_level
    }
    found = {}
    for before, after in steps:
        interval = _interval(drawn[before] - drawn[after])
        found[f"{before} - {after}"] = {
            "mean": losses.mean(before) - losses.mean(after),
            "interval": interval,
            "excludes_zero": bool(interval[0] > 0 or interval[1] < 0),
            "by_seed": [
                a - b for a, b in zip(losses.by_seed(before), losses.by_seed(after), strict=True)
            ],
        }
    return {"levels": levels, "steps": found}


def _interval(values: Floats) -> list[float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return [float(low), float(high)]


def measure(
    stages: Sequence[Stage],
    steps: Sequence[tuple[str, str]],
    folders: Mapping[str, Sequence[Path]],
    dataset_folder: Path,
    arguments: Any,
    started: float,
) -> dict[str, Any]:
    """Run the stages that are not done, and return the comparison with sizes and time.

    Args:
        folders: as of `read_losses`.
        arguments: with `work` and `n_jobs`.
        started: `time.perf_counter()` at the beginning.
    """
    num_done = sum(stage.is_done for stage in stages)
    run_stages(stages, arguments.n_jobs, arguments.work / "logs")
    losses = read_losses(SliceTable.load(dataset_folder), folders)
    return compare(losses, steps) | {
        "num_slices": int(losses.num_slices.sum()),
        "num_patients": len(losses.num_slices),
        "minutes": None if num_done else round((time.perf_counter() - started) / 60, 1),
    }


def show(result: Mapping[str, Any], what: str, n_jobs: int) -> None:
    """Print the tables, the sizes with `what` there is beside them, and the line of JSON."""
    for line in table_lines(result):
        print(line)
    sizes = f"{result['num_slices']} slices of {result['num_patients']} patients{what}"
    minutes = result["minutes"]
    time_taken = "" if minutes is None else f"; {minutes} minutes with {n_jobs} processes"
    print(f"\n{sizes}{time_taken}")
    print(json.dumps(result))


def table_lines(compared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    head = "| level | weighted log loss | 95 % interval | of the prior | 95 % interval | by seed |"
    lines = [head, "|---|---|---|---|---|---|"]
    for level, values in compared["levels"].items():
        low, high = values["interval"]
        seeds = ", ".join(f"{value:.4f}" for value in values["by_seed"])
        bounds = " to ".join(f"{value:.3f}" for value in values["to_prior_interval"])
        lines.append(
            f"| {level} | {values['mean']:.4f} | {low:.4f} to {high:.4f} | "
            f"{values['to_prior']:.3f} | {bounds} | {seeds} |"
        )
    lines += ["", "| step | gain | 95 % interval | by seed |", "|---|---|---|---|"]
    for step, values in compared["steps"].items():
        low, high = values["interval"]
        seeds = ", ".join(f"{value:+.4f}" for value in values["by_seed"])
        lines.append(f"| {step} | {values['mean']:+.4f} | {low:+.4f} to {high:+.4f} | {seeds} |")
    return lines
