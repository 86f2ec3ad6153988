"""Decodes the pixels of a CT file to Hounsfield units."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from common.dicom import elements
from common.dicom.checks import ENCAPSULATED_SYNTAXES
from common.dicom.frames import check_frame, split_frames
from common.dicom.header import SliceHeader, slice_headers
from common.dicom.hounsfield import to_hounsfield
from common.dicom.part10 import OpenFile, open_dicom
from common.dicom.rejection import RejectedFile


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of one file.

    Attributes:
        image_hu: int16 (frames, rows, columns), HU in [-1024, 31767].
        headers: one per frame.
        num_padding: pixels set to -1024 because they held padding, not a measurement.
        repaired_12bit: RSNA's wrapped 12-bit values were unwrapped.
    """

    image_hu: np.ndarray
    headers: tuple[SliceHeader, ...]
    num_padding: int
    repaired_12bit: bool


def read_hu(file: Path | BinaryIO, *, require_ct: bool = True) -> DecodedImage:
    """Returns the pixels of a file in Hounsfield units.

    Args:
        file: a path or a seekable stream.
        require_ct: reject what is not a CT image (modality and SOP class).

    Raises:
        RejectedFile: for whatever is wrong with the file; no other exception of a codec gets out.
    """
    with open_dicom(file) as opened:
        headers = slice_headers(opened, require_ct=require_ct)
        first = headers[0]
        image_hu = np.empty((len(headers), first.rows, first.columns), np.int16)
        num_padding, repaired_12bit = 0, False
        stored_frames = _decoded(opened, first)
        for number, header in enumerate(headers):
            stored = _next_frame(stored_frames, number, len(headers))
            if stored.shape != (first.rows, first.columns):
                reason = f"a codec returned {stored.shape}"
                raise RejectedFile("corrupt", f"{_name(number, len(headers))}: {reason}")
            image_hu[number], padding, repaired = to_hounsfield(stored, header)
            num_padding += padding
            repaired_12bit |= repaired
    return DecodedImage(image_hu, tuple(headers), num_padding, repaired_12bit)


def _decoded(opened: OpenFile, header: SliceHeader) -> Iterator[np.ndarray]:
    """Yields the stored values (rows, columns) of each frame, in the machine's byte order."""
    dataset, pixels = opened.dataset, opened.pixels
    assert pixels is not None
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": header.num_frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": elements.text(dataset, "PhotometricInterpretation"),
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": header.pixel_representation,
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.vr,
        "allow_excess_frames": False,
    }
    data = opened.read_pixels()
    if opened.transfer_syntax in ENCAPSULATED_SYNTAXES:
        shape = header.rows, header.columns
        for number, frame in enumerate(split_frames(data, header.num_frames)):
            check_frame(frame, opened.transfer_syntax, shape, _name(number, header.num_frames))
    else:
        data = data[: header.num_frames * header.rows * header.columns * header.bits_allocated // 8]
    decoder = get_decoder(UID(opened.transfer_syntax))
    for stored, _ in decoder.iter_array(data, raw=True, **options):
        yield stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _next_frame(frames: Iterator[np.ndarray], number: int, num_frames: int) -> np.ndarray:
    """Returns the next frame; whatever a codec raises becomes a RejectedFile.

    Codecs written in Rust raise exceptions that are not `Exception`s.
    """
    try:
        return next(frames)
    except (RejectedFile, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{_name(number, num_frames)} cannot be decoded ({lines[-1].strip()[:160]})"
        raise RejectedFile("corrupt", reason) from error


def _name(number: int, num_frames: int) -> str:
    return "the frame" if num_frames == 1 else f"frame {number} of {num_frames}"
