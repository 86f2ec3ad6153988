"""Heat maps in color over slices, for pictures that people look at."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.windows import BRAIN, Window, windowed

_STRENGTH = 0.7
"""Of the color where a map is 1."""


def overlay(
    image_hu: NDArray[Any], heat_map: NDArray[np.float32], window: Window = BRAIN
) -> NDArray[np.uint8]:
    """Return uint8 RGB (rows, columns, 3) of a slice in a window, with a heat map over it.

    The color and how much of it there is grow with the map, on one scale for all slices: where the
    map is 0 the slice is as it is.

    Args:
        image_hu: HU (rows, columns).
        heat_map: 0 to 1, of the same shape.
    """
    values = np.clip(heat_map, 0, 1)
    levels = np.rint(values * 255).astype(np.uint8)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1]
    share = _STRENGTH * values[..., None]
    grey = windowed(image_hu, *window)[..., None]
    return np.rint(grey * (1 - share) + colors * share).astype(np.uint8)
