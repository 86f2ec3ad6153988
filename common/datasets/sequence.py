"""Whole series as samples: the outputs of slice networks, in anatomical order."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.datasets.series import AbstractSeriesDataset, SeriesAugmentation, padded
from common.features.slice_outputs import SliceOutputs
from common.slices.table import SliceTable


class SequenceDataset(AbstractSeriesDataset):
    """Series of a slice table as sequences of slice outputs; see the base for attributes.

    A sample is a dict with the inputs of `common.models.sequence`, one step per slice, and `labels`
    (slices, labels), NaN where unknown, and `index` (slices,), the place of each slice in `rows`,
    -1 where it is context only. Draws depend on (seed, epoch, series).

    Slices without outputs are skipped. Gaps, rank and number of slices are those of the series
    after thinning; a crop is a window that changes none of them.

    Args:
        rows: rows of the table that count in loss and metrics, with outputs of every network.
    """

    fillings: ClassVar = {**AbstractSeriesDataset.fillings, "logits": 0.0}

    def __init__(
        self,
        table: SliceTable,
        rows: NDArray[np.int64],
        outputs: Sequence[SliceOutputs],
        label_names: Sequence[str],
        augmentation: SeriesAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        known = np.logical_and.reduce([output.is_known for output in outputs])
        assert known[rows].all(), "slices without outputs"
        groups = [group[known[group]] for group in table.groups_of(rows)]
        super().__init__(table, groups, rows, label_names, augmentation, seed)
        self.outputs = list(outputs)

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        steps = self._draw(index, seed)
        rows = self._rows[steps.places]
        logits = np.concatenate([output.logits[rows] for output in self.outputs], axis=1)
        return {
            "features": [
                output.read_features(rows) for output in self.outputs if output.features is not None
            ],
            "logits": logits,
            **self._sample(index, steps, self._index[steps.places]),
        }

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        features = [padded(values) for values in zip(*(s["features"] for s in samples))]
        return {"features": features, **super().collate(samples)}

    def with_rows(self, rows: NDArray[np.int64]) -> "SequenceDataset":
        """Return the series that hold some of the rows, without augmentation."""
        return SequenceDataset(self.table, rows, self.outputs, self.label_names, seed=self.seed)
