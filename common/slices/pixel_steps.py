"""Optional steps that change stored pixels: head mask and crop, pixel spacing, size.

They belong to a dataset (its manifest has them) and to whatever was trained on it: predictions on
other slices need the same steps.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import InputError
from common.windows import AIR_HU

MANIFEST_FILE = "manifest.json"
PARAMETER = "pixels"
"""Key of the steps in the manifest's parameters, and in `training` of a predictor."""

HEAD_HU = -200
"""Above it lies tissue, below it air and the foam of head rests; fat is about -100."""
OPENING_MM = 7.0
"""Parts thinner than this are not of the head: shells of tables, straps, tubes."""
MARGIN_MM = 5.0
USUAL_SPACING_MM = 0.5
"""Taken for the widths above where the pixel spacing is unknown."""
# Below that it may be a bit of a table in a slice above the head.
_LEAST_HEAD_MM2 = 400.0
_MAX_PIXELS = 4096

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PixelSteps:
    """Pixel steps: the changes of every slice before it is stored, in this order.

    Attributes:
        head_crop: set everything outside the head to air, and cut a series to the box of its head.
        spacing_mm: resample to square pixels of this size; 0 leaves them.
        size: rows and columns. Pads to a square with air and resizes it; with a spacing, pads or
            cuts around the middle instead, so that the spacing holds. 0 leaves them.
    """

    head_crop: bool = False
    spacing_mm: float = 0.0
    size: int = 0

    def __bool__(self) -> bool:
        return (self.head_crop, self.spacing_mm, self.size) != (False, 0, 0)

    def parameters(self) -> dict[str, Any]:
        return asdict(self) if self else {}

    def flags(self) -> str:
        """Return the flags of preprocessing.py that ask for the steps."""
        return (
            f"--pre_head_crop {int(self.head_crop)} --pre_spacing {self.spacing_mm:g} "
            f"--pre_size {self.size}"
        )

    def plan(
        self,
        shape: tuple[int, int],
        spacing_mm: tuple[float | None, float | None],
        box: Box | None = None,
    ) -> "SeriesPlan":
        """Return the plan for the slices of one series.

        Args:
            shape: their rows and columns.
            spacing_mm: their pixel spacing along a column and along a row, where it is known.
            box: of the head (`HeadFinder.box`); None cuts nothing.
        """
        notes = []
        if self.head_crop and box is None:
            notes.append("no head found: not cropped")
        cut = box or (0, shape[0], 0, shape[1])
        inner = (cut[1] - cut[0], cut[3] - cut[2])
        resampled = inner
        if self.spacing_mm:
            row, column = spacing_mm
            if row and column:
                counts = [round(n * s / self.spacing_mm) for n, s in zip(inner, (row, column))]
                resampled = (max(1, counts[0]), max(1, counts[1]))
                if max(resampled) > _MAX_PIXELS:
                    resampled = inner
                    notes.append(f"more than {_MAX_PIXELS} pixels: not resampled")
            else:
                notes.append("the pixel spacing is unknown: not resampled")
        canvas = resampled
        if self.size and self.spacing_mm:
            canvas = (self.size, self.size)
            if max(resampled) > self.size:
                notes.append(
                    "larger than the size in pixels of this spacing: cut around the middle"
                )
        elif self.size:
            canvas = (max(resampled), max(resampled))
        final = (self.size, self.size) if self.size else canvas
        return SeriesPlan(
            head_mask=self.head_crop and box is not None,
            cut=cut,
            resampled=resampled,
            canvas=canvas,
            shape=final,
            spacing_mm=spacing_mm,
            note="; ".join(notes),
        )


NO_STEPS = PixelSteps()


@dataclass(frozen=True)
class SeriesPlan:
    """The steps for the slices of one series: mask, cut, resample, pad or cut, resize.

    Attributes:
        head_mask: whether what is not head becomes air.
        cut: first and last row (exclusive), first and last column.
        resampled, canvas, shape: rows and columns after each of the later steps.
        spacing_mm: of the slices as they come.
        note: what could not be done, or empty.
    """

    head_mask: bool
    cut: Box
    resampled: tuple[int, int]
    canvas: tuple[int, int]
    shape: tuple[int, int]
    spacing_mm: tuple[float | None, float | None]
    note: str

    @property
    def scale(self) -> tuple[float, float]:
        """By how much pixels get larger, along a column and along a row."""
        inner = (self.cut[1] - self.cut[0], self.cut[3] - self.cut[2])
        factors = [
            before / after * canvas / final
            for before, after, canvas, final in zip(inner, self.resampled, self.canvas, self.shape)
        ]
        return factors[0], factors[1]

    def apply(self, image_hu: np.ndarray) -> np.ndarray:
        """Return a slice, int16 HU (rows, columns), as it is stored: int16 HU of `shape`."""
        if self.head_mask:
            mask = head_mask(image_hu, self.spacing_mm)
            if mask is not None:
                image_hu = np.where(mask, image_hu, np.int16(AIR_HU))
        top, bottom, left, right = self.cut
        image_hu = _resized(image_hu[top:bottom, left:right], self.resampled)
        return np.ascontiguousarray(_resized(_centred(image_hu, self.canvas), self.shape))


@dataclass
class HeadFinder:
    """Finds the box that holds the head in all slices of a series.

    Args:
        spacing_mm: their pixel spacing along a column and along a row, where it is known.
    """

    spacing_mm: tuple[float | None, float | None]
    _found: list[Box] = field(default_factory=list)
    _shape: tuple[int, int] = (0, 0)

    def add(self, image_hu: np.ndarray) -> None:
        """Take a slice, int16 HU (rows, columns), into account."""
        self._shape = (image_hu.shape[0], image_hu.shape[1])
        mask = head_mask(image_hu, self.spacing_mm)
        if mask is not None:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            ends = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
            self._found.append(ends)

    def box(self) -> Box | None:
        """Return rows and columns that hold the head with a margin; None where none was found.

        No slice is skipped: a broad table without a head above it widens the box, which does no
        harm, but nothing of a head is ever cut.
        """
        if not self._found:
            return None
        row_mm, column_mm = known_spacing(self.spacing_mm)
        margin_rows, margin_columns = round(MARGIN_MM / row_mm), round(MARGIN_MM / column_mm)
        tops, bottoms, lefts, rights = zip(*self._found)
        return (
            max(0, min(tops) - margin_rows),
            min(self._shape[0], max(bottoms) + margin_rows),
            max(0, min(lefts) - margin_columns),
            min(self._shape[1], max(rights) + margin_columns),
        )


def head_mask(
    image_hu: np.ndarray, spacing_mm: tuple[float | None, float | None]
) -> np.ndarray | None:
    """Return which pixels of a slice belong to the head, bool; None where there is none.

    That is the largest connected part above HEAD_HU, its cavities included, once all that is
    thinner than OPENING_MM is gone. A head rest that the head touches broadly stays.
    """
    row_mm, column_mm = known_spacing(spacing_mm)
    tissue = (image_hu > HEAD_HU).astype(np.uint8)
    size = [max(1, round(OPENING_MM / mm)) | 1 for mm in (column_mm, row_mm)]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size)
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, kernel, borderValue=0)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if areas.max() * row_mm * column_mm < _LEAST_HEAD_MM2:
        return None
    largest = (labels == 1 + int(areas.argmax())).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(largest, outlines, -1, 1, cv2.FILLED)
    # Restore skin, nose and ears that the opening removed.
    return cv2.dilate(filled, kernel).astype(bool)


def recorded_steps(dataset_folder: Path) -> PixelSteps:
    """Return the steps that a dataset folder was made with; none where no manifest has any."""
    try:
        text = (dataset_folder / MANIFEST_FILE).read_text(encoding="utf-8")
        return steps_of(json.loads(text).get("parameters", {}))
    except (OSError, ValueError, AttributeError):
        return NO_STEPS


def steps_of(parameters: Mapping[str, Any]) -> PixelSteps:
    """Return the steps in a manifest's parameters, or in the `training` of a predictor."""
    return PixelSteps(**parameters.get(PARAMETER, {}))


def require_same_steps(training: Mapping[str, Any], dataset_folder: Path) -> None:
    """Raise InputError where a dataset was made with other steps than a predictor was trained on.

    Args:
        training: what the predictor knows of its training.
        dataset_folder: the prepared dataset that it shall predict.
    """
    wanted, found = steps_of(training), recorded_steps(dataset_folder)
    if wanted != found:
        raise InputError(
            f"{dataset_folder} was prepared with {found.flags()}, and this predictor was trained "
            f"on slices prepared with {wanted.flags()}: prepare the data with the latter"
        )


def known_spacing(spacing_mm: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return the pixel spacing, the usual one where it is unknown."""
    return spacing_mm[0] or USUAL_SPACING_MM, spacing_mm[1] or USUAL_SPACING_MM


def _resized(image_hu: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image resized, means of areas where it shrinks and linear where it grows."""
    if image_hu.shape == shape:
        return image_hu
    shrinks = shape[0] <= image_hu.shape[0] and shape[1] <= image_hu.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image_hu.astype(np.float32), shape[::-1], interpolation=method)
    return np.rint(resized).astype(np.int16)


def _centred(image_hu: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image padded with air, or cut, around its middle."""
    if image_hu.shape == shape:
        return image_hu
    result = np.full(shape, AIR_HU, dtype=np.int16)
    source, target = [], []
    for before, after in zip(image_hu.shape, shape):
        length = min(before, after)
        source.append(slice((before - length) // 2, (before - length) // 2 + length))
        target.append(slice((after - length) // 2, (after - length) // 2 + length))
    result[tuple(target)] = image_hu[tuple(source)]
    return result
