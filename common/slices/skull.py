"""The outer hull of the skull in a slice: what lies in it stays, scalp and head rest do not."""

import cv2
import numpy as np

from common.slices.pixel_steps import head_mask, known_spacing

BONE_HU = 300
"""Above it lies bone; blood is below 100, and a calcified plexus does not widen a hull."""
WORKING_MM = 1.0
# Smaller bright parts are hair clips, tubes, and marks of a head rest.
_LEAST_BONE_MM2 = 25.0
# Bone seen from the middle of the hull. Where more than GAP_DEG of the circle have none (a bone
# flap is out, or the slice is cut), a hull would cut brain that bulges: there the head counts.
_SECTOR_DEG = 5
_GAP_DEG = 40
_SCALP_MM = 8.0


def skull_mask(
    image_hu: np.ndarray, spacing_mm: tuple[float | None, float | None]
) -> np.ndarray | None:
    """Return which pixels of a slice lie in the convex hull of its skull, bool.

    Where bone is missing over a wide angle, all of the head but its outermost 8 mm counts too, so
    that no brain is lost. None where the slice shows no bone (above the skull, or no head).

    Args:
        image_hu: (rows, columns), HU.
        spacing_mm: pixel spacing along a column and along a row, where it is known.
    """
    row_mm, column_mm = known_spacing(spacing_mm)
    rows, columns = image_hu.shape
    size = (max(1, round(columns * column_mm / WORKING_MM)), max(1, round(rows * row_mm)))
    if size[0] > columns or size[1] > rows:
        size = (columns, rows)
    small = cv2.resize(image_hu.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    pixel_mm = (row_mm * rows / size[1], column_mm * columns / size[0])
    head = head_mask(small, pixel_mm)
    if head is None:
        return None
    bone = _bone(small, head, pixel_mm[0] * pixel_mm[1])
    if bone is None:
        return None
    mask = _hull(bone) | _without_bone(bone, head, pixel_mm)
    # Half a pixel of the small image on either side.
    whole = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole > 0.25)


def _bone(image_hu: np.ndarray, head: np.ndarray, pixel_mm2: float) -> np.ndarray | None:
    """Return the bone of the head, bool, without small parts; None where there is none."""
    bone = ((image_hu > BONE_HU) & head).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(bone, connectivity=8)
    kept = np.flatnonzero(statistics[:, cv2.CC_STAT_AREA] * pixel_mm2 >= _LEAST_BONE_MM2)
    found = np.isin(labels, kept[kept > 0])
    return found if found.any() else None


def _hull(bone: np.ndarray) -> np.ndarray:
    points = np.argwhere(bone)[:, ::-1].astype(np.int32)
    filled = np.zeros(bone.shape, np.uint8)
    return cv2.fillConvexPoly(filled, cv2.convexHull(points), 1).astype(bool)


def _without_bone(bone: np.ndarray, head: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Return the head without its scalp, in the directions in which bone is missing, bool."""
    y, x = (np.arange(n, dtype=np.float32) for n in bone.shape)
    places = np.argwhere(head)
    center = (places.min(0) + places.max(0)) / 2
    angle = np.degrees(np.arctan2((y - center[0])[:, None], (x - center[1])[None]))
    sector = np.floor_divide(angle, _SECTOR_DEG).astype(np.int64) % (360 // _SECTOR_DEG)
    has_bone = np.asarray(np.bincount(sector[bone], minlength=360 // _SECTOR_DEG) > 0)
    width = _GAP_DEG // _SECTOR_DEG
    # A direction lies in a gap if some run of `width` directions that holds it has no bone.
    windows = np.stack([np.roll(has_bone, -k) for k in range(width)])
    starts = np.asarray(~windows.any(axis=0))
    is_gap = np.asarray(np.stack([np.roll(starts, k) for k in range(width)]).any(axis=0))
    if not is_gap.any():
        return np.zeros_like(head)
    size = [max(1, round(2 * _SCALP_MM / mm)) | 1 for mm in pixel_mm[::-1]]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size)
    inner = cv2.erode(head.astype(np.uint8), kernel, borderValue=0).astype(bool)
    return inner & is_gap[sector]
