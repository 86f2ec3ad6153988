"""Stored values to Hounsfield units: rescale, padding, and RSNA's wrapped 12-bit files."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from common.dicom.header import SliceHeader

AIR_HU = -1024
"""Lowest stored HU; also what padding becomes."""
MAX_HU = 31767
PADDING_BELOW_HU = -1200
"""Values below this are padding, declared or not: air is -1000 and its noise ends above it.

RSNA's signed files hold raw -2000 outside the field of view, about -3024 HU, undeclared.
"""
TISSUE_HU = (-1000, 3071)
"""Between these a declared padding value can also be a real measurement."""


def to_hounsfield(stored: np.ndarray, header: "SliceHeader") -> tuple[np.ndarray, int, bool]:
    """Returns the HU of one frame, how many pixels were padding, and whether it was repaired.

    HU = stored * slope + intercept, rounded half to even, clipped to [-1024, 31767], int16.
    Padding becomes -1024: the declared value or range (see `_declared_padding`), and everything
    below PADDING_BELOW_HU.

    Args:
        stored: integers (rows, columns).
        header: its header.
    """
    repaired = is_wrapped_12bit(header)
    image = _unwrapped(stored) if repaired else _rescaled(stored, header)
    padding = image < PADDING_BELOW_HU
    declared = _declared_padding(stored, header)
    if declared is not None:
        padding |= declared
    num_padding = int(np.count_nonzero(padding))
    image_hu = np.clip(image, AIR_HU, MAX_HU).astype(np.int16)
    if num_padding:
        image_hu[padding] = AIR_HU
    return image_hu, num_padding, repaired


def is_wrapped_12bit(header: "SliceHeader") -> bool:
    """Returns whether a file is one of RSNA's with wrapped 12-bit values.

    They are unsigned, so an intercept above -100 would leave no value for air: what lies below
    zero has wrapped to the top. The rule is J. Howard's, "DCM cleanup", 2019: add 1000 to the
    stored value, subtract 4096 where that is 4096 or more, and take -1000 as the intercept.
    """
    return (
        header.bits_stored == 12
        and header.pixel_representation == 0
        and header.rescale_slope == 1
        and header.rescale_intercept > -100
    )


def _unwrapped(stored: np.ndarray) -> np.ndarray:
    shifted = stored.astype(np.int32) + 1000
    shifted[shifted >= 4096] -= 4096
    return shifted - 1000


def _rescaled(stored: np.ndarray, header: "SliceHeader") -> np.ndarray:
    slope, intercept = header.rescale_slope, header.rescale_intercept
    if slope == 1 and intercept.is_integer() and stored.itemsize <= 2 and abs(intercept) < 2**30:
        image = stored.astype(np.int32)
        image += int(intercept)
        return image
    return np.rint(stored * np.float64(slope) + intercept)


def _declared_padding(stored: np.ndarray, header: "SliceHeader") -> np.ndarray | None:
    """Returns a mask (rows, columns) of the declared padding, or None where there is none.

    A value within TISSUE_HU counts only where all four corners have it, as outside a round
    field of view: some exports declare 0 in files where 0 HU is water.
    """
    if header.padding_value is None:
        return None
    limit = header.padding_value if header.padding_limit is None else header.padding_limit
    low, high = sorted((_as_stored(header.padding_value, header), _as_stored(limit, header)))
    padding = stored == low if low == high else (stored >= low) & (stored <= high)
    ends_hu = [value * header.rescale_slope + header.rescale_intercept for value in (low, high)]
    if ends_hu[1] <= TISSUE_HU[0] or ends_hu[0] > TISSUE_HU[1]:
        return padding
    return padding if padding[[0, 0, -1, -1], [0, -1, 0, -1]].all() else None


def _as_stored(value: int, header: "SliceHeader") -> int:
    """Returns a padding value with the sign of the pixels: writers confuse US and SS."""
    value %= 1 << header.bits_allocated
    if header.pixel_representation == 1 and value >= 1 << (header.bits_allocated - 1):
        value -= 1 << header.bits_allocated
    return value
