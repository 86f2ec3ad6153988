"""Heads in DICOM files that lie turned, mirrored or tilted, with a spot at a known place."""

from pathlib import Path

import numpy as np
from dicom_factory import write_ct

from common.dicom.upright import Turn

# The directions (x, y) of columns and rows in the patient, by what turns them upright.
RIGHT, DOWN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def orientation_of(turn: Turn, tilt_deg: float = 0.0) -> list[float]:
    """Return the ImageOrientationPatient of a file whose image this turn brings upright."""
    is_swapped, is_upside_down, is_mirrored = turn
    cos, sin = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    along_row, along_column = RIGHT, DOWN * cos + np.array([0, 0, sin])
    along_column = along_column * (-1 if is_upside_down else 1)
    along_row = along_row * (-1 if is_mirrored else 1)
    pair = (along_column, along_row) if is_swapped else (along_row, along_column)
    return [round(float(v), 8) for v in np.concatenate(pair)]


PLACES = np.array([(90, 70), (80, 60), (100, 85)])
SHAPE = (160, 150)


def spot_mask(number: int) -> np.ndarray:
    """Which pixels of a slice's file show the spot, bool."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(rows - PLACES[number][0], columns - PLACES[number][1]) <= 4


def head(number: int) -> np.ndarray:
    """Stored values of an ellipse of brain in a skull, with a spot of metal, on air."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot((rows / SHAPE[0] - 0.55) / 0.3, (columns / SHAPE[1] - 0.45) / 0.3)
    pixels = np.where(radius < 1, 1054, 0)
    pixels[(radius > 0.85) & (radius < 1)] = 1900
    return np.where(spot_mask(number), 4000, pixels).astype(np.uint16)


def write_head(
    folder: Path, turn: Turn, tilt_deg: float, spacing: list[float], patient: int = 0
) -> np.ndarray:
    """Write three slices whose spots lie at the places (row, column) that are returned.

    The last part of an image id is the number of the slice.
    """
    orientation = orientation_of(turn, tilt_deg)
    normal = np.cross(orientation[:3], orientation[3:])
    for number in range(len(PLACES)):
        write_ct(
            folder / f"{number}.dcm",
            head(number),
            PatientID=f"patient {patient}",
            StudyInstanceUID=f"1.3.{patient}",
            SeriesInstanceUID=f"1.4.{patient}",
            SOPInstanceUID=f"1.2.{patient}.{number}",
            ImageOrientationPatient=orientation,
            ImagePositionPatient=[round(float(v), 6) for v in normal * 5.0 * number],
            PixelSpacing=spacing,
        )
    return PLACES
