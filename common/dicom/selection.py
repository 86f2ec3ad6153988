"""Sort slices by their header: axial or not, head or not, with contrast medium or not.

Headers are filled in by people and by scanners' habits, so a slice is left out only where
something speaks against it, never because an element is absent. Texts are matched by whole words
and never quoted: what a site writes there can hold names. Kernels are ignored: bone
reconstructions are in Hounsfield units too.
"""

import functools
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydicom.dataset import Dataset

from common.dicom import elements
from common.dicom.contrast import why_contrast
from common.dicom.geometry import LARGEST_TILT_DEG, slice_normal
from common.dicom.vocabulary import WORDS, any_of, is_in, text_of

_NAMED_PLANE_DEG = 20.0
_IMAGE_TYPE, _REGION = WORDS["image_type"], WORDS["region"]
_SCOUT = any_of(WORDS["localizer"]["words"])
_DERIVED = {what: any_of(words) for what, words in WORDS["derived"]["words"].items()}
_HEAD, _ELSEWHERE = any_of(_REGION["head"]), any_of(_REGION["elsewhere"])


def why_left_out(
    dataset: Dataset, frame: int, orientation: Sequence[float] | None
) -> tuple[str, str] | None:
    """Return status and reason where a slice is no axial slice of a head without contrast medium.

    Returns:
        A key of `rejection.STATUSES` and a sentence; None where nothing speaks against the slice.
    """
    if found := _other_image(dataset, frame) or _other_plane(orientation):
        return found
    if reason := _why_not_head(dataset):
        return "not_head", reason
    reason = why_contrast(dataset, frame)
    return ("contrast", reason) if reason else None


def _other_image(dataset: Dataset, frame: int) -> tuple[str, str] | None:
    """Return why an image is no measured slice at all."""
    kinds = {value.upper() for value in elements.texts(dataset, "ImageType")}
    kinds |= {value.upper() for value in elements.texts(dataset, "FrameType", frame)}
    return _other_kind(frozenset(kinds), text_of(dataset, "SeriesDescription"))


# All slices of a series have the same.
@functools.lru_cache(maxsize=256)
def _other_kind(kinds: frozenset[str], description: str) -> tuple[str, str] | None:
    for kind in sorted(kinds):
        if any(fnmatchcase(kind, pattern) for pattern in _IMAGE_TYPE["localizer"]):
            return "localizer", "ImageType says localizer"
        if any(fnmatchcase(kind, pattern) for pattern in _IMAGE_TYPE["screen"]):
            return "not_ct", "ImageType says that it is a screen shot or a report"
        for pattern, what in _IMAGE_TYPE["derived"].items():
            if fnmatchcase(kind, pattern):
                return "derived", f"ImageType says {kind}: {what}"
    if is_in(description, _SCOUT):
        return "localizer", "SeriesDescription says scout, topogram or the like"
    for what, words in _DERIVED.items():
        if is_in(description, words):
            return "derived", f"SeriesDescription says {what}"
    return None


def _other_plane(orientation: Sequence[float] | None) -> tuple[str, str] | None:
    """Return why a slice is not axial, by ImageOrientationPatient."""
    if orientation is None:
        return None
    cosines = [abs(float(value)) for value in slice_normal(orientation)]
    degrees = [math.degrees(math.acos(min(1.0, cosine))) for cosine in cosines]
    if degrees[2] <= LARGEST_TILT_DEG:
        return None
    names = ("a sagittal", "a coronal", "an axial")
    nearest = degrees.index(min(degrees))
    name = names[nearest] if degrees[nearest] <= _NAMED_PLANE_DEG else "an oblique"
    return "not_axial", f"{name} slice, {degrees[2]:.0f} degrees from axial"


def _why_not_head(dataset: Dataset) -> str | None:
    """Return why a slice is not of a head; None where it is, or nothing says what it is of."""
    head, other, score = [], [], 0
    for keyword, weight in _REGION["weights"].items():
        text = text_of(dataset, keyword)
        if is_in(text, _HEAD):
            head.append(keyword)
            score += weight
        elif is_in(text, _ELSEWHERE):
            other.append(keyword)
            score -= weight
    if score >= 0:
        return None
    reason = (
        f"{' and '.join(other)} {'name' if len(other) > 1 else 'names'} another part of the body"
    )
    if not head:
        return f"{reason}, and nothing names the head"
    return f"{reason}, which counts for more than the head in {' and '.join(head)}"
