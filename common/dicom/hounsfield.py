"""Stored values to Hounsfield units: rescale, padding, and RSNA's wrapped 12-bit files."""

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from common.dicom.plausibility import LEAST_MATRIX, STRIDE, count_values
from common.dicom.rejection import RejectedFile
from common.windows import AIR_HU

if TYPE_CHECKING:
    from common.dicom.header import PixelHeader

MAX_HU = 31767
PADDING_BELOW_HU = -1200
"""Values below this are padding, declared or not: air is -1000 and its noise ends above it.

RSNA's signed files hold raw -2000 outside the field of view, about -3024 HU, undeclared.
"""
TISSUE_HU = (-1000, 3071)
"""Between these a declared padding value can also be a real measurement."""
POSSIBLE_HU = (-4096, 10000)
"""Beyond these lie only padding, which has few values, and metal, which is small."""
MAX_IMPOSSIBLE = 0.05
MAX_PADDING_VALUES = 256
MAX_HIGH_VALUES = 8
"""Up to so many values above MAX_HU are padding that an unsigned type made large."""
_CORNERS = [0, 0, -1, -1], [0, -1, 0, -1]
WRAPPED_FROM = 4096 - 1000
LEAST_WRAPPED = 0.01
"""Share of wrapped pixels in RSNA's files: there is air in every slice."""
AIR_ENDS_AT = 4096 + PADDING_BELOW_HU
"""The noise of air wraps to values from here; a slice has that, or metal up to WRAPPED_FROM."""
NEVER_AT_CORNERS_HU = -500
"""Equal values above this in all four corners are padding: what lies there is air, with noise.

Up to MAX_HU: single values above that are padding wherever they lie.
"""


class Hounsfield(NamedTuple):
    """One frame in HU.

    Attributes:
        image_hu: int16 (rows, columns) in [-1024, 31767].
        num_padding: pixels set to -1024 because they held padding.
        num_repaired: pixels whose wrapped 12-bit values were unwrapped.
        counts: pixels by HU, before they were clipped, without padding that is too large for any
            tissue (`plausibility.count_values`).
    """

    image_hu: np.ndarray
    num_padding: int
    num_repaired: int
    counts: np.ndarray


def to_hounsfield(stored: np.ndarray, header: "PixelHeader") -> Hounsfield:
    """Return the HU of one frame.

    HU = stored * slope + intercept, rounded half to even, clipped to [-1024, 31767], int16.
    Padding becomes -1024: the declared value or range (see `_declared_padding`), everything below
    PADDING_BELOW_HU, and single values too large for any tissue.

    Args:
        stored: integers (rows, columns).

    Raises:
        RejectedFile: corrupt, where many pixels hold what no scanner measures.
    """
    num_repaired = _num_wrapped(stored, header)
    image, offset = (_unwrapped(stored), 0) if num_repaired else _rescaled(stored, header)
    lowest, highest = image.min(), image.max()
    padding = _declared_padding(stored, header)
    _check_possible(image, offset, lowest, highest)
    counts = count_values(image, offset)
    around = _padding_around(image, offset)
    if around is not None:
        counts -= count_values(image, offset, around)
        padding = around if padding is None else padding | around
    # Passes over the pixels that would change nothing are left out.
    if highest > MAX_HU - offset:
        too_large = image > MAX_HU - offset
        if np.unique(image[too_large]).size <= MAX_HIGH_VALUES:
            padding = too_large if padding is None else padding | too_large
            counts[-1] -= np.count_nonzero(too_large[::STRIDE, ::STRIDE])
    limits = np.iinfo(np.int16 if image.dtype.kind == "f" else image.dtype)
    low, high = max(AIR_HU - offset, limits.min), min(MAX_HU - offset, limits.max)
    undeclared = image < PADDING_BELOW_HU - offset if lowest < PADDING_BELOW_HU - offset else None
    is_own = lowest < low or highest > high
    if is_own:
        image = np.clip(image, low, high)
    # Modulo 65536 where unsigned values did not fit: exact again.
    is_short = image.dtype.kind in "iu" and image.itemsize == 2
    image_hu = image.view(np.int16) if is_short else image.astype(np.int16)
    image_hu = np.add(image_hu, np.int16(offset), out=image_hu if is_own else None)
    if padding is not None:
        np.copyto(image_hu, AIR_HU, where=padding)
    if undeclared is not None:
        padding = undeclared if padding is None else padding | undeclared
    num_padding = 0 if padding is None else int(np.count_nonzero(padding))
    return Hounsfield(image_hu, num_padding, num_repaired, counts)


def _num_wrapped(stored: np.ndarray, header: "PixelHeader") -> int:
    """Return how many pixels of one of RSNA's files hold wrapped 12-bit values.

    They are unsigned, so an intercept above -100 leaves no value for air: what lies below zero has
    wrapped to the top. A file whose intercept was lost looks alike but has hardly a pixel there,
    and is not repaired. The rule is J. Howard's, "DCM cleanup", 2019: add 1000 to the stored
    value, subtract 4096 where that is 4096 or more, and take -1000 as the intercept.
    """
    can_be = (
        header.bits_stored == 12
        and header.pixel_representation == 0
        and header.rescale_slope == 1
        and header.rescale_intercept > -100
    )
    if not can_be:
        return 0
    num_wrapped = int(np.count_nonzero(stored >= _wrapped_from(stored)))
    return num_wrapped if num_wrapped >= LEAST_WRAPPED * stored.size else 0


def _wrapped_from(stored: np.ndarray) -> int:
    """Return the least stored value that has wrapped: lower than in RSNA's where air is, too.

    Metal is up to the value before WRAPPED_FROM there, and mostly has just that.
    """
    num_lower = np.count_nonzero((stored >= AIR_ENDS_AT) & (stored < WRAPPED_FROM - 1))
    return AIR_ENDS_AT if num_lower >= LEAST_WRAPPED * stored.size else WRAPPED_FROM


def _unwrapped(stored: np.ndarray) -> np.ndarray:
    image = stored.astype(np.int32)
    image[image >= _wrapped_from(stored)] -= 4096
    return image


def _rescaled(stored: np.ndarray, header: "PixelHeader") -> tuple[np.ndarray, int]:
    """Return an image and what to add to it for HU: nothing to compute in the common case."""
    slope, intercept = header.rescale_slope, header.rescale_intercept
    if slope == 1 and intercept.is_integer() and abs(intercept) < 31000 and stored.itemsize == 2:
        return stored, int(intercept)
    return np.rint(stored * np.float64(slope) + intercept), 0


def _declared_padding(stored: np.ndarray, header: "PixelHeader") -> np.ndarray | None:
    """Return a mask (rows, columns) of the declared padding, or None where there is none to add.

    Values below PADDING_BELOW_HU are padding anyway.
    A value within TISSUE_HU counts only where all four corners have it, as outside a round
    field of view: some exports declare 0 in files where 0 HU is water.
    """
    if header.padding_value is None:
        return None
    limit = header.padding_value if header.padding_limit is None else header.padding_limit
    low, high = sorted((_as_stored(header.padding_value, header), _as_stored(limit, header)))
    ends_hu = [value * header.rescale_slope + header.rescale_intercept for value in (low, high)]
    if ends_hu[1] < PADDING_BELOW_HU - 1:
        return None
    padding = stored == low if low == high else (stored >= low) & (stored <= high)
    if ends_hu[1] <= TISSUE_HU[0] or ends_hu[0] > TISSUE_HU[1]:
        return padding
    return _around(padding) if padding[_CORNERS].all() else None


def _padding_around(image: np.ndarray, offset: float) -> np.ndarray | None:
    """Return a mask (rows, columns) of undeclared padding around a round field of view, or None."""
    value = image[0, 0]
    is_unlikely = NEVER_AT_CORNERS_HU - offset < value <= MAX_HU - offset
    if not is_unlikely or min(image.shape) < LEAST_MATRIX or (image[_CORNERS] != value).any():
        return None
    return _around(image == value)


def _around(mask: np.ndarray) -> np.ndarray:
    """Return what of a mask hangs together with a corner: tissue has some of any value."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return mask & np.isin(labels, labels[_CORNERS])


def _as_stored(value: int, header: "PixelHeader") -> int:
    """Return a padding value with the sign of the pixels: writers confuse US and SS."""
    value %= 1 << header.bits_allocated
    if header.pixel_representation == 1 and value >= 1 << (header.bits_allocated - 1):
        value -= 1 << header.bits_allocated
    return value


def _check_possible(image: np.ndarray, offset: int, lowest: float, highest: float) -> None:
    """Raise where more than MAX_IMPOSSIBLE of the pixels have scattered impossible values.

    Damaged JPEG frames decode to such without an error, and so do files whose header confuses
    signed and unsigned. Padding passes: it has few values, also after lossy compression.
    """
    low, high = POSSIBLE_HU[0] - offset, POSSIBLE_HU[1] - offset
    if lowest >= low and highest <= high:
        return
    if lowest > MAX_HU - offset:
        raise RejectedFile("corrupt", "all pixels hold impossible HU: no scanner measures those")
    impossible = image[(image < low) | (image > high)]
    part = impossible.size / image.size
    if part > MAX_IMPOSSIBLE and np.unique(impossible).size > MAX_PADDING_VALUES:
        reason = f"{part:.0%} of the pixels hold impossible HU: damaged, or of another sign"
        raise RejectedFile("corrupt", reason)
