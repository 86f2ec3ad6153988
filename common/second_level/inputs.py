"""What a second level is fitted on and predicts from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.second_level.sequences import SliceSequences
from common.slices import SliceTable


@dataclass(frozen=True)
class LevelInputs:
    """First-level predictions of n slices, and what else is known of them without labels.

    Attributes:
        sequences: where the slices are in their series.
        logits: float32 (n, experiments, labels).
        brain_fraction: float32 (n,), share of pixels from 0 to 80 HU, NaN where unknown.
    """

    sequences: SliceSequences
    logits: NDArray[np.float32]
    brain_fraction: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.logits)


def level_inputs(table: SliceTable, rows: ArrayLike, logits: ArrayLike) -> LevelInputs:
    """Returns the inputs for readable rows of a table and logits (n, experiments, labels)."""
    rows = np.asarray(rows, dtype=np.int64)
    values = np.asarray(logits, dtype=np.float32)
    assert values.ndim == 3 and len(values) == len(rows), values.shape
    fraction = table.frame["brain_fraction"].to_numpy(dtype=np.float32, na_value=np.nan)[rows]
    return LevelInputs(SliceSequences(table, rows), values, fraction)
