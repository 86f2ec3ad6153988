"""The order of slices along their series, and what belongs to one series."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from common.dicom.header import SliceHeader

SAME_POSITION_MM = 0.01


def group_key(header: "SliceHeader") -> tuple[str, str, tuple[float, ...] | None, int, int]:
    """Return the key that the slices of one volume share: series, orientation and matrix size.

    Orientations are rounded to 0.01, half a degree.
    """
    orientation = header.orientation
    if orientation is not None:
        orientation = tuple(round(value, 2) + 0.0 for value in orientation)
    return header.study_id, header.series_id, orientation, header.rows, header.columns


def order_slices(headers: Sequence["SliceHeader"]) -> list[int]:
    """Return the indices of the slices of one group in anatomical order.

    By ascending position along the slice normal: foot to head in axial series. Slices at the
    same position keep the order of their image ids (frames by number). Where a slice lacks its
    position, all are ordered by InstanceNumber, and where one lacks that too, by image id.
    """
    positions = [header.position_mm for header in headers]
    if any(position is None for position in positions):
        positions = [header.instance_number for header in headers]
    if any(position is None for position in positions):
        positions = [0.0] * len(headers)

    def key(index: int) -> tuple[float, str, int]:
        header, position = headers[index], positions[index]
        assert position is not None
        if header.frame is None:
            return position, header.image_id, 0
        return position, header.image_id.rpartition("_")[0], header.frame

    return sorted(range(len(headers)), key=key)


def gap_starts(positions_mm: np.ndarray) -> np.ndarray:
    """Return which slices are followed by a gap where slices seem to be missing, bool (n,).

    A distance counts where the distances before and after it are equal to within a tenth, and it is
    twice as long or a higher multiple of theirs. So a change of spacing within a series is no gap,
    and slices missing at either end, or beside another gap, are not detected.

    Args:
        positions_mm: (n,) ascending positions; equal ones count as one, unknown ones have no gaps.
    """
    found = np.zeros(len(positions_mm), dtype=bool)
    is_new = np.append(True, np.diff(positions_mm) > SAME_POSITION_MM)[: len(positions_mm)]
    starts = np.flatnonzero(is_new)
    if len(starts) < 4 or np.isnan(positions_mm).any():
        return found
    steps = np.diff(positions_mm[starts])
    before, step, after = steps[:-2], steps[1:-1], steps[2:]
    usual = (before + after) / 2
    times = step / usual
    is_multiple = (times > 1.9) & (np.abs(times - np.rint(times)) < 0.1 * np.rint(times))
    is_gap = is_multiple & (np.abs(before - after) < 0.1 * usual)
    # The last of the slices at the position before the gap.
    found[starts[2:-1][is_gap] - 1] = True
    return found
