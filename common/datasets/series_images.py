"""Whole series, or windows of them, as samples: the images of their slices in order."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.datasets.series import AbstractSeriesDataset, SeriesAugmentation
from common.slices.pixel_steps import NO_STEPS, PixelSteps, SeriesPlan
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from common.windows import AIR_HU

logger = logging.getLogger(__name__)

# HU (rows, columns, slices), a seed, the header's window, the distance of rows, columns and slices
# in mm -> float32 (channels, rows, columns).
ImageTransform = Callable[[np.ndarray, int, np.ndarray, np.ndarray], np.ndarray]


class SeriesImageDataset(AbstractSeriesDataset):
    """Groups of a slice table (series) as sequences of images; see the base for attributes.

    A sample is a dict: `images` float32 (slices, channels, rows, columns), `metadata` (slices, 5)
    and `position_mm` (slices,) as in `common.datasets.series`, `labels` (slices, labels), NaN where
    unknown, and `index` (slices,), the place of each slice in `rows`, -1 where it is context only.

    All slices of a sample are transformed with the same draw: a turned head is turned as a whole.
    Draws depend on (seed, epoch, series).

    Args:
        rows: readable rows of the table that count in loss and metrics.
        slice_offsets: neighbours in the image of each slice, by rank.
        steps: what is done to the pixels of a slice first, such as a grid in mm.
        skips_damaged: whether slices that turn out to be damaged are left out of their series; else
            they raise UnreadableSlice.
    """

    fillings: ClassVar = {**AbstractSeriesDataset.fillings, "images": 0.0}

    def __init__(
        self,
        table: SliceTable,
        rows: NDArray[np.int64],
        transform: ImageTransform,
        label_names: Sequence[str],
        augmentation: SeriesAugmentation | None = None,
        slice_offsets: Sequence[int] = (0,),
        steps: PixelSteps = NO_STEPS,
        seed: int = 0,
        view: int = 0,
        skips_damaged: bool = False,
        study_labels: pd.DataFrame | None = None,
    ) -> None:
        groups = table.groups_of(rows)
        super().__init__(table, groups, rows, label_names, augmentation, seed + view, study_labels)
        self.transform = transform
        self.slice_offsets = tuple(slice_offsets)
        self.steps = steps
        self.skips_damaged = skips_damaged
        self._header_windows = table.header_windows(self._rows)
        self._spacings_mm = table.spacings_mm(self._rows)

    def with_rows(self, rows: NDArray[np.int64], transform: ImageTransform) -> "SeriesImageDataset":
        """Return the series that hold some rows, with another transform and no augmentation."""
        return SeriesImageDataset(
            self.table,
            rows,
            transform,
            self.label_names,
            slice_offsets=self.slice_offsets,
            steps=self.steps,
            seed=self.seed,
            study_labels=self.study_labels,
        )

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        steps = self._draw(index, seed)
        images, is_read = self._images(steps.places, seed)
        slice_index = self._index[steps.places]
        if not is_read.any():
            images, is_read[0] = self._air(int(steps.places[0]), seed), True
            slice_index = np.full_like(slice_index, -1)
        return {
            "images": images,
            **self._sample(index, steps.only(is_read), slice_index[is_read]),
        }

    def _images(self, places: NDArray[np.int64], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of slices that can be read (slices, channels, rows, columns), and bool
        (places,): which these are.
        """
        images = []
        is_read = np.ones(len(places), dtype=bool)
        for number, place in enumerate(places):
            try:
                image_hu = self._image_hu(int(place))
                images.append(self._transformed(image_hu, int(place), seed))
            except UnreadableSlice as error:
                if not self.skips_damaged:
                    raise
                row = int(self._rows[place])
                logger.warning("image %s can't be read: %s", self.table.image_id(row), error)
                is_read[number] = False
        return np.stack(images) if images else np.empty(0, np.float32), is_read

    def _air(self, place: int, seed: int) -> np.ndarray:
        """Return one image of air, in place of a series without a readable slice."""
        size = self.table.frame.loc[int(self._rows[place]), ["rows", "columns"]]
        shape = [self.steps.size] * 2 if self.steps.size else size.to_numpy(np.int64).tolist()
        air_hu = np.full((*shape, len(self.slice_offsets)), AIR_HU, dtype=np.int16)
        return self._transformed(air_hu, place, seed)[None]

    def _transformed(self, image_hu: np.ndarray, place: int, seed: int) -> np.ndarray:
        spacing_mm = self._spacings_mm[place].copy()
        if self.steps:
            size = self.table.frame.loc[int(self._rows[place]), ["rows", "columns"]]
            spacing_mm[:2] *= self._plan(place, tuple(size.to_numpy(np.int64).tolist())).scale
        return self.transform(image_hu, seed, self._header_windows[place], spacing_mm)

    def _plan(self, place: int, shape: tuple[int, int]) -> SeriesPlan:
        row_mm, column_mm = self._spacings_mm[place, :2].tolist()
        return self.steps.plan(shape, (_known(row_mm), _known(column_mm)))

    def _image_hu(self, place: int) -> np.ndarray:
        """Return a slice and its neighbours, int16 HU (rows, columns, slices)."""
        rows = self.table.neighbour_rows(int(self._rows[place]), self.slice_offsets)
        slices = [self.table.image_hu(row) for row in rows]
        if self.steps:
            plan = self._plan(place, (slices[0].shape[0], slices[0].shape[1]))
            slices = [plan.apply(image_hu) for image_hu in slices]
        return np.stack(slices, axis=-1)


def _known(value_mm: float) -> float | None:
    return None if np.isnan(value_mm) else value_mm
