"""Compressed frames, checked before a codec sees them.

Codecs return half an image for a truncated frame without a word, and allocate what a damaged
frame asks for; so the end of the frame and its size are compared with the header's first.
"""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.encaps import generate_frames

from common.dicom.rejection import RejectedFile
from common.words import count

if TYPE_CHECKING:
    from common.dicom.header import PixelHeader

RLE_SYNTAX = "1.2.840.10008.1.2.5"
J2K_SYNTAXES = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}
JPEG_LOSSLESS_SYNTAXES = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
_END = b"\xff\xd9"  # end of image in JPEG and JPEG-LS, end of codestream in JPEG 2000
_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
_ITEM = b"\xfe\xff\x00\xe0"
_TILE_PART = b"\xff\x90"
_JP2_START = b"\x00\x00\x00\x0cjP  "
# Start-of-frame markers: C0 to CF but DHT (C4), JPG (C8) and DAC (CC); F7 is JPEG-LS's.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER = 0xDA


@dataclass(frozen=True)
class FrameSize:
    """Size and bits that a compressed frame declares."""

    rows: int
    columns: int
    components: int
    bits: int


def split_frames(data: bytes, num_frames: int) -> list[bytes]:
    """Return the compressed frames in encapsulated pixel data; raise RejectedFile."""
    _check_fragments(data)
    try:
        frames = list(generate_frames(data, number_of_frames=num_frames))
    except MemoryError:
        raise
    except Exception as error:
        reason = "the fragments of the pixel data cannot be separated"
        raise RejectedFile("truncated", reason) from error
    if len(frames) < num_frames:
        raise RejectedFile("truncated", f"{len(frames)} of {num_frames} compressed frames")
    if len(frames) > num_frames:
        raise RejectedFile("overlong", f"{len(frames)} compressed frames instead of {num_frames}")
    return frames


def _check_fragments(data: bytes) -> None:
    """Raise where the last fragment, PS3.5 A.4, is shorter than it declares."""
    offset = 0
    while data[offset : offset + 4] == _ITEM and offset + 8 <= len(data):
        offset += 8 + struct.unpack_from("<I", data, offset + 4)[0]
    if offset > len(data):
        raise RejectedFile("truncated", f"a fragment lacks {offset - len(data)} bytes")


def check_frame(frame: bytes, header: "PixelHeader") -> None:
    """Raise RejectedFile where a frame ends early or is not what the header declares."""
    if header.transfer_syntax == RLE_SYNTAX:
        _check_rle(frame)
        return
    if not frame.rstrip(b"\x00\xff").endswith(_END):  # some writers pad with ff
        raise RejectedFile("truncated", "a compressed frame has no end-of-image marker")
    is_j2k = frame.startswith((_J2K_START, _JP2_START))
    if is_j2k != (header.transfer_syntax in J2K_SYNTAXES):
        held = "JPEG 2000" if is_j2k else "no JPEG 2000"
        raise RejectedFile("corrupt", f"a compressed frame is {held}, unlike its transfer syntax")
    size = _j2k_size(frame) if is_j2k else _jpeg_size(frame)
    if size is None:
        raise RejectedFile("corrupt", "a compressed frame has damaged headers")
    if (size.rows, size.columns) != (header.rows, header.columns):
        declared = f"the header says {header.rows} x {header.columns}"
        reason = f"a compressed frame is {size.rows} x {size.columns}, {declared}"
        raise RejectedFile("corrupt", reason)
    if is_j2k:
        _check_tile_parts(frame)
    if size.components != 1 or not 1 <= size.bits <= header.bits_allocated:
        reason = f"a compressed frame has {count(size.components, 'component')} of {size.bits} bits"
        raise RejectedFile("corrupt", reason)


def coded_bits(frame: bytes, header: "PixelHeader") -> int:
    """Return how many bits of a value to ask the codec for: all that a frame of JPEG Lossless has.

    GDCM clips these to what it is asked for, instead of leaving out what lies above.
    """
    size = _jpeg_size(frame) if header.transfer_syntax in JPEG_LOSSLESS_SYNTAXES else None
    return header.bits_stored if size is None else max(header.bits_stored, size.bits)


def _j2k_size(frame: bytes) -> FrameSize | None:
    """Read the SIZ segment, ISO 15444-1 A.5.1."""
    start = frame.find(_J2K_START)
    if start < 0 or len(frame) < start + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    components, bits = struct.unpack_from(">HB", frame, start + 40)
    return FrameSize(bottom - top, right - left, components, (bits & 0x7F) + 1)


def _check_tile_parts(frame: bytes) -> None:
    """Raise where the tile-parts, ISO 15444-1 A.4.2, are not as long as they declare.

    The codec only warns of those that end early, and paints what is there.
    """
    offset = frame.find(_J2K_START) + 2
    while (marker := frame[offset : offset + 2]) not in (_TILE_PART, _END):
        if offset + 4 > len(frame) or not marker.startswith(b"\xff"):
            raise RejectedFile("corrupt", "a compressed frame has damaged headers")
        offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]
    end = frame.rfind(_END)
    while frame[offset : offset + 2] == _TILE_PART and offset + 12 <= len(frame):
        (length,) = struct.unpack_from(">I", frame, offset + 6)
        if length == 0:  # up to the end marker
            return
        if offset + length > end:
            missing = offset + length - end
            raise RejectedFile("truncated", f"a compressed frame lacks {missing} bytes of a tile")
        offset += max(length, 12)
    if offset != end:
        raise RejectedFile("corrupt", "a compressed frame has data that belongs to no tile")


def _jpeg_size(frame: bytes) -> FrameSize | None:
    """Read the segments of JPEG or JPEG-LS up to the scan, ISO 10918-1 B.2.

    None where they do not follow each other or an unknown JFIF version is declared: GDCM ends
    the process on such frames.
    """
    size = None
    offset = 2 if frame.startswith(_JPEG_START) else len(frame)
    while offset + 10 <= len(frame) and frame[offset] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, offset + 1)
        if marker == _SCAN_MARKER:
            return size
        if frame[offset + 4 : offset + 9] == b"JFIF\0" and frame[offset + 9] != 1:
            return None
        if marker in _FRAME_MARKERS:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 4)
            size = FrameSize(rows, columns, components, bits)
        offset += 1 if marker == 0xFF else 2 + length
    return None


def _check_rle(frame: bytes) -> None:
    """Raise where the RLE header, PS3.5 G.5, points outside the frame."""
    if len(frame) < 64:
        raise RejectedFile("truncated", "an RLE frame is shorter than its header")
    num_segments, *offsets = struct.unpack_from("<16I", frame)
    used = offsets[: min(num_segments, 15)]
    if not 1 <= num_segments <= 15 or used != sorted(used) or used[0] < 64:
        raise RejectedFile("corrupt", "an RLE frame has a damaged header")
    if used[-1] >= len(frame):
        raise RejectedFile("truncated", "an RLE frame ends before its last segment")
