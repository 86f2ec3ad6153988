"""Regions of a slice: the head, the hull of its skull, and the cavity in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

HEAD_HU = -200
"""Above it lies tissue, below it air and the foam of head rests; fat is about -100."""
OPENING_MM = 7.0
"""Parts thinner than this are not of the head: shells of tables, straps, tubes."""
USUAL_SPACING_MM = 0.5
"""Taken for the widths above where the pixel spacing is unknown."""
# Below that it may be a bit of a table in a slice above the head.
_LEAST_HEAD_MM2 = 400.0
BONE_HU = 300
"""Above it lies bone; blood is below 100, and a calcified plexus does not widen a hull."""
# Masks of bone are made on pixels of this size.
_WORKING_MM = 1.0
# Smaller bright parts are hair clips, tubes, and marks of a head rest.
_LEAST_BONE_MM2 = 25.0
# Bone seen from the middle of the hull. Where more than 30 degrees of the circle have none (a bone
# flap is out, or the slice is cut), a hull would cut brain that bulges: there the head counts.
_SECTOR_DEG = 5
_GAP_DEG = 30
_SCALP_MM = 5.0
_SOFT_HU = -50
_CAVITY_MM = 12.0
_LEAST_CAVITY_MM2 = 500.0


def head_mask(
    image_hu: np.ndarray,
    spacing_mm: tuple[float | None, float | None],
    adds_bony_parts: bool = False,
) -> np.ndarray | None:
    """Return which pixels of a slice belong to the head, bool; None where there is none.

    That is the largest connected part above HEAD_HU, its cavities included, once all that is
    thinner than OPENING_MM is gone. A head rest that the head touches broadly stays.

    Args:
        adds_bony_parts: whether parts that lie apart count too, where they show bone: without its
            scalp, a slice of the base may be several.
    """
    row_mm, column_mm = known_spacing(spacing_mm)
    tissue = (image_hu > HEAD_HU).astype(np.uint8)
    kernel = _disk(OPENING_MM, (row_mm, column_mm))
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, kernel, borderValue=0)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if areas.max() * row_mm * column_mm < _LEAST_HEAD_MM2:
        return None
    is_head = np.arange(len(areas)) == areas.argmax()
    if adds_bony_parts:
        bone = np.bincount(labels[image_hu > BONE_HU], minlength=count)[1:]
        least = np.array([_LEAST_HEAD_MM2, _LEAST_BONE_MM2]) / (row_mm * column_mm)
        is_head |= (areas >= least[0]) & (bone >= least[1])
    head = np.concatenate([[False], is_head]).astype(np.uint8)[labels]
    outlines, _ = cv2.findContours(head, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(head, outlines, -1, 1, cv2.FILLED)
    # Restore skin, nose and ears that the opening removed.
    return cv2.dilate(filled, kernel).astype(bool)


def skull_mask(
    image_hu: np.ndarray, spacing_mm: tuple[float | None, float | None]
) -> np.ndarray | None:
    """Return which pixels of a slice lie in the convex hull of its skull, bool.

    Where bone is missing over a wide angle, all of the head but its outermost 5 mm counts too, so
    that no brain is lost. None where the slice shows no bone (above the skull, or no head).
    """
    return skull_and_cavity(image_hu, spacing_mm)[0]


def skull_and_cavity(
    image_hu: np.ndarray, spacing_mm: tuple[float | None, float | None]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the `skull_mask` of a slice, and which pixels lie in its cavity; None where none do.

    The cavity is the largest part inside the skull that is neither bone nor air, once all that is
    thinner than 12 mm is gone. At the base it may be a part of the brain alone, of face or neck.
    """
    found = _Skull.find(image_hu, spacing_mm)
    if found is None:
        return None, None
    soft = (found.inside & ~found.bone & (found.image_hu > _SOFT_HU)).astype(np.uint8)
    opened = cv2.morphologyEx(
        soft, cv2.MORPH_OPEN, _disk(_CAVITY_MM, found.pixel_mm), borderValue=0
    )
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    if areas.max() * found.pixel_mm[0] * found.pixel_mm[1] < _LEAST_CAVITY_MM2:
        return found.whole(found.inside), None
    return found.whole(found.inside), found.whole(labels == int(areas.argmax()))


@dataclass(frozen=True)
class _Skull:
    """A slice in pixels of about 1 mm, with its bone and its hull.

    Attributes:
        image_hu: float32 (rows, columns).
        pixel_mm: spacing along a column and along a row.
        bone, inside: bool (rows, columns).
        shape: rows and columns of the slice itself.
    """

    image_hu: np.ndarray
    pixel_mm: tuple[float, float]
    bone: np.ndarray
    inside: np.ndarray
    shape: tuple[int, int]

    @staticmethod
    def find(
        image_hu: np.ndarray, spacing_mm: tuple[float | None, float | None]
    ) -> "_Skull | None":
        row_mm, column_mm = known_spacing(spacing_mm)
        rows, columns = image_hu.shape
        sides = ((columns, column_mm), (rows, row_mm))
        width, height = (max(1, min(n, round(n * mm / _WORKING_MM))) for n, mm in sides)
        small: np.ndarray = image_hu.astype(np.float32)
        if (height, width) != (rows, columns):
            small = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
        pixel_mm = (row_mm * rows / height, column_mm * columns / width)
        head = head_mask(small, pixel_mm, adds_bony_parts=True)
        bone = None if head is None else _bone(small, head, pixel_mm[0] * pixel_mm[1])
        if head is None or bone is None:
            return None
        inside = _hull(bone) | _without_bone(bone, head, pixel_mm)
        return _Skull(small, pixel_mm, bone, inside, (rows, columns))

    def whole(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask for the slice itself, half a small pixel wider than in the small image."""
        size = self.shape[::-1]
        whole = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole > 0.25)


def _disk(width_mm: float, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Return an ellipse of a width in mm, an odd number of pixels."""
    size = [max(1, round(width_mm / mm)) | 1 for mm in pixel_mm[::-1]]
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size)


def _bone(image_hu: np.ndarray, head: np.ndarray, pixel_mm2: float) -> np.ndarray | None:
    """Return the bone of the head, bool, without small parts; None where there is none."""
    bone = ((image_hu > BONE_HU) & head).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(bone, connectivity=8)
    is_kept = np.asarray(statistics[:, cv2.CC_STAT_AREA] * pixel_mm2 >= _LEAST_BONE_MM2)
    is_kept[0] = False
    found = np.asarray(is_kept[labels])
    return found if found.any() else None


def _hull(bone: np.ndarray) -> np.ndarray:
    points = np.argwhere(bone)[:, ::-1].astype(np.int32)
    filled = np.zeros(bone.shape, np.uint8)
    return cv2.fillConvexPoly(filled, cv2.convexHull(points), 1).astype(bool)


def _without_bone(bone: np.ndarray, head: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Return the head without its scalp, in the directions in which bone is missing, bool."""
    ends = [np.flatnonzero(head.any(axis))[[0, -1]] for axis in (1, 0)]
    center = [end.mean() for end in ends]
    in_bone = _sectors(np.nonzero(bone), center)
    has_bone = np.asarray(np.bincount(in_bone, minlength=360 // _SECTOR_DEG) > 0)
    width = _GAP_DEG // _SECTOR_DEG
    # A direction lies in a gap if some run of `width` directions that holds it has no bone.
    windows = np.stack([np.roll(has_bone, -k) for k in range(width)])
    starts = np.asarray(~windows.any(axis=0))
    is_gap = np.asarray(np.stack([np.roll(starts, k) for k in range(width)]).any(axis=0))
    if not is_gap.any():
        return np.zeros_like(head)
    kernel = _disk(2 * _SCALP_MM, pixel_mm)
    inner = cv2.erode(head.astype(np.uint8), kernel, borderValue=0).astype(bool)
    places = np.nonzero(inner)
    inner[places] = is_gap[_sectors(places, center)]
    return inner


def _sectors(places: tuple[np.ndarray, ...], center: Sequence[float]) -> np.ndarray:
    """Return in which direction from the center each of (rows, columns) lies, int64."""
    angle = np.degrees(np.arctan2(places[0] - center[0], places[1] - center[1]))
    return np.floor_divide(angle, _SECTOR_DEG).astype(np.int64) % (360 // _SECTOR_DEG)


def known_spacing(spacing_mm: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return the pixel spacing, the usual one where it is unknown."""
    return spacing_mm[0] or USUAL_SPACING_MM, spacing_mm[1] or USUAL_SPACING_MM
