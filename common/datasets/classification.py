"""Slices and their labels, as tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.datasets.base import AbstractDataset
from common.slices import SliceTable
from common.transforms import SampleTransform
from common.transforms.device import HostTransform
from common.transforms.pipeline import AIR_HU


class ImageClassificationDataset(AbstractDataset):
    """Rows of a slice table as images and labels.

    A sample is a dict: `image` float32 (channels, rows, columns), `labels` float32 (labels,) with
    NaN where unknown, and `index`, its place in `rows`.

    With `host_transform` set, the image is what is left to the loader (int16 HU as a rule), and a
    batch has `draws` too: the rows of `HostTransform`, a numpy array that stays on the CPU.

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
        self.host_transform: HostTransform | None = None
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
        slices = [self.table.image_hu(row) for row in rows]
        others = {"labels": torch.from_numpy(self.labels[index]), "index": index}
        if self.host_transform is not None:
            image_hu = slices[0][None] if len(slices) == 1 else np.stack(slices)
            image, draws = self.host_transform(image_hu, seed)
            return {"image": torch.from_numpy(image), "draws": draws, **others}
        image = self.transform(np.stack(slices, axis=-1), seed)
        return {"image": torch.from_numpy(image), **others}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; images of different sizes, for the device, are padded right and below."""
        if self.host_transform is None:
            return super().collate(samples)
        draws = np.stack([sample.pop("draws") for sample in samples])
        shapes = [sample["image"].shape for sample in samples]
        largest = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
        for sample, shape in zip(samples, shapes):
            if tuple(shape) != tuple(largest):
                padded = sample["image"].new_full(largest, AIR_HU)
                padded[:, : shape[1], : shape[2]] = sample["image"]
                sample["image"] = padded
        return {**super().collate(samples), "draws": draws}

    def prevalence(self) -> np.ndarray:
        """Share of positives per label among the known ones, float64 (labels,)."""
        return np.nanmean(self.labels.astype(np.float64), axis=0)
