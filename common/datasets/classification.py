"""Slices and their labels, as arrays."""

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from common.albumentations import usable_windows
from common.datasets.base import AbstractDataset
from common.slices.store import UnreadableSlice
from common.slices.table import AIR_ROW, PastEnd, SliceTable
from common.transforms import SampleTransform
from common.transforms.physics import USUAL_FIELD_MM
from common.windows import AIR_HU

if TYPE_CHECKING:
    from common.transforms.device import HostTransform

logger = logging.getLogger(__name__)


class ImageClassificationDataset(AbstractDataset):
    """Rows of a slice table as images and labels.

    A sample is a dict: `image` float32 (channels, rows, columns), `labels` float32 (labels,) with
    NaN where unknown, and `index`, its place in `rows`.

    With `host_transform` set, the image is what is left to the loader (int16 HU as a rule), and a
    batch has `draws` too: the rows of `HostTransform`, a numpy array that stays on the CPU.

    Args:
        table: the slices; neighbours are looked up in all of it, whatever `rows` holds.
        slice_offsets: neighbours that a sample holds, by rank; (0,) is the slice alone.
        view: number of the view; each draws differently.
        offsets_mm: as many distances along the slice normal in place of `slice_offsets`, which
            then count only in series whose slices have no positions; empty: none.
        past_end: what stands for neighbours beyond either end of a series.
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
        offsets_mm: Sequence[float] = (),
        past_end: PastEnd = "last",
    ) -> None:
        super().__init__(seed + view)
        self.past_end = past_end
        self.table = table
        self.transform = transform
        self.host_transform: HostTransform | None = None
        self.label_names = tuple(label_names)
        self.slice_offsets = tuple(slice_offsets)
        self.offsets_mm = tuple(offsets_mm)
        assert len(self.offsets_mm) in (0, len(self.slice_offsets))
        self.rows = np.asarray(rows, dtype=np.int64)
        known = self._known_of(self.rows)
        self.image_ids, self.labels, self.header_windows, self.spacings_mm = known

    def _known_of(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        frame = self.table.frame
        image_ids = frame["image_id"].to_numpy(dtype=object)[rows]
        labels = frame[list(self.label_names)].to_numpy(np.float32, na_value=np.nan)
        spacings_mm = self.table.spacings_mm(rows)
        if len(self.offsets_mm) > 1:  # of the nearest slices, which may lie farther apart
            step_mm = np.abs(np.diff(self.offsets_mm)).mean()
            spacings_mm[:, 2] = np.fmax(spacings_mm[:, 2], step_mm)
        elif len(self.slice_offsets) > 1:
            spacings_mm[:, 2] *= np.abs(np.diff(self.slice_offsets)).mean()
        return image_ids, labels[rows], self.table.header_windows(rows), spacings_mm

    def with_rows(
        self, rows: Sequence[int] | np.ndarray, transform: SampleTransform | None = None
    ) -> Self:
        """Return a dataset of other rows of the same table, which makes the same of them.

        Its images are made in the loader, by `transform` where one is given.
        """
        other = copy.copy(self)
        other.host_transform = None
        other.transform = self.transform if transform is None else transform
        other.rows = np.asarray(rows, dtype=np.int64)
        known = self._known_of(other.rows)
        other.image_ids, other.labels, other.header_windows, other.spacings_mm = known
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        return str(self.image_ids[index])

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        slices = self.slices_hu(index)
        window, spacing_mm = self.header_windows[index], self.spacings_mm[index]
        others = {"labels": self.labels[index], "index": index}
        if self.host_transform is not None:
            image_hu = slices[0][None] if len(slices) == 1 else np.stack(slices)
            image, draws = self.host_transform(image_hu, seed, window, spacing_mm)
            return {"image": image, "draws": draws, **others}
        image_hu = np.stack(slices, axis=-1)
        image = self.transform(image_hu, seed, window, spacing_mm, self.image_memory)
        return {"image": image, **others}

    def slices_hu(self, index: int) -> list[np.ndarray]:
        """Return the slices of a sample as int16 HU (rows, columns), in the order of the offsets.

        A neighbour with damaged pixels is skipped.

        Raises:
            UnreadableSlice: the slice itself is damaged.
        """
        own = int(self.rows[index])
        damaged: set[int] = set()
        while True:
            rows = self.table.sample_rows(
                own, self.slice_offsets, self.offsets_mm, damaged, self.past_end
            )
            slices: dict[int, np.ndarray] = {}
            for row in dict.fromkeys((own, *rows)):
                if row == AIR_ROW:
                    slices[row] = np.full_like(slices[own], AIR_HU)
                    continue
                try:
                    slices[row] = self.table.image_hu(row)
                except UnreadableSlice as error:
                    if row == own:
                        raise
                    damaged.add(row)
                    image_id = self.table.image_id(row)
                    logger.warning("image %s is skipped as a neighbour: %s", image_id, error)
            if slices.keys() >= set(rows):
                return [slices[row] for row in rows]

    def count_fallbacks(self) -> dict[str, int]:
        """Return how many samples are made otherwise than asked for, by what they lack.

        No sample is left out. Counted from the table, not from the pixels.
        """
        counts = {}
        if self.offsets_mm:
            unplaced = int((~self.table.has_positions(self.rows)).sum())
            counts["positions: neighbours by number instead of by distance"] = unplaced
        fallback = self.transform.header_fallback
        if fallback is not None:
            center, width = fallback
            unnamed = int((~usable_windows(self.header_windows)).sum())
            counts[f"a window in their header: {center:g}/{width:g} (center/width)"] = unnamed
        in_mm = self.transform.transforms_in_mm
        if in_mm:
            unknown = int(np.isnan(self.spacings_mm[:, :2]).any(axis=1).sum())
            counts[f"a pixel spacing: {USUAL_FIELD_MM:g} mm is taken for their larger side"] = (
                unknown
            )
        if "SliceThickness" in in_mm and len(self.slice_offsets) == 1:
            counts["neighbours in their sample: SliceThickness has no effect"] = len(self)
        return {what: count for what, count in counts.items() if count}

    def warn_of_fallbacks(self, side: str) -> None:
        """Log a warning per entry of `count_fallbacks`; `side` names the dataset in the message."""
        for what, count in self.count_fallbacks().items():
            logger.warning("%s: %d of %d slices lack %s", side, count, len(self), what)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch; images of different sizes, for the device, are padded right and below."""
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
        """Return the share of positives per label among the known ones, float64 (labels,)."""
        return np.nanmean(self.labels.astype(np.float64), axis=0)
