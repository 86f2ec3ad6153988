"""Open a DICOM file: its elements, and the place of its pixels, without reading them."""

import contextlib
import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config
from pydicom.charset import convert_encodings
from pydicom.dataelem import (
    DataElement,
    RawDataElement,
    convert_raw_data_element,
    empty_value_for_VR,
)
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from common.dicom import elements
from common.dicom.rejection import RejectedFile

MAX_FILE_BYTES = 1 << 30
"""Largest file: 2,000 frames of 512 x 512."""
MAX_INFLATED_BYTES = 200 << 20
"""Largest inflated dataset: 400 frames of 512 x 512, from a file that can be a thousandth of it."""

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_TAGS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_PIXEL_VRS = {None, "OB", "OW", "UN"}  # PS3.5 A.4 and 6.2.2; None where the VR is implicit
_VRS = {vr.value for vr in VR}
_VR_NAMES = {name.encode(): name for name in _VRS}
_LONG_VRS = {name for name in _VRS if name in EXPLICIT_VR_LENGTH_32}  # 4 bytes, PS3.5 7.1.2
_Elements = dict[BaseTag, DataElement | RawDataElement]
_CHARACTER_SET, _LATIN_1 = BaseTag(0x00080005), "iso8859"
_EXPLICIT = struct.Struct("<HH2sH").unpack_from  # PS3.5 7.1.2
_LENGTH = struct.Struct("<L").unpack_from
_NOT_SCANNED = ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian
_HEAD_BYTES = 1 << 15
"""So much of a file is scanned; longer headers are left to pydicom."""
_NO_MARKER = "no DICM marker at byte 128, and no data set at the start"
_PYDICOM_MODULES = r"pydicom(\.|$)"


@dataclass(frozen=True)
class PixelElement:
    """Where the pixels lie: `length` bytes are declared at `offset`, `available` are there.

    The length is UNDEFINED_LENGTH for compressed frames.
    """

    keyword: str
    vr: str
    offset: int
    length: int
    available: int


@dataclass(frozen=True)
class OpenFile:
    """The elements of an open file, its transfer syntax and where its pixels are.

    `media_class` is the SOP class that the file meta information names; empty where none is. `note`
    says how a file was read that is not as PS3.10 has it; one line, or empty.
    """

    dataset: Dataset
    transfer_syntax: str
    pixels: PixelElement | None
    stream: BinaryIO
    media_class: str = ""
    note: str = ""

    def read_pixels(self) -> bytes:
        assert self.pixels is not None
        self.stream.seek(self.pixels.offset)
        return self.stream.read(min(self.pixels.length, self.pixels.available))


def quiet_pydicom() -> None:
    """Stop pydicom from checking and reporting every odd value, in this process.

    RSNA's UIDs are not valid in DICOM: each would cost a warning, and time. The readers call
    this, as the mode is global to a process; warnings of other packages stay as they are.
    """
    if config.settings.reading_validation_mode != config.IGNORE:
        config.settings.reading_validation_mode = config.IGNORE
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    if not any(entry[3] == re.compile(_PYDICOM_MODULES) for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PYDICOM_MODULES)


@contextlib.contextmanager
def open_dicom(file: Path | BinaryIO) -> Iterator[OpenFile]:
    """Yield the opened DICOM file, its elements read up to the pixels.

    Whatever goes wrong in reading and interpreting it, in the `with` block too, becomes a
    RejectedFile: pydicom converts values only when asked for them.

    Args:
        file: a path, or a seekable stream, which stays open.

    Raises:
        RejectedFile: not_dicom, unreadable, too_large, truncated or corrupt.
    """
    quiet_pydicom()
    with contextlib.ExitStack() as stack:
        try:
            yield _parse(stack.enter_context(open(file, "rb")) if isinstance(file, Path) else file)
        except (RejectedFile, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise RejectedFile("unreadable", os.strerror(error.errno)) from error
            # The text of a parser's error can quote values, so only its kind is reported.
            reason = f"the elements cannot be interpreted ({type(error).__name__})"
            raise RejectedFile("corrupt", reason) from error


def _parse(stream: BinaryIO) -> OpenFile:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    is_marked = head[128:132] == b"DICM"
    stream.seek(132)
    bare_syntax = "" if is_marked else _find_start(stream)
    if size > MAX_FILE_BYTES:
        raise RejectedFile("too_large", f"{size} bytes, above the limit of {MAX_FILE_BYTES}")
    if is_marked and (scanned := _scanned(stream, head, size)):
        return scanned
    meta = Dataset()
    if not bare_syntax:
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        _check_meta(meta, stream.tell(), size)
    transfer_syntax = bare_syntax or elements.text(meta, "TransferSyntaxUID")
    note = "" if is_marked else f"the file has no DICM marker: read as {UID(transfer_syntax).name}"
    media_class = elements.text(meta, "MediaStorageSOPClassUID")
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        stream = _inflate(stream)
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
    found: list[tuple[int, str | None, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            found.append((tag, vr, length))
        return tag in PIXEL_TAGS

    dataset = read_dataset(
        stream,
        transfer_syntax == ImplicitVRLittleEndian,
        transfer_syntax != ExplicitVRBigEndian,
        stop_when=at_pixels,
    )
    if not found:
        _check_end(dataset, stream.tell(), size)
        return OpenFile(dataset, transfer_syntax, None, stream, media_class, note)
    pixels = _pixel_element(*found[-1], stream.tell(), size)
    return OpenFile(dataset, transfer_syntax, pixels, stream, media_class, note)


def _pixel_element(tag: int, vr: str | None, length: int, start: int, size: int) -> PixelElement:
    """Return the element of pixels that starts at a place of a file of `size` bytes."""
    if PIXEL_TAGS[tag] == "PixelData" and vr not in _PIXEL_VRS:
        raise RejectedFile("corrupt", "PixelData has a VR that it cannot have")
    offset = start + (12 if vr in _LONG_VRS else 8)
    return PixelElement(PIXEL_TAGS[tag], vr or "OW", offset, length, max(0, size - offset))


def _scanned(stream: BinaryIO, head: bytes, size: int) -> OpenFile | None:
    """Return an open file whose elements are as plain as most; None where pydicom has to read it.

    The elements are the same, in half of the time of opening a file; test_part10.py compares them.
    """
    found = _scan(head, 132, lambda tag: tag >> 16 != 2)
    if found is None or not found[0]:
        return None
    meta, (_, _, _, start) = Dataset(found[0]), found[1]
    syntax = elements.text(meta, "TransferSyntaxUID")
    if syntax in _NOT_SCANNED:
        return None
    found = _scan(head, start, PIXEL_TAGS.__contains__)
    if found is None:
        return None
    values, of_pixels = found
    dataset, character_set = Dataset(values), values.get(_CHARACTER_SET)
    encoding: Any = _LATIN_1
    if isinstance(character_set, RawDataElement):  # converted apart: it stays raw in the dataset
        encoding = convert_encodings(convert_raw_data_element(character_set).value)
    dataset.set_original_encoding(False, True, encoding)
    pixels = _pixel_element(*of_pixels, size)
    return OpenFile(dataset, syntax, pixels, stream, elements.text(meta, "MediaStorageSOPClassUID"))


def _scan(
    head: bytes, start: int, is_end: Callable[[int], bool]
) -> tuple[_Elements, tuple[int, str, int, int]] | None:
    """Return the elements from a place on, and tag, VR, length and place of the one that ends them.

    None where the head ends first, or an element has no VR of DICOM's or no length of its own.
    """
    found: _Elements = {}
    while start + 12 <= len(head):
        group, number, vr, length = _EXPLICIT(head, start)
        tag, name, place = group << 16 | number, _VR_NAMES.get(vr), start + 8
        if name is None or group == 0xFFFE:
            return None
        if name in _LONG_VRS:
            (length,) = _LENGTH(head, place)
            place += 4
        if is_end(tag):
            return found, (tag, name, length, start)
        start = place + length
        if start > len(head):
            break
        value: Any = head[place:start] if length else empty_value_for_VR(name, raw=True)
        key = elements.tag_of(tag)
        found[key] = RawDataElement(key, name, length, value, place, False, True)
    return None


def _find_start(stream: BinaryIO) -> str:
    """Return the syntax of a file without marker, and leave the stream at its first element.

    It starts with file meta information that names a syntax, for which the result is empty, or
    with a data set in group 8; a marker without its preamble may stand before either.

    Raises:
        RejectedFile: not_dicom, where no UID that DICOM defines is in the place for it.
    """
    stream.seek(0)
    head = stream.read(12)
    start = 4 if head.startswith(b"DICM") else 0
    group, vr = head[start : start + 2], head[start + 4 : start + 6].decode("latin-1")
    syntax, wanted = "", "SOPClassUID"
    if group == b"\x02\0":
        wanted = "TransferSyntaxUID"
    elif group == b"\x08\0":
        syntax = ExplicitVRLittleEndian if vr in _VRS else ImplicitVRLittleEndian
    elif group == b"\0\x08":
        syntax = ExplicitVRBigEndian
    else:
        raise RejectedFile("not_dicom", _NO_MARKER)
    last = Tag(wanted)
    stream.seek(start)
    try:
        found = read_dataset(
            stream,
            syntax == ImplicitVRLittleEndian,
            syntax != ExplicitVRBigEndian,
            stop_when=lambda tag, vr, length: tag > last,
        )
        uid = UID(str(found.get(wanted, None) or ""))
    except (RejectedFile, OSError, MemoryError):
        raise
    except Exception as error:
        raise RejectedFile("not_dicom", _NO_MARKER) from error
    if uid.name == uid:
        raise RejectedFile("not_dicom", _NO_MARKER)
    stream.seek(start)
    return syntax


def _check_meta(meta: Dataset, end: int, size: int) -> None:
    """Raise where no sound file meta information follows the marker, PS3.10 7.1."""
    if not meta and end < size:
        raise RejectedFile("corrupt", "no file meta information follows the DICM marker")
    vrs = {getattr(meta.get_item(tag), "VR", None) for tag in list(meta.keys())}
    # A few writers leave out all VRs, and can be read.
    if vrs - _VRS and (vrs != {None} or "TransferSyntaxUID" not in meta):
        raise RejectedFile("corrupt", "the file meta information is damaged")
    _check_end(meta, end, size)


def _inflate(stream: BinaryIO) -> BinaryIO:
    """Return the inflated rest of `stream`; a small file can inflate a thousandfold."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(stream.read(), MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise RejectedFile("corrupt", "the deflated elements cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise RejectedFile("too_large", f"inflates to more than {MAX_INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise RejectedFile("truncated", "the deflated elements end too early")
    return io.BytesIO(data)


def _check_end(elements: Dataset, end: int, size: int) -> None:
    """Raise where the file ended within an element; none is left where that was a sequence."""
    if not elements and end >= size:
        reason = f"the file ends after {size} bytes, before its elements do"
        raise RejectedFile("truncated", reason)
    for tag in reversed(list(elements.keys())):
        last = elements.get_item(tag)
        value, length = getattr(last, "value", None), getattr(last, "length", 0)
        if isinstance(value, bytes) and len(value) < length != UNDEFINED_LENGTH:
            raise RejectedFile("truncated", "an element declares more bytes than the file has")
        return
