"""Which values of a header element are one, within a series and within its tolerance."""

from collections.abc import Callable

import numpy as np

from common.dicom.geometry import parse_orientation

ORIENTATION_TOLERANCE = 0.01
"""Largest difference of a direction cosine within a volume: half a degree."""
SPACING_TOLERANCE = 1e-3
"""Largest relative difference of the pixel spacing within a volume."""
FEWEST_AT_ONE = 3
"""So many slices that all claim one position are no passes over it: the position is not known."""


def is_of_each(values: np.ndarray) -> bool:
    """Return whether each slice of a series has another value: then it is not of the series."""
    return FEWEST_AT_ONE <= len(values) == len(set(values))


def without_own(values: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Return values, "" where each slice of a series has one of its own."""
    if len(set(values)) < FEWEST_AT_ONE:
        return values
    values = values.copy()
    for name in set(series):
        if is_of_each(values[series == name]):
            values[series == name] = ""
    return values


def known_in_series(values: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Return values in which an unknown one ("") is that of its series, where it has only one."""
    if (values != "").all():
        return values
    values = values.copy()
    for name in set(series[values == ""]):
        known = set(values[(series == name) & (values != "")])
        if len(known) == 1:
            values[(series == name) & (values == "")] = known.pop()
    return values


def alike(values: np.ndarray, same: Callable[[str, str], bool]) -> np.ndarray:
    """Return values in which each stands for those that are the same within the tolerance."""
    texts, counts = np.unique(values.astype(str), return_counts=True)
    if len(texts) == 1:
        return values
    leaders: list[str] = []
    leader_of = {"": ""}
    for text in texts[np.lexsort((texts, -counts))]:
        if text:
            found = next((leader for leader in leaders if same(leader, text)), None)
            if found is None:
                leaders.append(text)
            leader_of[text] = found or text
    return np.array([leader_of[text] for text in values], dtype=object)


def same_orientation(one: str, other: str) -> bool:
    """Return whether two texts of ImageOrientationPatient are one orientation."""
    pairs = zip(parse_orientation(one), parse_orientation(other))
    return all(abs(a - b) < ORIENTATION_TOLERANCE for a, b in pairs)


def same_spacing(one: str, other: str) -> bool:
    """Return whether two texts of PixelSpacing are one spacing."""
    pairs = zip(one.split("\\"), other.split("\\"))
    return all(abs(float(a) / float(b) - 1) < SPACING_TOLERANCE for a, b in pairs)


def in_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return two numbers as one text, empty where one is unknown."""
    pairs = zip(one.tolist(), other.tolist())
    return np.array(["" if a != a or b != b else f"{a!r}\\{b!r}" for a, b in pairs], dtype=object)
