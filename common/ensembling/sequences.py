"""Values of slices laid out series by series, so that neighbours are found for all at once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.scoring.metrics import Floats, require_probabilities
from common.slices.table import SliceTable


class SliceSequences:
    """Rows of a slice table by series, in anatomical order.

    A series here is a group of `SliceTable`: the readable slices of one store file. Each of its
    slices has a slot; those that are not among the rows have one too, and no value.

    Args:
        rows: int (n,), readable rows of it, each once.

    Attributes:
        places: int (n,), the number of each row in its series, from 0.
        sizes: int (n,), how many slices its series has.
        series: int (n,), the number of its series, from 0.
    """

    def __init__(self, table: SliceTable, rows: ArrayLike) -> None:
        rows = np.asarray(rows, dtype=np.int64)
        self.places, self.sizes = table.places(rows)
        files = table.frame["store_file"].iloc[rows]
        self.series: NDArray[np.int64] = pd.factorize(files)[0].astype(np.int64)
        num_series = int(self.series.max()) + 1 if len(rows) else 0
        lengths = np.zeros(num_series, dtype=np.int64)
        lengths[self.series] = self.sizes
        starts = np.concatenate(([0], np.cumsum(lengths)))
        self._slots = starts[self.series] + self.places
        self._series_of_slot = np.repeat(np.arange(num_series), lengths)
        positions = table.frame["position_mm"].to_numpy(dtype=np.float64)[rows]
        self._positions_mm = self._spread(positions)
        self.largest = int(lengths.max()) if num_series else 0

    def __len__(self) -> int:
        return len(self._slots)

    def shifted(self, values: ArrayLike, offset: int) -> Floats:
        """Return the values (n, ...) of the slices `offset` slices on in the series of each row.

        NaN past either end, and where that slice is not among the rows.
        """
        spread = self._spread(np.asarray(values))
        return self._shift(spread, offset)[self._slots]

    def gaps_mm(self, offset: int) -> Floats:
        """Return how far the slices `offset` slices on are from each row, in mm, float64 (n,).

        NaN as in `shifted`, and where a position is unknown.
        """
        return np.abs(self._shift(self._positions_mm, offset) - self._positions_mm)[self._slots]

    def series_statistic(
        self, values: ArrayLike, name: Literal["mean", "max", "std"]
    ) -> NDArray[np.floating]:
        """Return a statistic of the values (n, k) over the series of each row."""
        frame = pd.DataFrame(np.asarray(values, dtype=np.float64))
        grouped = frame.groupby(self.series)
        if name == "std":
            deviations = frame - grouped.transform("mean")
            return np.sqrt((deviations**2).groupby(self.series).transform("mean").to_numpy())
        return grouped.transform(name).to_numpy()

    @property
    def has_positions(self) -> NDArray[np.bool_]:
        """bool (n,): whether the position of each row is known."""
        return np.isfinite(self._positions_mm[self._slots])

    def _spread(self, values: NDArray) -> Floats:
        spread = np.full((len(self._series_of_slot), *values.shape[1:]), np.nan, values.dtype)
        spread[self._slots] = values
        return spread

    def _shift(self, spread: Floats, offset: int) -> Floats:
        """Return what stands `offset` slots on in the same series."""
        shifted = np.full_like(spread, np.nan)
        num = len(spread)
        if abs(offset) >= num:
            return shifted
        source = slice(max(offset, 0), num + min(offset, 0))
        target = slice(max(-offset, 0), num + min(-offset, 0))
        same = self._series_of_slot[source] == self._series_of_slot[target]
        shifted[target][same] = spread[source][same]
        return shifted


@dataclass(frozen=True)
class LevelInputs:
    """First-level predictions of n slices, and what else is known of them without labels.

    Attributes:
        logits: float32 (n, experiments, labels).
        brain_fraction: float32 (n,), share of pixels from 0 to 80 HU, NaN where unknown.
    """

    sequences: SliceSequences
    logits: NDArray[np.float32]
    brain_fraction: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.logits)


def level_inputs(table: SliceTable, rows: ArrayLike, logits: ArrayLike) -> LevelInputs:
    """Return the inputs for readable rows of a table and logits (n, experiments, labels)."""
    rows = np.asarray(rows, dtype=np.int64)
    values = np.asarray(require_probabilities(logits, what="logit"), dtype=np.float32)
    assert values.ndim == 3 and len(values) == len(rows), values.shape
    fraction = table.frame["brain_fraction"].to_numpy(dtype=np.float32, na_value=np.nan)[rows]
    return LevelInputs(SliceSequences(table, rows), values, fraction)
