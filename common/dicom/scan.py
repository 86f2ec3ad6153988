"""The elements of a file up to a tag: those of a well-formed one in a tenth of pydicom's time.

Every header is read twice, and pydicom took more time for that than for decoding plain pixels. What
is out of the ordinary is left to it: big endian, sequences of undefined length, unknown VRs,
elements that end early or are long. `tests/common/dicom/test_scan.py` compares the two.
"""

import functools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import (
    DataElement,
    RawDataElement,
    convert_raw_data_element,
    empty_value_for_VR,
)
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

_EXPLICIT, _IMPLICIT = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from
_LONGEST_HEAD = 12
"""Bytes of a tag, a VR and a length."""
_VRS = {vr.value.encode(): (vr.value, vr in EXPLICIT_VR_LENGTH_32) for vr in VR}
_MAX_KEPT = 256
"""Bytes of a value that is kept."""
_CHARSET = 0x00080005
_ITEM_END = 0xFFFEE00D

base_tag = functools.lru_cache(maxsize=4096)(BaseTag)
"""Return the one object for a tag: pydicom compares tags that are not the same in Python."""
_empty: Callable[[str | None], Any] = functools.cache(
    functools.partial(empty_value_for_VR, raw=True)
)


class Elements(NamedTuple):
    """Elements, where they end, and tag, VR and length of the one that begins there, if any.

    `is_sound` where there are some, with known VRs, and they are as long as they declare.
    """

    dataset: Dataset
    end: int
    next: tuple[int, str | None, int] | None
    is_sound: bool = False


class Encoding(NamedTuple):
    """How elements are written."""

    is_implicit: bool
    is_little_endian: bool = True


def read_elements(
    stream: BinaryIO, head: bytes, start: int, encoding: Encoding, stop: Callable[[int], bool]
) -> Elements:
    """Return the elements from a place in a file up to the first tag to stop at.

    Args:
        stream: the file; where it is left is not defined.
        head: its first bytes, or none: they are what is read fast.
        start: where the elements begin.
        encoding: how they are written.
        stop: whether to stop at a tag.
    """
    found = _scan(head, start, encoding.is_implicit, stop) if encoding.is_little_endian else None
    if found is not None:
        return found
    following: list[tuple[int, str | None, int]] = []

    def stop_when(tag: BaseTag, vr: str | None, length: int) -> bool:
        is_last = stop(tag)
        if is_last:
            following.append((tag, vr, length))
        return is_last

    stream.seek(start)
    dataset = read_dataset(stream, *encoding, stop_when=stop_when)
    return Elements(dataset, stream.tell(), following[-1] if following else None)


def value_of(element: DataElement | RawDataElement) -> Any:
    """Return the value that pydicom makes of an element; for values that many files share."""
    if isinstance(element, DataElement):
        return element.value
    return (_value_of if element.length <= _MAX_KEPT else _value_of.__wrapped__)(element)


@functools.lru_cache(maxsize=1024)
def _value_of(raw: RawDataElement) -> Any:
    return convert_raw_data_element(raw).value


def _scan(
    data: bytes, start: int, is_implicit: bool, stop: Callable[[int], bool]
) -> Elements | None:
    """Return the elements before the tag to stop at; None where pydicom has to look."""
    first_vr = data[start + 4 : start + 6]
    if is_implicit and first_vr.isalpha() and first_vr.isupper():
        return None
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    vr, is_long = None, False
    position, last = start, len(data) - _LONGEST_HEAD
    while position <= last:
        value_at = position + 8
        if is_implicit:
            group, element, length = _IMPLICIT(data, position)
        else:
            group, element, code, length = _EXPLICIT(data, position)
            if code not in _VRS:
                return None
            vr, is_long = _VRS[code]
            if is_long:
                (length,) = _LENGTH(data, value_at)
                value_at += 4
        tag = group << 16 | element
        if tag == _ITEM_END:
            return None
        if stop(tag):
            following = (tag, vr, length)
            return Elements(_dataset(found, is_implicit), position, following, bool(found))
        end = value_at + length
        if end > len(data):
            return None
        value = data[value_at:end] if length else _empty(vr)
        key = base_tag(tag)
        found[key] = RawDataElement(key, vr, length, value, value_at, is_implicit, True)
        position = end
    return None


def _dataset(found: dict[BaseTag, DataElement | RawDataElement], is_implicit: bool) -> Dataset:
    dataset = Dataset(found)
    charset = found.get(base_tag(_CHARSET))
    encoding = default_encoding if charset is None else convert_encodings(value_of(charset))
    dataset.set_original_encoding(is_implicit, True, encoding)
    return dataset
