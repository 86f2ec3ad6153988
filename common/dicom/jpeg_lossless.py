"""Check that a decoded image used up the bits of its lossless JPEG frame.

The codec fills missing data with zero bits and only warns, so half an image passes for a whole one
where the end marker is there. The number of bits follows from the image itself: for each pixel a
Huffman code and the bits of its difference from the prediction, ISO 10918-1 H.1.2.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.dicom.rejection import RejectedFile

MAX_SPARE_BYTES = 16
"""Bytes that may be left over: encoders fill up before the end marker."""
_LOSSLESS_FRAME, _HUFFMAN_TABLE, _RESTART_INTERVAL, _SCAN = 0xC3, 0xC4, 0xDD, 0xDA
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Scan:
    """The only scan of a frame.

    Attributes:
        precision: bits of a sample.
        predictor: 1 to 7.
        point_transform: low bits that were dropped.
        code_lengths: (17,) bits of the Huffman code by category, 0 where there is none.
        num_bytes: of entropy-coded data, without stuffing.
    """

    precision: int
    predictor: int
    point_transform: int
    code_lengths: np.ndarray
    num_bytes: int


def check_used_up(frame: bytes, stored: np.ndarray) -> None:
    """Raise RejectedFile where an image took more bits than its frame has, or left many.

    Args:
        frame: one compressed frame; nothing is checked where it is not lossless JPEG.
        stored: what the codec made of it, integers (rows, columns).
    """
    scan = read_scan(frame)
    if scan is None:
        return
    categories = np.arange(17)
    # Category 16 is one value only, -32768, and has no bits of its own.
    bits = scan.code_lengths + np.where(categories < 16, categories, 0)
    bits[scan.code_lengths == 0] = _NO_CODE
    num_bits = int(
        bits.astype(np.uint16)[_CATEGORY][_differences(stored, scan)].sum(dtype=np.int64)
    )
    num_bytes = (num_bits + 7) // 8
    if num_bytes > scan.num_bytes:
        reason = f"a compressed frame has {scan.num_bytes} of the {num_bytes} bytes of its image"
        raise RejectedFile("truncated", reason)
    if num_bytes + MAX_SPARE_BYTES < scan.num_bytes:
        raise RejectedFile("corrupt", "a compressed frame is damaged: its image leaves data over")


def read_scan(frame: bytes) -> Scan | None:
    """Return the scan of a lossless JPEG frame; None for other frames and for restart markers."""
    precision = table = None
    offset = 2
    while offset + 4 <= len(frame) and frame[offset] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, offset + 1)
        if marker == 0xFF:
            offset += 1
            continue
        body = frame[offset + 4 : offset + 2 + length]
        offset += 2 + length
        if marker == _LOSSLESS_FRAME and len(body) >= 6 and body[5] == 1:
            precision = body[0]
        elif marker == _HUFFMAN_TABLE and len(body) >= 17:
            if table is not None or len(body) != 17 + sum(body[1:17]):
                return None
            table = body
        elif marker == _RESTART_INTERVAL and any(body):
            return None
        elif marker == _SCAN:
            end = frame.rfind(_END)
            if precision is None or table is None or len(body) != 6 or end < offset:
                return None
            if body[5] & 15 >= precision:
                raise RejectedFile("corrupt", "a compressed frame has damaged headers")
            num_bytes = end - offset - frame.count(b"\xff\x00", offset, end)
            return Scan(precision, body[3], body[5] & 15, _code_lengths(table), num_bytes)
    return None


def _code_lengths(table: bytes) -> np.ndarray:
    lengths = np.zeros(256, np.int64)
    lengths[list(table[17:])] = np.repeat(np.arange(1, 17), list(table[1:17]))
    return lengths[:17]


def _differences(stored: np.ndarray, scan: Scan) -> np.ndarray:
    """Return for each pixel the difference from its prediction, modulo 65536."""
    samples = (stored.astype(np.int32) & ((1 << scan.precision) - 1)) >> scan.point_transform
    predicted = np.empty_like(samples)
    predicted[0, 0] = 1 << (scan.precision - scan.point_transform - 1)
    predicted[0, 1:] = samples[0, :-1]
    predicted[1:, 0] = samples[:-1, 0]
    left, above, corner = samples[1:, :-1], samples[:-1, 1:], samples[:-1, :-1]
    if scan.predictor not in _PREDICTED:
        raise RejectedFile("corrupt", f"a compressed frame has predictor {scan.predictor}")
    predicted[1:, 1:] = _PREDICTED[scan.predictor](left, above, corner)
    return (samples - predicted).astype(np.uint16)


# By predictor, of the samples to the left, above and between, ISO 10918-1 table H.1.
_PREDICTED: dict[int, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}


_MODULO = np.arange(1 << 16)
# By difference, modulo 65536, how many bits its size has: 0 to 16.
_CATEGORY = np.ceil(np.log2(np.minimum(_MODULO, (1 << 16) - _MODULO) + 1)).astype(np.uint8)
_NO_CODE = 40  # bits that no pixel takes: what the table has no code for was never in the frame
