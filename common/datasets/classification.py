"""Slices and their labels, as tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.datasets.base import AbstractDataset
from common.slices import SliceTable
from common.transforms import SampleTransform


class ImageClassificationDataset(AbstractDataset):
    """Rows of a slice table as images and labels.

    A sample is a dict: `image` float32 (channels, rows, columns), `labels` float32 (labels,) with
    NaN where unknown, and `index`, its place in `rows`.

    Args:
        table: the slices; neighbours are looked up in all of it, whatever `rows` holds.
        rows: the rows of the table that are samples, in this order.
        transform: makes the image from HU; see `common.transforms`.
        label_names: columns of the table that are the labels, in this order.
        slice_offsets: neighbours that a sample holds, by rank; (0,) is the slice alone.
        seed: seed of the augmentation.
        view: number of the view; each draws differently.
    """

    def __init__(
        self,
        table: SliceTable,
        rows: Sequence[int] | np.ndarray,
        transform: SampleTransform,
        label_names: Sequence[str],
        slice_offsets: Sequence[int] = (0,),
        seed: int = 0,
        view: int = 0,
    ) -> None:
        super().__init__(seed + view)
        self.table = table
        self.rows = np.asarray(rows, dtype=np.int64)
        self.transform = transform
        self.label_names = tuple(label_names)
        self.slice_offsets = tuple(slice_offsets)
        frame = table.frame
        self.image_ids = frame["image_id"].to_numpy(dtype=object)[self.rows]
        self.labels = frame[list(label_names)].to_numpy(np.float32, na_value=np.nan)[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        """The image id."""
        return str(self.image_ids[index])

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """Reads the slice and its neighbours, and transforms them with one draw."""
        rows = self.table.neighbour_rows(int(self.rows[index]), self.slice_offsets)
        image_hu = np.stack([self.table.image_hu(row) for row in rows], axis=-1)
        image = self.transform(image_hu, seed)
        return {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(self.labels[index]),
            "index": index,
        }

    def prevalence(self) -> np.ndarray:
        """Share of positives per label among the known ones, float64 (labels,)."""
        return np.nanmean(self.labels.astype(np.float64), axis=0)
