"""Values of single elements as plain types: absent is None, malformed is a rejection."""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

from common.dicom.rejection import RejectedFile

FUNCTIONAL_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "ContrastBolusAgentAdministered": "ContrastBolusUsageSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "KVP": "CTXRayDetailsSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
}
"""Where enhanced multi-frame images keep what differs by frame, PS3.3 C.7.6.16."""

# The time of day of a TM, also in the old form with colons, or of a DT, after its date.
_TIME = re.compile(r"^(?:\d{8}(?=\d))?(\d{2}):?(\d{2}):?(\d{2}(?:\.\d+)?)(?![\d:])")
_ORDER: dict[bool, Literal["little", "big"]] = {True: "little", False: "big"}
_TEXT_VRS = ("DS", "IS", "CS", "UI", "LO", "SH", "TM")
_MAX_PLAIN = 1024
"""Bytes of a value that is kept."""
_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text without padding; empty where absent, the first of several."""
    values = texts(dataset, keyword)
    return values[0] if values else ""


def texts(dataset: Dataset, keyword: str, frame: int = 0) -> tuple[str, ...]:
    """Return all values of an element as text without padding; empty where absent."""
    return tuple(str(value).strip(" \0") for value in _values(find(dataset, keyword, frame)))


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return an element as an integer; raise RejectedFile where it is another thing."""
    value = numbers(dataset, keyword, 1)
    if value is None:
        return None
    if not value[0].is_integer():
        raise RejectedFile("corrupt", f"{keyword} is not an integer")
    return int(value[0])


def required_integer(dataset: Dataset, keyword: str) -> int:
    """Return an element as an integer; raise RejectedFile where it is absent."""
    value = integer(dataset, keyword)
    if value is None:
        raise RejectedFile("corrupt", f"{keyword} is missing")
    return value


def numbers(dataset: Dataset, keyword: str, count: int, frame: int = 0) -> tuple[float, ...] | None:
    """Return the `count` finite numbers of an element, or None where it is absent or empty.

    Raises:
        RejectedFile: corrupt, where there are others.
    """
    values = _values(find(dataset, keyword, frame))
    if not values:
        return None
    try:
        result = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise RejectedFile("corrupt", f"{keyword} is not a number") from error
    if len(result) != count or not all(map(math.isfinite, result)):
        wanted = "one finite number" if count == 1 else f"{count} finite numbers"
        raise RejectedFile("corrupt", f"{keyword} is not {wanted}")
    return result


def first_number(dataset: Dataset, keyword: str, frame: int = 0) -> float | None:
    """Return the first value of an element that only display uses; None where it is no number."""
    try:
        values = _values(find(dataset, keyword, frame))
        value = float(values[0]) if values else math.nan
    except (TypeError, ValueError, NotImplementedError, BytesLengthException):
        return None
    return value if math.isfinite(value) else None


def seconds(dataset: Dataset, keywords: Sequence[str], frame: int = 0) -> float | None:
    """Return the first time that is there in seconds of the day; None where there is none.

    Args:
        keywords: elements with the VR TM or DT, the best first.
    """
    for keyword in keywords:
        for value in texts(dataset, keyword, frame)[:1]:
            found = _TIME.search(value)
            if found:
                hours, minutes, rest = found.groups()
                return 3600.0 * int(hours) + 60.0 * int(minutes) + float(rest)
    return None


def find(dataset: Dataset, keyword: str, frame: int = 0) -> Any:
    """Return the value of an element for a frame: its own, the shared one, or the file's."""
    group = FUNCTIONAL_GROUPS.get(keyword)
    if group is not None and _has_functional_groups(dataset):
        for source, number in (
            (_PER_FRAME, frame),
            (_SHARED, 0),
        ):
            items = _get(dataset, source)
            if not items:
                continue
            if number >= len(items):
                raise RejectedFile("corrupt", f"frame {number} has no functional groups")
            sequence = _get(items[number], group)
            value = _get(sequence[0], keyword) if sequence else None
            if value is not None:
                return value
    return _get(dataset, keyword)


def raw_values(dataset: Dataset, keywords: Sequence[str]) -> tuple[Any, ...] | None:
    """Return what tells elements apart that pydicom has not converted yet, to keep results by.

    None where an element may differ by frame, or is no plain value.
    """
    elements = [dataset.keys().mapping.get(_tag(keyword)) for keyword in keywords]  # type: ignore[attr-defined]
    if _has_functional_groups(dataset):
        return None
    if not all(element is None or isinstance(element, RawDataElement) for element in elements):
        return None
    return tuple(element and (element.VR, element.value) for element in elements)


def _has_functional_groups(dataset: Dataset) -> bool:
    tags = dataset.keys()
    return _tag(_PER_FRAME) in tags or _tag(_SHARED) in tags


def _get(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an element or None."""
    tag = _tag(keyword)
    # Not get_item, which makes the tag anew.
    element = dataset.keys().mapping.get(tag)  # type: ignore[attr-defined]
    if element is None:
        return None
    plain = _plain_values(element) if isinstance(element, RawDataElement) else None
    return dataset[tag].value if plain is None else plain


def _plain_values(raw: RawDataElement) -> tuple[Any, ...] | None:
    """Return the values of a well-formed element, or None where pydicom has to look at it.

    pydicom makes objects of every value, which took a quarter of the time of preparing. These are
    the same values, as plain types; `tests/common/dicom/test_elements.py` compares them.
    """
    value = raw.value
    if not isinstance(value, bytes) or len(value) != raw.length or len(value) > _MAX_PLAIN:
        return None
    return _plain(raw.VR or _vr(raw.tag), value, raw.is_little_endian)


# Most values of a header are those of the whole series.
@functools.lru_cache(maxsize=4096)
def _plain(vr: str, value: bytes, is_little_endian: bool) -> tuple[Any, ...] | None:
    if vr in ("US", "SS") and len(value) == 2:
        return (int.from_bytes(value, _ORDER[is_little_endian], signed=vr == "SS"),)
    if vr not in _TEXT_VRS or not value.isascii() or b"\x1b" in value:
        return None
    values: Sequence[Any] = value.decode("ascii").rstrip(" \0").split("\\")
    if vr in ("LO", "SH", "TM"):
        values = [item.rstrip("\0 ") for item in values]
    elif vr in ("DS", "IS"):
        try:
            values = [float(item) if vr == "DS" else int(item) for item in values]
        except ValueError:
            return None
    return tuple(item for item in values if item != "")


@functools.cache
def _vr(tag: int) -> str:
    """Return the VR of a tag that the file leaves to the dictionary (implicit VR)."""
    return dictionary_VR(tag)


# One object for each tag: dictionaries find it by identity, and pydicom compares tags in Python.
tag_of = functools.lru_cache(maxsize=4096)(BaseTag)


@functools.cache
def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag_of(tag)


def _values(value: Any) -> Sequence[Any]:
    """Return the values of an element, without empty ones."""
    if type(value) is tuple:  # plain ones
        return value
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        value = [value]
    return [item for item in value if item is not None and item not in ("", b"")]
