"""Moving averages along a series: of the predictions of neighbouring slices."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from common.ensembling.sequences import LevelInputs, SliceSequences
from common.scoring.metrics import Floats, row_log_losses

logger = logging.getLogger(__name__)

Kernel = Literal["gaussian", "uniform", "exponential"]
Unit = Literal["slices", "mm"]
Space = Literal["probabilities", "logits"]

# Where a kernel ends, in widths: its weight is below 0.3 % there.
_REACH = {"gaussian": 3.5, "uniform": 1.0, "exponential": 6.0}
# A mean of probabilities stays away from 0 and 1 by this much, as logits must be finite.
_MARGIN = 1e-7


@dataclass(frozen=True)
class Smoothing:
    """A weighted mean over the slices around each one, with a width per label.

    Attributes:
        kernel: gaussian (the width is its standard deviation), uniform (all slices up to the width
            away count alike) or exponential (the width is where the weight is 1/e).
        unit: of the widths: slices, or mm along the slice normal.
        space: whether probabilities or logits are averaged.
        widths: one per label; 0 leaves the label as it is.
    """

    kernel: Kernel
    unit: Unit
    space: Space
    widths: tuple[float, ...]

    def predict(self, inputs: LevelInputs) -> NDArray[np.float32]:
        values = inputs.logits.astype(np.float64)
        averaged = (expit(values) if self.space == "probabilities" else values).mean(axis=1)
        assert averaged.shape[1] == len(self.widths), "one width per label"
        smoothed = averaged.copy()
        for width in sorted({width for width in self.widths if width > 0}):
            columns = np.flatnonzero(np.equal(self.widths, width))
            smoothed[:, columns] = smooth(
                inputs.sequences, averaged[:, columns], self.kernel, width, self.unit
            )
        if self.space == "probabilities":
            smoothed = logit(np.clip(smoothed, _MARGIN, 1 - _MARGIN))
        return smoothed.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(**{**content, "widths": tuple(content["widths"])})


def smooth(
    sequences: SliceSequences, values: Floats, kernel: Kernel, width: float, unit: Unit
) -> Floats:
    """Return the mean of values (n, k) around each row, weighted by distance.

    Slices that have no value, or with the unit mm no position, have no part in it; past the ends
    of a series there is nothing. A row without a position keeps its value.
    """
    total, weights = values.astype(np.float64), np.ones((len(values), 1))
    for offset in range(1, sequences.largest):
        reached = False
        for signed in (offset, -offset):
            distance = _distances(sequences, signed, unit)
            weight = _weights(kernel, distance, width)[:, None]
            shifted = sequences.shifted(values, signed)
            weight = np.where(np.isfinite(shifted[:, :1]), weight, 0.0)
            reached |= bool(weight.any())
            total += weight * np.where(weight > 0, shifted, 0.0)
            weights += weight
        # Distances grow with the offset where positions rise: nothing comes any more.
        if not reached and _is_past(sequences, offset, unit, kernel, width):
            break
    return total / weights


def choose_smoothings(
    inputs: LevelInputs,
    labels: Floats,
    folds: NDArray[np.int64],
    widths: Sequence[float],
    kernel: Kernel,
    unit: Unit,
    space: Space,
) -> dict[int, Smoothing]:
    """Return for each fold the widths that have the least log loss on all other folds.

    Args:
        labels: (n, k), NaN where unknown.
        folds: (n,), in which fold each was predicted.
        widths: those to choose from, per label; 0 is always one of them.
    """
    if unit == "mm" and not inputs.sequences.has_positions.all():
        num = int((~inputs.sequences.has_positions).sum())
        logger.warning("%d slices have no position in mm: they are not smoothed", num)
    candidates = sorted({0.0, *map(float, widths)})
    num_labels = labels.shape[1]
    known = sorted(set(folds.tolist()))
    losses = np.full((len(known), len(candidates), num_labels), np.inf)
    for place, width in enumerate(candidates):
        candidate = Smoothing(kernel, unit, space, (width,) * num_labels)
        of_rows = row_log_losses(labels, expit(candidate.predict(inputs).astype(np.float64)))
        for number, fold in enumerate(known):
            others = of_rows[folds != fold]
            is_known = ~np.isnan(others)
            sums, counts = np.where(is_known, others, 0).sum(axis=0), is_known.sum(axis=0)
            losses[number, place] = sums / np.maximum(counts, 1)
    chosen = losses.argmin(axis=1)
    return {
        fold: Smoothing(kernel, unit, space, tuple(candidates[i] for i in chosen[number]))
        for number, fold in enumerate(known)
    }


def _distances(sequences: SliceSequences, offset: int, unit: Unit) -> Floats:
    if unit == "mm":
        return sequences.gaps_mm(offset)
    return np.full(len(sequences), float(abs(offset)))


def _weights(kernel: Kernel, distance: Floats, width: float) -> Floats:
    """Return the weights at distances; 0 beyond the reach of the kernel and where unknown."""
    scaled = distance / width
    if kernel == "gaussian":
        weights = np.exp(-0.5 * scaled**2)
    elif kernel == "exponential":
        weights = np.exp(-scaled)
    else:
        weights = np.ones_like(scaled)
    return np.where(scaled <= _REACH[kernel] + 1e-9, weights, 0.0)


def _is_past(
    sequences: SliceSequences, offset: int, unit: Unit, kernel: Kernel, width: float
) -> bool:
    """Return whether no slice `offset` or more slices away is within reach."""
    if unit == "slices":
        return offset > _REACH[kernel] * width
    gaps = sequences.gaps_mm(offset)
    known = gaps[np.isfinite(gaps)]
    return bool(len(known)) and bool(known.min() > _REACH[kernel] * width)
