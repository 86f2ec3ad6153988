"""Geometry of slices in the patient: normals and gantry tilt.

Coordinates are DICOM's, mm: x to the patient's left, y to the back, z to the head.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass

ORIENTATION_TOLERANCE = 0.01
"""Largest error of the length, and of the cosine between, the two direction vectors."""


def is_orientation(orientation: Sequence[float]) -> bool:
    """Return whether six numbers are two perpendicular unit vectors, along row and column."""
    return _is_orientation(tuple(orientation))


# The slices of a series share their orientation: what only depends on it is computed once.
@functools.lru_cache(maxsize=1024)
def _is_orientation(orientation: tuple[float, ...]) -> bool:
    row, column = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    errors = np.abs([lengths[0] - 1, lengths[1] - 1, row @ column])
    return bool(errors.max() < ORIENTATION_TOLERANCE)


def slice_normal(orientation: Sequence[float]) -> np.ndarray:
    """Return the unit normal (3,) of a slice.

    Its largest component is positive: to the head in axial slices, whichever way the image lies,
    so positions along it ascend from foot to head in every axial series.
    """
    return _slice_normal(tuple(orientation)).copy()


@functools.lru_cache(maxsize=1024)
def _slice_normal(orientation: tuple[float, ...]) -> np.ndarray:
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    normal = normal / np.linalg.norm(normal)
    return normal if normal[np.abs(normal).argmax()] > 0 else -normal


def gantry_tilt(orientation: Sequence[float]) -> float | None:
    """Return the tilt about the patient's left-right axis in degrees; 0 for a plain axial slice.

    Positive where the slices rise from back to front, as GantryDetectorTilt is on real
    scanners. None for slices more than 45 degrees from axial, where tilt has no meaning.
    """
    normal = slice_normal(orientation)
    if normal[2] < math.sqrt(0.5):
        return None
    return math.degrees(math.atan2(normal[1], normal[2])) + 0.0
