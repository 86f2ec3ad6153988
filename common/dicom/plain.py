"""Reads the elements of a well-formed little-endian file in one go; leaves the others to pydicom.

pydicom looks at every element with care that most files don't need. This returns the same elements
in less time (`tests/common/dicom/test_dicom_plain.py` compares them). At the first sign of anything
unusual (sequences of undefined length, unknown VRs, pixels far behind) it returns None.
"""

import functools
import struct
from typing import Any, NamedTuple

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

HEAD_BYTES = 1 << 15
"""Elements of CT images take 1 to 8 KB; what does not end within this is left to pydicom."""

_UNDEFINED = 0xFFFFFFFF
_PIXEL_GROUP = 0x7FE0
_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = BaseTag(0x00020010)
# PS3.5 7.1.2: of these VRs the length takes two bytes, of the others four after two empty ones.
_SHORT_VRS = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
    *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
)
_LONG_VRS = (
    *("OB", "OD", "OF", "OL", "OV", "OW"),
    *("SQ", "SV", "UC", "UN", "UR", "UT", "UV"),
)
# By the bytes of a VR: its name, and whether its length is short.
_VRS = {name.encode(): (name, name in _SHORT_VRS) for name in _SHORT_VRS + _LONG_VRS}
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_GROUP = struct.Struct("<H").unpack_from
_LENGTH = struct.Struct("<L").unpack_from


class PlainFile(NamedTuple):
    """Elements before the pixels, and where these lie: tag, VR, length and offset of the value."""

    dataset: Dataset
    transfer_syntax: str
    tag: int
    vr: str | None
    length: int
    offset: int


def read_plain(head: bytes, start: int) -> PlainFile | None:
    """Returns what lies before the pixels of a file, or None where pydicom has to read it.

    Args:
        head: the file from byte `start` on, up to HEAD_BYTES of it.
        start: 132, behind the preamble.
    """
    try:
        meta, place = _elements(head, 0, start, implicit=False, meta=True)
        syntax = (meta[_TRANSFER_SYNTAX].value or b"").decode("ascii").rstrip("\0 ")
        if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
            return None
        implicit = syntax == ImplicitVRLittleEndian
        elements, place = _elements(head, place, start, implicit=implicit, meta=False)
        tag, vr, length, place = _element(head, place, implicit)
    except (_Unusual, KeyError, AttributeError, UnicodeDecodeError, struct.error):
        return None
    encodings: str | list[str] = default_encoding
    if _CHARACTER_SET in elements:
        value = elements[BaseTag(_CHARACTER_SET)].value
        if not value or not value.isascii() or b"\\" in value:
            return None
        encodings = convert_encodings(value.decode("ascii").rstrip(" \0"))
    dataset = Dataset(elements, parent_encoding=default_encoding)  # type: ignore[arg-type]
    dataset.set_original_encoding(implicit, True, encodings)
    return PlainFile(dataset, syntax, tag, vr, length, start + place)


@functools.lru_cache(maxsize=4096)
def one_tag(tag: int) -> BaseTag:
    """Returns the same object for the same tag, so that looking it up need not compare tags."""
    return BaseTag(tag)


class _Unusual(Exception):
    """The file needs pydicom's care."""


def _elements(
    head: bytes, place: int, start: int, *, implicit: bool, meta: bool
) -> tuple[dict[BaseTag, RawDataElement], int]:
    """Returns the elements from `place` on, up to the data set or the pixels, and their end."""
    found: dict[BaseTag, RawDataElement] = {}
    while True:
        (group,) = _GROUP(head, place)
        if (group != 2) if meta else (group == _PIXEL_GROUP):
            return found, place
        tag, vr, length, value_at = _element(head, place, implicit)
        if implicit and not found and head[place + 4 : place + 6].isalpha():
            raise _Unusual  # explicit after all
        end = value_at + length
        if length == _UNDEFINED or group == 0xFFFE or end > len(head):
            raise _Unusual
        value: Any = head[value_at:end] if length else empty_value_for_VR(vr, raw=True)
        key = one_tag(tag)
        found[key] = RawDataElement(key, vr, length, value, start + value_at, implicit, True)
        place = end


def _element(head: bytes, place: int, implicit: bool) -> tuple[int, str | None, int, int]:
    """Returns tag, VR, length and place of the value of the element at `place`."""
    if implicit:
        group, element, length = _IMPLICIT(head, place)
        return group << 16 | element, None, length, place + 8
    group, element, vr, length = _EXPLICIT(head, place)
    known = _VRS.get(vr)
    if known is None:
        raise _Unusual
    name, is_short = known
    if is_short:
        return group << 16 | element, name, length, place + 8
    return group << 16 | element, name, _LENGTH(head, place + 8)[0], place + 12
