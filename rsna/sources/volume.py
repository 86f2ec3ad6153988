"""A volume in memory as a source: one study, prepared as DICOM files of the same pixels are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from common.dicom import RejectedFile, SliceHeader
from common.dicom.checks import MAX_FRAMES, MAX_MATRIX, MAX_PIXELS
from common.dicom.hounsfield import to_hounsfield
from common.dicom.plausibility import (
    BELOW_FAT_HU,
    LEAST_MATRIX,
    why_implausible,
    why_slices_implausible,
)
from common.errors import InputError
from common.preparation import FILE_COLUMNS, DecodedImage
from rsna.sources.base import AbstractSource

FIELD_OF_VIEW_MM = (50.0, 1000.0)
"""Of rows and of columns: scanners show 500 mm at most, a cut-out head is larger than the least."""
SLICE_MM = (0.1, 20.0)
MOST_UNEQUAL = 2.0
"""Pixels of CT are square: a larger ratio of their sides is another axis than was meant."""
_NAME = "volume"
_IDS = ("patient_id", "study_id", "series_id")


class VolumeSource(AbstractSource):
    """The slices of an array, which are named by their number from 0.

    Args:
        hu, spacing: see `rsna.predictor.Predictor.predict_volume`.

    Raises:
        InputError: they can't be those of a head.
    """

    name: ClassVar[str] = _NAME

    def __init__(self, hu: ArrayLike, spacing: Sequence[float]) -> None:
        super().__init__(Path("/"))  # no file of it lies anywhere
        values = np.asarray(hu)
        _check_array(values)
        spacing_mm = _checked_spacing(spacing, values.shape)
        self._reader = VolumeReader(_to_pixels(values), spacing_mm)

    @property
    def reader(self) -> "VolumeReader":
        return self._reader

    def files(self) -> pd.DataFrame:
        return pd.DataFrame([(_NAME, "none", 0, 0)], columns=list(FILE_COLUMNS))


@dataclass(frozen=True, eq=False)
class VolumeReader:
    """Reads slices that are HU already, from the lowest to the highest.

    Attributes:
        pixels: of all slices.
        spacing_mm: of slices, rows and columns.
    """

    pixels: DecodedImage
    spacing_mm: tuple[float, float, float]
    version: str = "volume 1"

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        num_slices, rows, columns = self.pixels.image_hu.shape
        return [
            _header((rows, columns), num_slices, index, self.spacing_mm)
            for index in range(num_slices)
        ]

    def read_ids(self, source_file: str) -> dict[str, str]:
        return dict.fromkeys(_IDS, _NAME)

    def read_pixels(self, source_file: str) -> DecodedImage:
        return self.pixels


def _header(
    shape: tuple[int, int],
    num_slices: int,
    index: int,
    spacing_mm: tuple[float, float, float],
) -> SliceHeader:
    ids: dict[str, Any] = dict.fromkeys(_IDS, _NAME)
    return SliceHeader(
        **ids,
        image_id=str(index),
        frame=index,
        instance_number=index + 1,
        position=(0.0, 0.0, index * spacing_mm[0]),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        rows=shape[0],
        columns=shape[1],
        spacing_row=spacing_mm[1],
        spacing_column=spacing_mm[2],
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        rescale_slope=1.0,
        rescale_intercept=0.0,
        num_frames=num_slices,
    )


def _check_array(values: np.ndarray) -> None:
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "iuf":
        raise InputError(
            f"a volume of {values.dtype} {values.shape}: give integers or floats in HU, "
            f"(slices, rows, columns)"
        )
    num_slices, *matrix = values.shape
    if max(matrix) > MAX_MATRIX or num_slices > MAX_FRAMES or values.size > MAX_PIXELS:
        raise InputError(
            f"a volume of {values.shape}: above the limits of {MAX_FRAMES} slices, {MAX_MATRIX} "
            f"rows or columns, and {MAX_PIXELS} pixels"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        num_bad = int(np.count_nonzero(~np.isfinite(values)))
        raise InputError(f"the volume has {num_bad} values that are NaN or infinite: air is -1000")


def _checked_spacing(
    spacing: Sequence[float], shape: tuple[int, ...]
) -> tuple[float, float, float]:
    """Return (z, y, x) in mm as floats; InputError where no scan of a head has them."""
    what, rule = f"the spacing {spacing}", "give that of slices, rows and columns in mm, (z, y, x)"
    try:
        z, y, x = map(float, spacing)
        is_length = all(0 < length < np.inf for length in (z, y, x))
    except (TypeError, ValueError):
        is_length = False
    if not is_length:
        raise InputError(f"{what} is not three positive lengths: {rule}")
    if not SLICE_MM[0] <= z <= SLICE_MM[1]:
        raise InputError(f"{what} has slices {z:g} mm apart: {rule}")
    if max(y, x) > MOST_UNEQUAL * min(y, x):
        raise InputError(f"{what} has pixels of {y:g} x {x:g} mm, which are not square: {rule}")
    for name, length in (("rows", y * shape[1]), ("columns", x * shape[2])):
        if not FIELD_OF_VIEW_MM[0] <= length <= FIELD_OF_VIEW_MM[1]:
            raise InputError(
                f"{what} makes the {name} span {length:g} mm, which is no head: {rule}"
            )
    return z, y, x


def _to_pixels(values: np.ndarray) -> DecodedImage:
    """Return the slices as the DICOM reader returns those of a file; InputError if not HU."""
    header = _header((0, 0), 1, 0, (1.0, 1.0, 1.0))
    native = np.float64 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    try:
        slices = [to_hounsfield(image.astype(native, copy=False), header) for image in values]
    except RejectedFile as rejected:
        raise InputError(f"the volume is not in HU: {rejected.reason}") from rejected
    image_hu, counts = (
        np.stack([getattr(found, name) for found in slices]) for name in ("image_hu", "counts")
    )
    if image_hu.max() < BELOW_FAT_HU:
        raise InputError(f"nothing in the volume is denser than fat, {BELOW_FAT_HU} HU: no head")
    if min(values.shape[1:]) >= LEAST_MATRIX:
        judged = counts.copy()
        judged[list(why_slices_implausible(counts))] = 0
        num_judged = int(judged.any(axis=1).sum())
        if reason := why_implausible(judged.sum(axis=0), num_judged):
            raise InputError(f"the volume is not in HU: {reason}")
    num_padding = sum(found.num_padding for found in slices)
    return DecodedImage(image_hu, num_padding, "", counts)
