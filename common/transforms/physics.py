"""Transforms by the physics of CT, in HU and mm, in the form albumentations serialises.

The path `common.transforms.physics` and the names of the classes are part of the JSON file format.

A sample says how far its pixels and slices lie apart (`spacing_mm`: rows, columns, slices), and
geometric transforms keep count of it. They are a stage of their own, behind the geometry: they
work on the pixels that the network sees.

A formula is written once (`changed`), on what `Operations` offers, for numpy here and for torch in
`common.transforms.physics_device`.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import albumentations as A
import cv2
import numpy as np
import scipy.fft
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import AfterValidator, Field
from scipy.special import ndtr

from common.windows import AIR_HU

USUAL_FIELD_MM = 250.0
"""Taken for the larger side of a slice whose pixel spacing is unknown."""
NOMINAL_GAP_MM = 5.0
"""Taken for the distance of slices without positions."""
# Of the radial term of a cup; the inner half width of a head lies around 70 mm.
HEAD_RADIUS_MM = 90.0
# Integral of 2 pi u (u w(u)^2) over [0, 1] for the Hann window w = (1 + cos(pi u)) / 2.
_HANN_NOISE = 2 * math.pi * (0.5 - 15 / (4 * math.pi**2)) / 4

Spacing = Sequence[float] | np.ndarray | None


def known_spacing_mm(spacing_mm: Spacing, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the distance of rows, columns and slices in mm, the usual ones where unknown.

    Args:
        spacing_mm: what is known of it, NaN or None where nothing is.
        shape: (height, width, ...) of the image.
    """
    row, column, gap = (np.nan,) * 3 if spacing_mm is None else map(float, spacing_mm)
    if not (row > 0 and column > 0):
        row = column = USUAL_FIELD_MM / max(shape[:2])
    return row, column, gap if gap > 0 else NOMINAL_GAP_MM


class Operations(Protocol):
    """All that the formulas need beside arithmetic, on images (slices, height, width)."""

    def array(self, values: np.ndarray) -> Any:
        """Return float32, or int64 of integers, where the image is."""

    def blurred(self, image: Any, taps: tuple[np.ndarray, np.ndarray]) -> Any:
        """Return the image weighed by taps (odd) along rows and columns, reflected at edges."""

    def noise(self, image: Any, amplitude: np.ndarray, seed: int) -> Any:
        """Return noise of the image's shape from white noise times `amplitude` in frequency."""


class NumpyOperations:
    """`Operations` on the CPU."""

    def array(self, values: np.ndarray) -> np.ndarray:
        return values if values.dtype == np.int64 else values.astype(np.float32)

    def blurred(self, image: np.ndarray, taps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        border = cv2.BORDER_REFLECT_101
        return np.stack([
            cv2.sepFilter2D(one, cv2.CV_32F, taps[1], taps[0], borderType=border) for one in image
        ])  # fmt: skip

    def noise(self, image: np.ndarray, amplitude: np.ndarray, seed: int) -> np.ndarray:
        white = np.random.Generator(np.random.SFC64(seed)).standard_normal(image.shape, np.float32)
        spectrum = scipy.fft.rfft2(white)
        spectrum *= amplitude
        return scipy.fft.irfft2(spectrum, s=image.shape[1:])


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= limits[1]:
        raise ValueError(f"{limits[0]:g} to {limits[1]:g} is no range: the smaller end comes first")
    return limits


def limits_type(least: float, most: float) -> Any:
    """Return the type of a range, (smallest, largest), with both ends from `least` to `most`."""
    end = Annotated[float, Field(ge=least, le=most)]
    return Annotated[tuple[end, end], AfterValidator(_ordered)]  # type: ignore[valid-type]


Limits = tuple[float, float]


class ScannerTransform(A.ImageOnlyTransform):
    """Base of transforms of HU, (height, width) or (height, width, slices), behind the geometry.

    Attributes:
        numbers: the names of what is drawn, all that `changed` needs.
    """

    numbers: ClassVar[tuple[str, ...]] = ()

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        spacing_mm = known_spacing_mm(data.get("spacing_mm"), params["shape"])
        return dict(zip(self.numbers, self.drawn(spacing_mm), strict=True))

    @abstractmethod
    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        """Return the `numbers` of a sample, from `py_random`."""

    @staticmethod
    @abstractmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        """Return the image (slices, height, width), float32 HU, changed by what was drawn."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return float32 HU of the same shape."""
        slices = np.ascontiguousarray(np.moveaxis(np.atleast_3d(img), 2, 0), np.float32)
        made = np.maximum(self.changed(slices, params, NumpyOperations()), np.float32(AIR_HU))
        return np.moveaxis(made, 0, 2).reshape(img.shape)

    def _uniform(self, limits: Limits) -> float:
        return self.py_random.uniform(*limits)


class KernelSharpness(ScannerTransform):
    """Shows the slices as another reconstruction kernel would, smoother or sharper.

    The modulation transfer function is multiplied by 1 + c (1 - exp(-2 (pi w f)^2)), where f is the
    frequency in 1/mm: c = -1 is a blur by a Gaussian of standard deviation w, c = 1 doubles what
    that blur would take away, noise included, as a sharper kernel does.

    Args:
        change_range: c, from -1. With 0.5 mm, from -1 to 1, the frequency that a smooth kernel
            halves (0.37 per mm) is halved or raised by half; the range is ours.
        width_mm_range: w, mm.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        change_range: limits_type(-1, 4)  # type: ignore[valid-type]
        width_mm_range: limits_type(0.05, 5)  # type: ignore[valid-type]

    numbers = ("change", "width_rows", "width_columns")

    def __init__(
        self,
        change_range: Limits = (-1.0, 1.0),
        width_mm_range: Limits = (0.3, 0.6),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.change_range = change_range
        self.width_mm_range = width_mm_range

    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        change, width = self._uniform(self.change_range), self._uniform(self.width_mm_range)
        return change, width / spacing_mm[0], width / spacing_mm[1]

    @staticmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        widths = numbers["width_rows"], numbers["width_columns"]
        taps = tuple(gaussian_taps(w, n) for w, n in zip(widths, image.shape[1:], strict=True))
        soft = library.blurred(image, (taps[0], taps[1]))
        return image + (image - soft) * numbers["change"]


def gaussian_taps(width: float, length: int) -> np.ndarray:
    """Return a Gaussian of a standard deviation in pixels, integrated over pixels, float64 (odd,).

    Args:
        length: of the axis, which it must fit.
    """
    radius = min(math.ceil(3.5 * width), length - 1)
    edges = (np.arange(2 * radius + 2) - radius - 0.5) / width
    taps = np.diff(ndtr(edges))
    return taps / taps.sum()


class DoseNoise(ScannerTransform):
    """Adds noise as that of filtered back-projection, as if the dose had been lower.

    Its power spectrum is a ramp times the square of the kernel's window, here Hann's: f w(f)^2 up
    to a cutoff (Riederer, Pelc, Chesler 1978, Phys Med Biol 23:446). A drawn standard deviation is
    that of the scanner's own fine pixels; pixels of the sample are means over their area, so that
    larger ones hold less. Slices have noise of their own; it is as strong everywhere in a slice.

    Args:
        std_hu_range: standard deviation, HU. In 99 examinations of the head by six protocols noise
            was 2.9 to 10.2 HU (PMC9291315); what is added comes on top, as a sum of squares.
        cutoff_range: where the spectrum ends, 1/mm: 0.6 is a smooth kernel, 1.2 a sharp one.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        std_hu_range: limits_type(0, 200)  # type: ignore[valid-type]
        cutoff_range: limits_type(0.1, 5)  # type: ignore[valid-type]

    numbers = ("std_hu", "cutoff", "row_mm", "column_mm", "seed")

    def __init__(
        self,
        std_hu_range: Limits = (2.0, 8.0),
        cutoff_range: Limits = (0.6, 1.2),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.std_hu_range = std_hu_range
        self.cutoff_range = cutoff_range

    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        std_hu, cutoff = self._uniform(self.std_hu_range), self._uniform(self.cutoff_range)
        return std_hu, cutoff, *spacing_mm[:2], self.py_random.getrandbits(31)

    @staticmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        spacing_mm = numbers["row_mm"], numbers["column_mm"]
        amplitude = noise_amplitude(image.shape[1:], spacing_mm, numbers["cutoff"])
        noise = library.noise(image, amplitude, int(numbers["seed"]))
        return image + noise * numbers["std_hu"]


def noise_amplitude(
    shape: Sequence[int], spacing_mm: tuple[float, float], cutoff: float
) -> np.ndarray:
    """Return by what white noise of variance 1 is multiplied, float32 (height, width // 2 + 1).

    The result has variance 1 in pixels so small that they hold all frequencies. What lies above
    the highest frequency of the pixels is left out.

    Args:
        shape: (height, width) of the image; frequencies are those of `rfft2`.
        cutoff: in 1/mm.
    """
    down = np.fft.fftfreq(shape[0], spacing_mm[0]).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(shape[1], spacing_mm[1]).astype(np.float32)[None]
    share = np.minimum(np.hypot(down, across) / np.float32(cutoff), 1)
    pixel = np.sinc(down * spacing_mm[0]) * np.sinc(across * spacing_mm[1])
    window = 0.5 * (1 + np.cos(np.float32(np.pi) * share))
    density = 1 / (_HANN_NOISE * cutoff**2 * spacing_mm[0] * spacing_mm[1])
    return np.asarray(np.sqrt(share * density) * window * pixel, np.float32)


class SliceThickness(ScannerTransform):
    """Shows the slices as thicker ones: means of those that lie in the thickness.

    Slices count as thick as they lie apart. Only the slices of the sample can be averaged: those at
    its ends have half of their neighbours, and a slice alone is left as it is.

    Args:
        thickness_mm_range: mm. Practice asks for at most 5 mm (ACR-ASNR-SPR practice parameter for
            CT of the brain); older scanners took 10 mm above the tentorium.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        thickness_mm_range: limits_type(0.1, 50)  # type: ignore[valid-type]

    numbers = ("share",)

    def __init__(self, thickness_mm_range: Limits = (2.5, 10.0), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.thickness_mm_range = thickness_mm_range

    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        return (self._uniform(self.thickness_mm_range) / spacing_mm[2],)

    @staticmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        half = max(numbers["share"], 1.0) / 2
        made = image * 0
        places = np.arange(len(image))
        for place in places.tolist():
            away = places - place
            weights = (np.minimum(away + 0.5, half) - np.maximum(away - 0.5, -half)).clip(0)
            for other, weight in zip(places.tolist(), (weights / weights.sum()).tolist()):
                if weight:
                    made[place] += image[other] * weight
        return made


class GantryTilt(ScannerTransform):
    """Shows the slices as a gantry tilted about the left-right axis would.

    Rows run along the tilted axis: the head gets longer by 1 / cos, and a row that lies v mm from
    the middle comes from v sin(angle) mm farther along z, between the slices of the sample, and
    from its last slice beyond them. A slice alone only gets longer. Rows must run from front to
    back, as prepared slices do.

    Args:
        degrees_range: the angle; gantries tilt by up to 30 degrees, heads are scanned at up to 25.
            A row that comes from another slice may show what the label does not know.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        degrees_range: limits_type(-45, 45)  # type: ignore[valid-type]

    numbers = ("degrees", "slices_per_row")

    def __init__(self, degrees_range: Limits = (-15.0, 15.0), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.degrees_range = degrees_range

    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        degrees = self._uniform(self.degrees_range)
        return degrees, math.sin(math.radians(degrees)) * spacing_mm[0] / spacing_mm[2]

    @staticmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        num_slices, height = image.shape[:2]
        rows = np.arange(height) - (height - 1) / 2
        low, part = _between(rows * math.cos(math.radians(numbers["degrees"])) + (height - 1) / 2)
        low, part = library.array(low), library.array(part[:, None])
        near = image[:, low]
        image = near + (image[:, (low + 1).clip(0, height - 1)] - near) * part
        if num_slices == 1:
            return image
        away = np.arange(num_slices)[:, None] + rows * numbers["slices_per_row"]
        low, part = _between(away.clip(0, num_slices - 1))
        low, part = library.array(low), library.array(part[..., None])
        every = library.array(np.arange(height))
        near = image[low, every]
        return near + (image[(low + 1).clip(0, num_slices - 1), every] - near) * part


def _between(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole part of places, int64, and what is left of them."""
    low = np.floor(places)
    return low.astype(np.int64), places - low


class Calibration(ScannerTransform):
    """Changes HU as a scanner whose calibration is off: offset, slope, and a cup.

    HU become slope * HU + offset - cup * (1 - (r / 90 mm)^2), where r is the distance from the
    middle of the image; beyond 90 mm there is no cup. It stands for beam hardening that is not
    corrected: the middle of the head is darker.

    Args:
        offset_hu_range: HU. Water may be off by 7 HU, better 5 (ACR CT accreditation phantom).
        slope_range: factor. That phantom's bone may be 850 to 970 HU, 910 +- 6.6 %.
        cup_hu_range: HU; above 0 the middle is darker. Middle and edge of that phantom may differ
            by 5 HU.
        p: probability that it is applied.
    """

    class InitSchema(BaseTransformInitSchema):
        """The checks that albumentations runs on the arguments."""

        offset_hu_range: limits_type(-100, 100)  # type: ignore[valid-type]
        slope_range: limits_type(0.5, 2)  # type: ignore[valid-type]
        cup_hu_range: limits_type(-100, 100)  # type: ignore[valid-type]

    numbers = ("offset", "slope", "cup", "row_mm", "column_mm")

    def __init__(
        self,
        offset_hu_range: Limits = (-5.0, 5.0),
        slope_range: Limits = (0.95, 1.05),
        cup_hu_range: Limits = (-2.0, 5.0),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.offset_hu_range = offset_hu_range
        self.slope_range = slope_range
        self.cup_hu_range = cup_hu_range

    def drawn(self, spacing_mm: tuple[float, float, float]) -> tuple[float, ...]:
        limits = self.offset_hu_range, self.slope_range, self.cup_hu_range
        offset, slope, cup = map(self._uniform, limits)
        return offset, slope, cup, *spacing_mm[:2]

    @staticmethod
    def changed(image: Any, numbers: Mapping[str, float], library: Operations) -> Any:
        squares = [
            ((np.arange(length) - (length - 1) / 2) * mm / HEAD_RADIUS_MM) ** 2
            for length, mm in zip(image.shape[1:], (numbers["row_mm"], numbers["column_mm"]))
        ]
        cup = (1 - library.array(squares[0])[:, None] - library.array(squares[1])).clip(0)
        return image * numbers["slope"] + (numbers["offset"] - cup * numbers["cup"])


SCANNER = (Calibration, DoseNoise, GantryTilt, KernelSharpness, SliceThickness)
