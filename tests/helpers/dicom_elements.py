"""The top-level elements of a DICOM file, as bytes: read and written without pydicom."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

UNDEFINED = 0xFFFFFFFF
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}


class Element(NamedTuple):
    """One element as it is in a file; `length` is what it declares."""

    tag: int
    vr: bytes
    length: int
    value: bytes


@dataclass(frozen=True)
class Sound:
    """A file without damage: its elements, and the stored values (frames, rows, columns)."""

    name: str
    syntax: str
    meta: tuple[Element, ...]
    elements: tuple[Element, ...]
    stored: np.ndarray


def encode(sound: Sound, elements: list[Element] | tuple[Element, ...]) -> bytes:
    """Return the file with these elements in place of its own."""
    meta = b"".join(encode_element(element, ExplicitVRLittleEndian) for element in sound.meta)
    body = b"".join(encode_element(element, sound.syntax) for element in elements)
    if sound.syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
    return bytes(128) + b"DICM" + meta + body


def encode_element(element: Element, syntax: str) -> bytes:
    """Return the bytes of an element."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = struct.pack(f"{order}HH", element.tag >> 16, element.tag & 0xFFFF)
    if syntax == ImplicitVRLittleEndian:
        return head + struct.pack("<I", element.length) + element.value
    if element.vr in LONG_VRS:
        return head + element.vr + struct.pack(f"{order}HI", 0, element.length) + element.value
    return head + element.vr + struct.pack(f"{order}H", element.length & 0xFFFF) + element.value


def parse(path: Path, name: str, syntax: str, stored: np.ndarray) -> Sound:
    """Read the elements of a sound file."""
    data = path.read_bytes()
    meta, elements, offset = [], [], 132
    while data[offset : offset + 2] == b"\x02\x00":
        element, offset = _parse_element(data, offset, ExplicitVRLittleEndian)
        meta.append(element)
    if syntax == DeflatedExplicitVRLittleEndian:
        data, offset = zlib.decompress(data[offset:], -zlib.MAX_WBITS), 0
    while offset < len(data):
        element, offset = _parse_element(data, offset, syntax)
        elements.append(element)
    return Sound(name, syntax, tuple(meta), tuple(elements), stored)


def _parse_element(data: bytes, offset: int, syntax: str) -> tuple[Element, int]:
    """Return the element at an offset and where the next one is."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    group, number = struct.unpack_from(f"{order}HH", data, offset)
    tag = group << 16 | number
    if syntax == ImplicitVRLittleEndian:
        vr, start, form = dictionary_VR(tag)[:2].encode(), offset + 8, "I"
    else:
        vr = data[offset + 4 : offset + 6]
        start, form = (offset + 12, "I") if vr in LONG_VRS else (offset + 8, "H")
    (length,) = struct.unpack_from(order + form, data, start - struct.calcsize(form))
    end = len(data) if length == UNDEFINED else start + length
    return Element(tag, vr, length, data[start:end]), end
