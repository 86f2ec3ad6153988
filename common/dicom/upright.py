"""Turns images upright, as their orientation says: front up, the patient's right on the left."""

import numpy as np

from common.dicom.geometry import is_axial, parse_orientation

Turn = tuple[bool, bool, bool]
"""Whether rows and columns are swapped, then rows reversed, then columns reversed."""
AS_STORED: Turn = (False, False, False)
TURNS: dict[Turn, str] = {
    AS_STORED: "",
    (False, False, True): "mirrored",
    (False, True, False): "upside down",
    (False, True, True): "turned by 180 degrees",
    (True, False, False): "mirrored, turned by 90 degrees",
    (True, False, True): "turned by 90 degrees",
    (True, True, False): "turned by 270 degrees",
    (True, True, True): "mirrored, turned by 270 degrees",
}
"""How the pixels lay in the file, by what is done to them: the values of the column `turned`."""


def turn_of(orientation: str) -> Turn:
    """Return what turns an image with this ImageOrientationPatient upright.

    Columns then run to the patient's left and rows to the back, as nearly as turning by quarters
    and mirroring can do it. Images of unknown orientation, or not axial, stay as they are.
    """
    if not orientation or not is_axial(parse_orientation(orientation)):
        return AS_STORED
    along_row, along_column = np.reshape(parse_orientation(orientation), (2, 3))
    is_swapped = abs(along_row[1]) + abs(along_column[0]) > abs(along_row[0]) + abs(along_column[1])
    if is_swapped:
        along_row, along_column = along_column, along_row
    return bool(is_swapped), bool(along_column[1] < 0), bool(along_row[0] < 0)


def turn_image(image: np.ndarray, turn: Turn) -> np.ndarray:
    """Return an image (rows, columns) turned; a view of it."""
    is_swapped, is_upside_down, is_mirrored = turn
    image = image.T if is_swapped else image
    return image[:: -1 if is_upside_down else 1, :: -1 if is_mirrored else 1]


def turn_back(image: np.ndarray, turn: Turn) -> np.ndarray:
    """Return an upright image (rows, columns) as it lay in the file; a view of it."""
    is_swapped, is_upside_down, is_mirrored = turn
    image = image[:: -1 if is_upside_down else 1, :: -1 if is_mirrored else 1]
    return image.T if is_swapped else image
