"""Transforms for CT in the form albumentations serialises.

The path `common.albumentations` and the names of the classes are part of the JSON file format.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import Field, model_validator

from common.windows import AIR_HU, BRAIN, NETWORK_WINDOWS

_WIDTHS = tuple(window.width for window in NETWORK_WINDOWS)
_CENTERS = tuple(window.center for window in NETWORK_WINDOWS)

# Gives an array of a shape to write an image to; None where it has none, and the image needs a new
# one. Writing into the batch itself saves a copy.
Memory = Callable[[tuple[int, ...]], np.ndarray | None] | None


class DicomWindowShift(A.ImageOnlyTransform):
    """Maps HU to float32 in [0, 1] through windows whose width and center are drawn per sample.

    (height, width) or (height, width, slices) becomes (height, width, slices * windows), the
    windows of one slice beside each other. A window maps center - width / 2 to 0 and
    center + width / 2 to 1, as LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2 does, and clips beyond.
    Every slice of a sample gets the same draw.

    Args:
        window_width_mins: smallest width of each window, HU, above 0.
        window_width_maxs: largest width of each window, HU.
        window_center_mins: smallest center of each window, HU.
        window_center_maxs: largest center of each window, HU. Where the smallest and the largest
            values are the same, the window is fixed.
        min_max_normalize: stretches each channel of each image to [0, 1] after clipping; this
            loses absolute HU, and only old recipes want it. A constant channel becomes 0.
        p: must be 1: an image left in HU is of no use to what follows.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        window_width_mins: tuple[float, ...]
        window_width_maxs: tuple[float, ...]
        window_center_mins: tuple[float, ...]
        window_center_maxs: tuple[float, ...]
        min_max_normalize: bool

        @model_validator(mode="after")
        def _check_ranges(self) -> Self:
            ranges = (
                self.window_width_mins,
                self.window_width_maxs,
                self.window_center_mins,
                self.window_center_maxs,
            )
            if len({len(values) for values in ranges}) != 1 or not ranges[0]:
                raise ValueError("give as many width and center limits as there are windows")
            if min(self.window_width_mins) <= 0:
                raise ValueError("window_width_mins must be above 0")
            for name, lows, highs in (("width", *ranges[:2]), ("center", *ranges[2:])):
                if any(low > high for low, high in zip(lows, highs)):
                    raise ValueError(f"window_{name}_mins must not exceed window_{name}_maxs")
            if self.p != 1:
                raise ValueError("p must be 1: an image left in HU is of no use")
            return self

    def __init__(
        self,
        window_width_mins: tuple[float, ...] = _WIDTHS,
        window_width_maxs: tuple[float, ...] = _WIDTHS,
        window_center_mins: tuple[float, ...] = _CENTERS,
        window_center_maxs: tuple[float, ...] = _CENTERS,
        min_max_normalize: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.window_width_mins = window_width_mins
        self.window_width_maxs = window_width_maxs
        self.window_center_mins = window_center_mins
        self.window_center_maxs = window_center_maxs
        self.min_max_normalize = min_max_normalize

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random.uniform
        widths = [draw(*limits) for limits in zip(self.window_width_mins, self.window_width_maxs)]
        centers = [
            draw(*limits) for limits in zip(self.window_center_mins, self.window_center_maxs)
        ]
        return {"widths": widths, "centers": centers}

    def apply(
        self, img: np.ndarray, widths: list[float], centers: list[float], **params: Any
    ) -> np.ndarray:
        """Return float32 (height, width, slices * windows) in [0, 1]."""
        return _through_windows(img, widths, centers, self.min_max_normalize)


class HeaderWindow(A.ImageOnlyTransform):
    """Maps HU to float32 in [0, 1] through the window that the header of the slice names.

    It stands in the place of DicomWindowShift and makes one channel of each slice. All slices of a
    sample are seen through the window of the sample's own slice, which a call gets beside the
    image: `header_window=(center, width)`, in HU. Where the header names none that can be used
    (`usable_windows`), the fallback stands in.

    Args:
        fallback_width: width of the window in place of a missing one, HU; brain by default.
        fallback_center: its center, HU.
        min_max_normalize: see DicomWindowShift.
        p: must be 1.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        fallback_width: float = Field(ge=1)
        fallback_center: float
        min_max_normalize: bool

        @model_validator(mode="after")
        def _check_p(self) -> Self:
            if self.p != 1:
                raise ValueError("p must be 1: an image left in HU is of no use")
            return self

    def __init__(
        self,
        fallback_width: float = BRAIN.width,
        fallback_center: float = BRAIN.center,
        min_max_normalize: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.fallback_width = fallback_width
        self.fallback_center = fallback_center
        self.min_max_normalize = min_max_normalize

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        window = data.get("header_window")
        if window is None or not usable_windows(np.asarray(window, np.float64)):
            return {"widths": [self.fallback_width], "centers": [self.fallback_center]}
        center, width = map(float, window)
        return {"widths": [width], "centers": [center]}

    def apply(
        self, img: np.ndarray, widths: list[float], centers: list[float], **params: Any
    ) -> np.ndarray:
        """Return float32 (height, width, slices) in [0, 1]."""
        return _through_windows(img, widths, centers, self.min_max_normalize)


class NeighborSwap(A.ImageOnlyTransform):
    """Puts the slices of a sample in reverse order: the one above and the one below change places.

    (height, width, slices) stays so; a slice alone is left as it is. It works on HU.

    Args:
        p: probability that a sample is reversed.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p)

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        return np.ascontiguousarray(img[:, :, ::-1]) if img.ndim == 3 else img


class FitSize(A.ImageOnlyTransform):
    """Crops or pads at the center to a size; shrinks the whole image where a side is too large.

    It works on HU, (height, width) or (height, width, slices), and pads with air. Shrinking takes
    the mean over areas.

    Args:
        height, width: of the result, pixels.
        shrink_above: an image with a side of more pixels is shrunk, whatever its shape.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        height: int = Field(ge=1)
        width: int = Field(ge=1)
        shrink_above: int = Field(ge=1)

    def __init__(self, height: int, width: int, shrink_above: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height = height
        self.width = width
        self.shrink_above = shrink_above

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the image, (height, width) or (height, width, slices), float32."""
        if max(img.shape[:2]) > self.shrink_above:
            size = (self.width, self.height)
            slices = np.moveaxis(np.atleast_3d(img), 2, 0)
            made = [cv2.resize(np.ascontiguousarray(s), size, interpolation=cv2.INTER_AREA)
                    for s in slices]  # fmt: skip
            return np.stack(made, axis=-1).reshape(self.height, self.width, *img.shape[2:])
        fitted = np.full((self.height, self.width, *img.shape[2:]), AIR_HU, img.dtype)
        (to_y, from_y), (to_x, from_x) = (
            _middles(wanted, given)
            for wanted, given in zip((self.height, self.width), img.shape[:2], strict=True)
        )
        fitted[to_y, to_x] = img[from_y, from_x]
        return fitted


def _middles(wanted: int, given: int) -> tuple[slice, slice]:
    """Return the middle of `wanted` pixels, and that of `given` ones that goes there."""
    size = min(wanted, given)
    to, where = (wanted - size) // 2, (given - size) // 2
    return slice(to, to + size), slice(where, where + size)


def usable_windows(windows: np.ndarray) -> np.ndarray:
    """Return which of (..., 2) centers and widths in HU are windows, bool (...).

    A header may lack them; and a width below 1 shows nothing (DICOM PS3.3 C.11.2.1.2.1).
    """
    return np.isfinite(windows).all(axis=-1) & (windows[..., 1] >= 1)


def windowed_channels(
    image_hu: np.ndarray,
    widths: Sequence[float],
    centers: Sequence[float],
    stretches: bool = False,
    memory: Memory = None,
) -> np.ndarray:
    """Return all windows of all slices, slice-major, float32 (channels, height, width) in [0, 1].

    Args:
        image_hu: (height, width) or (height, width, slices), HU.
        widths, centers: those of each window, HU.
        stretches: whether each channel is stretched to [0, 1] after clipping.
        memory: gives the array of this shape to fill, or None.
    """
    slices = np.moveaxis(np.atleast_3d(image_hu), 2, 0)
    shape = (len(slices) * len(widths), *image_hu.shape[:2])
    channels = memory(shape) if memory is not None else None
    if channels is None:
        channels = np.empty(shape, np.float32)
    for one, of_slice in zip(slices, channels.reshape(len(slices), len(widths), *shape[1:])):
        one = np.ascontiguousarray(one, np.float32)
        for width, center, channel in zip(widths, centers, of_slice):
            np.subtract(one, np.float32(center - width / 2), out=channel)
            channel *= np.float32(1 / width)
            np.clip(channel, 0, 1, out=channel)
            if stretches:
                _stretch(channel)
    return channels


def _through_windows(
    img: np.ndarray, widths: list[float], centers: list[float], stretches: bool
) -> np.ndarray:
    channels = windowed_channels(img, widths, centers, stretches)
    # OpenCV drops the third axis of a single channel.
    return cv2.merge(list(channels)).reshape(*img.shape[:2], len(channels))


def _stretch(channel: np.ndarray) -> None:
    low, high = float(channel.min()), float(channel.max())
    if high > low:
        channel -= low
        channel /= high - low
    else:
        channel.fill(0)
