"""Optional steps that change stored pixels: head or brain mask and crop, pixel spacing, size.

They belong to a dataset (its manifest has them) and to whatever was trained on it: predictions on
other slices need the same steps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from common.errors import InputError
from common.slices.regions import head_mask, known_spacing, skull_and_cavity, skull_mask
from common.windows import AIR_HU

MANIFEST_FILE = "manifest.json"
PARAMETER = "pixels"
"""Key of the steps in the manifest's parameters, and in `training` of a predictor."""

MARGIN_MM = 5.0
BONE_MARGIN_MM = 10.0
"""Around a brain: so much of the skull is kept."""
_LEAST_BRAIN_MM = 100.0
"""A series whose cavities make a box with a shorter side shows no whole brain: a few slices of the
base, say, whose cavity may be the cerebellum alone."""
_MAX_PIXELS = 4096

Box = tuple[int, int, int, int]
Region = Literal["head", "brain"]


@dataclass(frozen=True)
class PixelSteps:
    """Pixel steps: the changes of every slice before it is stored, in this order.

    Attributes:
        head_crop: set everything outside the head to air, and cut a series to the box of its head.
        spacing_mm: resample to square pixels of this size; 0 leaves them.
        size: rows and columns. Pads to a square with air and resizes it; with a spacing, pads or
            cuts around the middle instead, so that the spacing holds. 0 leaves them.
        brain_crop: in place of head_crop: set everything outside the skull to air, and cut a series
            to the box of its brain and the bone around it.
    """

    head_crop: bool = False
    spacing_mm: float = 0.0
    size: int = 0
    brain_crop: bool = False

    def __bool__(self) -> bool:
        return (self.head_crop, self.spacing_mm, self.size, self.brain_crop) != (False, 0, 0, False)

    @property
    def region(self) -> Region | None:
        """The part of a slice that is kept; None keeps all."""
        return "brain" if self.brain_crop else "head" if self.head_crop else None

    def parameters(self) -> dict[str, Any]:
        """Return the steps for a manifest; names of store files depend on them."""
        known = asdict(self) if self else {}
        if not self.brain_crop:  # as before there was one
            known.pop("brain_crop", None)
        return known

    def flags(self) -> str:
        """Return the flags of preprocessing.py that ask for the steps."""
        return (
            f"--pre_head_crop {int(self.head_crop)} --pre_spacing {self.spacing_mm:g} "
            f"--pre_size {self.size}" + " --pre_brain_crop 1" * self.brain_crop
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
        if self.region and box is None:
            notes.append(f"no {self.region} found: not cropped")
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
            region=self.region if box is not None else None,
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
        region: all else becomes air; None keeps all.
        cut: first and last row (exclusive), first and last column.
        resampled, canvas, shape: rows and columns after each of the later steps.
        spacing_mm: of the slices as they come.
        note: what could not be done, or empty.
    """

    region: Region | None
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

    def source_box(self, shape: tuple[int, int]) -> str:
        """Return what a stored slice shows of its source of `shape`, upright, as it is recorded.

        That is its first and last row (exclusive), first and last column, in pixels of the source
        and beyond it where it was padded, and rows and columns of the source.
        """
        sides: list[float] = []
        for first, last, after, canvas in zip(
            self.cut[::2], self.cut[1::2], self.resampled, self.canvas
        ):
            scale = (last - first) / after
            start, margin = _middle(after, canvas)
            sides += [first + scale * (start - margin), first + scale * (start - margin + canvas)]
        return " ".join(f"{side:.10g}" for side in (*sides, *shape))

    def apply(self, image_hu: np.ndarray) -> np.ndarray:
        """Return a slice, int16 HU (rows, columns), as it is stored: int16 HU of `shape`."""
        if self.region:
            find = skull_mask if self.region == "brain" else head_mask
            mask = find(image_hu, self.spacing_mm)
            if mask is not None:
                image_hu = np.where(mask, image_hu, np.int16(AIR_HU))
        top, bottom, left, right = self.cut
        image_hu = _resized(image_hu[top:bottom, left:right], self.resampled)
        return np.ascontiguousarray(_resized(_centred(image_hu, self.canvas), self.shape))


@dataclass
class HeadFinder:
    """Finds the box that holds the head, or the brain, in all slices of a series.

    Args:
        spacing_mm: their pixel spacing along a column and along a row, where it is known.
    """

    spacing_mm: tuple[float | None, float | None]
    region: Region = "head"
    _found: list[Box] = field(default_factory=list)
    _skulls: list[Box] = field(default_factory=list)
    _shape: tuple[int, int] = (0, 0)

    def add(self, image_hu: np.ndarray) -> None:
        """Take a slice, int16 HU (rows, columns), into account."""
        self._shape = (image_hu.shape[0], image_hu.shape[1])
        if self.region == "head":
            self._found += _box_of(head_mask(image_hu, self.spacing_mm))
            return
        skull, cavity = skull_and_cavity(image_hu, self.spacing_mm)
        self._skulls += _box_of(skull)
        self._found += _box_of(cavity)

    def box(self) -> Box | None:
        """Return rows and columns that hold the region with a margin; None where none was found.

        No slice is skipped: a broad table without a head above it widens the box, which does no
        harm, but nothing of a head is ever cut. Where no slice shows a whole brain, the box is that
        of the skull.
        """
        row_mm, column_mm = known_spacing(self.spacing_mm)
        found, margin_mm = _union(self._found), MARGIN_MM
        if self.region == "brain":
            margin_mm = BONE_MARGIN_MM
            sides = found and ((found[1] - found[0]) * row_mm, (found[3] - found[2]) * column_mm)
            if not sides or min(sides) < _LEAST_BRAIN_MM:
                found = _union(self._skulls)
        if found is None:
            return None
        rows, columns = round(margin_mm / row_mm), round(margin_mm / column_mm)
        return (
            max(0, found[0] - rows),
            min(self._shape[0], found[1] + rows),
            max(0, found[2] - columns),
            min(self._shape[1], found[3] + columns),
        )


def _box_of(mask: np.ndarray | None) -> list[Box]:
    """Return the box of a mask; none where it is empty."""
    if mask is None or not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)]


def _union(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    tops, bottoms, lefts, rights = zip(*boxes)
    return min(tops), max(bottoms), min(lefts), max(rights)


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
    """Raise InputError where a dataset has other steps than a predictor was trained on."""
    wanted, found = steps_of(training), recorded_steps(dataset_folder)
    if wanted != found:
        raise InputError(
            f"{dataset_folder} was prepared with {found.flags()}, and this predictor was trained "
            f"on slices prepared with {wanted.flags()}: prepare the data with the latter"
        )


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
        start, margin = _middle(before, after)
        source.append(slice(start, start + length))
        target.append(slice(margin, margin + length))
    result[tuple(target)] = image_hu[tuple(source)]
    return result


def _middle(before: int, after: int) -> tuple[int, int]:
    """Return where `_centred` starts to read in `before` pixels, and to write in `after`."""
    length = min(before, after)
    return (before - length) // 2, (after - length) // 2
