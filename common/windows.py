"""CT windows and the Hounsfield units of air; needs nothing but numpy."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1024
"""Lowest stored HU; also what padding becomes, and what geometry fills with."""
SCANNED_AIR_HU = -1000.0
"""Air as a calibrated scanner measures it."""


class Window(NamedTuple):
    """A window in HU: center - width / 2 is shown black, center + width / 2 white."""

    center: float
    width: float


BRAIN = Window(40.0, 80.0)
SUBDURAL = Window(80.0, 200.0)
SOFT_TISSUE = Window(40.0, 380.0)
BONE = Window(600.0, 2800.0)

# The three channels of the RSNA 2019 entries.
NETWORK_WINDOWS = (BRAIN, SUBDURAL, SOFT_TISSUE)
# As radiologists read head CT.
READING_WINDOWS = {
    "brain": BRAIN,
    "subdural": SUBDURAL,
    "soft tissue": SOFT_TISSUE,
    "bone": BONE,
}


def windowed(image_hu: NDArray[Any], center: float, width: float) -> NDArray[np.uint8]:
    """Return HU in a window as grey values, rounded; what lies beyond is clipped."""
    share = np.clip((image_hu - (center - width / 2)) / width, 0, 1)
    return np.round(share * 255).astype(np.uint8)
