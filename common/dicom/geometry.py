"""The planes of slices in the patient: normals and gantry tilt.

Coordinates are DICOM's, mm: x to the patient's left, y to the back, z to the head.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

LARGEST_TILT_DEG = 45.0
"""Slices further from axial are of another plane; gantries tilt by 30 degrees at most."""
ORIENTATION_TOLERANCE = 0.01
"""Largest error of the length, and of the cosine between, the two direction vectors."""


@functools.lru_cache(maxsize=4096)
def parse_orientation(text: str) -> tuple[float, ...]:
    """Return the six numbers of ImageOrientationPatient, written as in DICOM."""
    return tuple(float(value) for value in text.split("\\"))


def is_axial(orientation: Sequence[float]) -> bool:
    """Return whether a slice lies no more than `LARGEST_TILT_DEG` from axial."""
    return bool(slice_normal(orientation)[2] >= math.cos(math.radians(LARGEST_TILT_DEG)))


# The slices of a series share their orientation: what only depends on it is computed once.
@functools.lru_cache(maxsize=1024)
def is_orientation(orientation: tuple[float, ...]) -> bool:
    """Return whether six numbers are two perpendicular unit vectors, along row and column."""
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
    if not is_axial(orientation):
        return None
    return math.degrees(math.atan2(normal[1], normal[2])) + 0.0
