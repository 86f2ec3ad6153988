"""Compressed frames, checked before a codec sees them.

Codecs return half an image for a truncated frame without a word, and allocate what a damaged
frame asks for; so the end of the frame and its size are compared with the header's first.
"""

import struct
from collections.abc import Sequence

from pydicom.encaps import generate_frames

from common.dicom.rejection import RejectedFile

RLE_SYNTAX = "1.2.840.10008.1.2.5"
_END = b"\xff\xd9"  # end of image in JPEG and JPEG-LS, end of codestream in JPEG 2000
_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  "
# Start-of-frame markers: C0 to CF but DHT (C4), JPG (C8) and DAC (CC); F7 is JPEG-LS's.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # without a length


def split_frames(data: bytes, num_frames: int) -> list[bytes]:
    """Returns the compressed frames in encapsulated pixel data; raises RejectedFile."""
    try:
        frames = list(generate_frames(data, number_of_frames=num_frames))
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        reason = "the fragments of the pixel data cannot be told apart"
        raise RejectedFile("truncated", reason) from error
    if len(frames) < num_frames:
        raise RejectedFile("truncated", f"{len(frames)} of {num_frames} compressed frames")
    if len(frames) > num_frames:
        raise RejectedFile("overlong", f"{len(frames)} compressed frames instead of {num_frames}")
    return frames


def check_frame(frame: bytes, transfer_syntax: str, shape: Sequence[int], name: str) -> None:
    """Raises RejectedFile where a frame ends early or is not of the shape that is declared.

    Args:
        frame: the compressed bytes.
        transfer_syntax: its UID.
        shape: rows and columns of the header.
        name: of the frame, for the message.
    """
    if transfer_syntax == RLE_SYNTAX:
        _check_rle(frame, name)
        return
    if not frame.rstrip(b"\x00\xff").endswith(_END):
        raise RejectedFile("truncated", f"{name} has no end-of-image marker")
    declared = tuple(shape)
    found = _j2k_shape(frame) if _is_j2k(frame) else _jpeg_shape(frame)
    if found is None:
        raise RejectedFile("corrupt", f"{name} has no readable size")
    if found != declared:
        reason = f"{name} is {found[0]} x {found[1]}, the header says {declared[0]} x {declared[1]}"
        raise RejectedFile("corrupt", reason)


def _is_j2k(frame: bytes) -> bool:
    return frame.startswith((_J2K_START, _JP2_START))


def _j2k_shape(frame: bytes) -> tuple[int, int] | None:
    """Returns rows and columns from the SIZ segment, ISO 15444-1 A.5.1."""
    start = frame.find(_J2K_START)
    if start < 0 or len(frame) < start + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    return bottom - top, right - left


def _jpeg_shape(frame: bytes) -> tuple[int, int] | None:
    """Returns rows and columns from the start-of-frame segment, ISO 10918-1 B.2.2."""
    if not frame.startswith(_JPEG_START):
        return None
    offset = 2
    while offset + 9 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == 0xFF or marker in _BARE_MARKERS:
            offset += 1 if marker == 0xFF else 2
        elif marker in _FRAME_MARKERS:
            rows, columns = struct.unpack_from(">2H", frame, offset + 5)
            return rows, columns
        else:
            offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]
    return None


def _check_rle(frame: bytes, name: str) -> None:
    """Raises where the RLE header, PS3.5 G.5, points outside the frame."""
    if len(frame) < 64:
        raise RejectedFile("truncated", f"{name} is shorter than its RLE header")
    num_segments, *offsets = struct.unpack_from("<16I", frame)
    used = offsets[: min(num_segments, 15)]
    if not 1 <= num_segments <= 15 or used != sorted(used) or used[0] < 64:
        raise RejectedFile("corrupt", f"{name} has an RLE header that makes no sense")
    if used[-1] >= len(frame):
        raise RejectedFile("truncated", f"{name} ends before its last RLE segment")
