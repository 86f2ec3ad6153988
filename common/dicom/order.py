"""The place of each slice along its volume, from whatever header elements tell it."""

from collections.abc import Mapping

import numpy as np

SAME_POSITION_MM = 0.05
"""Positions that differ by less are one: they come from decimal strings and from arithmetic."""

POSITION, INSTANCE_NUMBER, SLICE_LOCATION = "position", "instance_number", "slice_location"
COORDINATES = (POSITION, INSTANCE_NUMBER, SLICE_LOCATION)
"""Coordinates that order slices, the best first; a value of `order_from` is one of these."""
GAP_RATIO, GAP_REACH = 1.9, 3
IDS = "image_id"
"""`order_from` where no coordinate is known: an order that means nothing, and is noted."""


def place_slices(
    coordinates: Mapping[str, np.ndarray],
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return where slices of one series lie, from the best coordinate that places them all.

    A slice that lacks the coordinate gets it from the next one that it has, interpolated between
    the slices that have both: one slice without ImagePositionPatient is placed by its
    InstanceNumber, whichever way the numbers run.

    Args:
        coordinates: each of `COORDINATES` (n,), NaN where unknown; positions are mm.

    Returns:
        The coordinate that the places are in (IDS where none is known), the places (n,) with NaN
        where nothing tells, and for each slice the coordinate that its place comes from (n,).
    """
    best = IDS, np.full(len(coordinates[POSITION]), np.nan), 0
    for name in COORDINATES:
        places, sources = _placed_in(name, coordinates)
        num_placed = int(np.isfinite(places).sum())
        if num_placed > best[2]:
            best = name, places, num_placed
            best_sources = sources
        if num_placed == len(places):
            break
    if best[0] == IDS:
        return IDS, best[1], np.full(len(best[1]), IDS, dtype=object)
    if best[0] == INSTANCE_NUMBER and _run_against(best[1], coordinates[SLICE_LOCATION]):
        return best[0], -best[1], best_sources
    return best[0], best[1], best_sources


def _run_against(numbers: np.ndarray, locations: np.ndarray) -> bool:
    """Return whether numbers fall where SliceLocation rises, which it mostly does to the head."""
    known = np.isfinite(numbers) & np.isfinite(locations)
    if known.sum() < 2 or np.ptp(numbers[known]) == 0 or np.ptp(locations[known]) == 0:
        return False
    return bool(np.corrcoef(numbers[known], locations[known])[0, 1] < 0)


def _placed_in(name: str, coordinates: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    places = coordinates[name].astype(np.float64)
    known = np.isfinite(places)
    sources = np.full(len(places), None, dtype=object)
    sources[known] = name
    for other in COORDINATES[1:]:
        if other == name or np.isfinite(places).all():
            continue
        estimated = _interpolate(coordinates[other], coordinates[other][known], places[known])
        missing = np.isnan(places) & np.isfinite(estimated)
        places = np.where(missing, estimated, places)
        sources[missing] = other
    return places, sources


def _interpolate(wanted: np.ndarray, given: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the value at each of `wanted`, NaN where the given ones do not tell it.

    They tell it where they rise or fall all the way; beyond the last of them the mean step goes on.
    """
    unknown = np.full(len(wanted), np.nan)
    known = np.isfinite(given)
    points, first, where = np.unique(given[known], return_index=True, return_inverse=True)
    values = values[known]
    if len(points) < 2 or np.ptp(values) <= SAME_POSITION_MM:
        return unknown
    at_points = values[first]
    steps = np.diff(at_points)
    is_function = np.abs(values - at_points[where]).max() <= SAME_POSITION_MM
    if not is_function or not (np.all(steps > 0) or np.all(steps < 0)):
        return unknown
    slope = (at_points[-1] - at_points[0]) / (points[-1] - points[0])
    inside = np.interp(wanted, points, at_points)
    below, above = np.minimum(wanted - points[0], 0), np.maximum(wanted - points[-1], 0)
    return inside + slope * (np.nan_to_num(below) + np.nan_to_num(above)) + 0 * wanted


def position_numbers(places: np.ndarray) -> np.ndarray:
    """Return the number of the position of each slice, ascending, int64 (n,).

    Slices nearer to each other than `SAME_POSITION_MM` share one.
    """
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order], prepend=places[order[:1]])
    numbers = np.empty(len(places), dtype=np.int64)
    numbers[order] = np.cumsum(steps > SAME_POSITION_MM)
    return numbers


def gap_starts(positions_mm: np.ndarray) -> np.ndarray:
    """Return which slices are followed by a gap where slices seem to be missing, bool (n,).

    A distance counts that is about twice as long, or longer, as the nearest shorter ones before
    and after it, of up to `GAP_REACH` on either side. The first and the last have one side only:
    they count where they are that much longer than all between them. So a change of spacing
    within a series is no gap.

    Args:
        positions_mm: (n,) ascending positions; equal ones count as one, unknown ones have no gaps.
    """
    found = np.zeros(len(positions_mm), dtype=bool)
    is_new = np.append(True, np.diff(positions_mm) > SAME_POSITION_MM)[: len(positions_mm)]
    starts = np.flatnonzero(is_new)
    if len(starts) < 4 or np.isnan(positions_mm).any():
        return found
    steps = np.diff(positions_mm[starts])
    is_before, is_after = np.zeros((2, len(steps)), dtype=bool)
    for lag in range(1, GAP_REACH + 1):
        is_before[lag:] |= steps[:-lag] * GAP_RATIO < steps[lag:]
        is_after[:-lag] |= steps[lag:] * GAP_RATIO < steps[:-lag]
    is_gap = is_before & is_after
    is_longest = steps > GAP_RATIO * steps[1:-1].max()
    is_gap[0] |= is_after[0] & is_longest[0]
    is_gap[-1] |= is_before[-1] & is_longest[-1]
    # The last of the slices at the position before the gap.
    found[starts[1:][is_gap] - 1] = True
    return found
