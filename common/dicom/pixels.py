"""Decodes the pixels of a CT file to Hounsfield units."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from common.dicom.checks import ENCAPSULATED_SYNTAXES
from common.dicom.frames import check_frame, coded_bits, split_frames
from common.dicom.header import PixelHeader, SliceHeader, pixel_headers, slice_headers
from common.dicom.hounsfield import to_hounsfield
from common.dicom.jpeg_lossless import check_used_up
from common.dicom.part10 import OpenFile, open_dicom
from common.dicom.plausibility import NUM_BINS
from common.dicom.rejection import RejectedFile

_PLAIN_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """The pixels of one file.

    Attributes:
        image_hu: int16 (frames, rows, columns), HU in [-1024, 31767].
        num_padding: pixels set to -1024 because they held padding, not a measurement.
        note: how a usable file was read, or what was done to it; one line, or empty.
        counts: int64 (frames, NUM_BINS), pixels by HU before clipping (`plausibility`); None: as in
            `image_hu`.
        headers: one per frame; none where they were not asked for.
        num_repaired: pixels whose wrapped 12-bit values were unwrapped.
    """

    image_hu: np.ndarray
    num_padding: int = 0
    note: str = ""
    counts: np.ndarray | None = None
    headers: tuple[SliceHeader, ...] = ()
    num_repaired: int = 0


def read_hu(file: Path | BinaryIO, *, with_headers: bool = True) -> DecodedImage:
    """Return the pixels of a file in Hounsfield units.

    Args:
        file: a path or a seekable stream.
        with_headers: return the headers; without, what only they tell is not checked again.

    Raises:
        RejectedFile: for whatever is wrong with the file; no other exception of a codec gets out.
    """
    with open_dicom(file) as opened:
        read = slice_headers if with_headers else pixel_headers
        headers: Sequence[PixelHeader] = read(opened)
        shape = (len(headers), headers[0].rows, headers[0].columns)
        image_hu = np.empty(shape if len(headers) > 1 else 0, np.int16)
        num_padding, num_repaired = 0, 0
        counts = np.empty((len(headers), NUM_BINS), dtype=np.int64)
        for number, source in enumerate(_sources(opened, headers[0])):
            stored = _decode(source, headers[number], opened)
            found = to_hounsfield(stored, headers[number])
            num_padding += found.num_padding
            num_repaired += found.num_repaired
            counts[number] = found.counts
            if len(headers) > 1:
                image_hu[number] = found.image_hu
            else:
                image_hu = found.image_hu[None]
    known = tuple(header for header in headers if isinstance(header, SliceHeader))
    return DecodedImage(image_hu, num_padding, opened.note, counts, known, num_repaired)


def _sources(opened: OpenFile, header: PixelHeader) -> Iterator[bytes]:
    """Yield the native pixels for each frame, or its compressed bytes.

    All compressed frames are checked before the first is decoded.
    """
    data = opened.read_pixels()
    if opened.transfer_syntax not in ENCAPSULATED_SYNTAXES:
        yield from [data] * header.num_frames
        return
    frames = split_frames(data, header.num_frames)
    for frame in frames:
        check_frame(frame, header)
    yield from frames


def _is_plain(header: PixelHeader) -> bool:
    """Return whether the pixels of a native file are an array as they are: no codec is needed."""
    return header.bits_allocated == header.bits_stored == 16 and header.frame is None


def _decode(source: bytes, header: PixelHeader, opened: OpenFile) -> np.ndarray:
    """Return the stored values (rows, columns) of one frame, in the machine's byte order.

    Args:
        source: the native pixels of all frames, or the compressed ones of this frame.

    Raises:
        RejectedFile: for whatever a codec raises; those in Rust raise what is no `Exception`.
    """
    assert opened.pixels is not None
    encapsulated = opened.transfer_syntax in ENCAPSULATED_SYNTAXES
    if opened.transfer_syntax in _PLAIN_SYNTAXES and _is_plain(header):
        kind = "<i2" if header.pixel_representation else "<u2"
        plain = np.frombuffer(source, kind, count=header.rows * header.columns)
        return plain.reshape(header.rows, header.columns).astype(kind[1:], copy=False)
    decoder = get_decoder(UID(opened.transfer_syntax))
    if not decoder.is_available:
        name = ENCAPSULATED_SYNTAXES[opened.transfer_syntax]
        raise RejectedFile("unsupported_syntax", f"no codec is installed for {name}")
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1 if encapsulated else header.num_frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": header.bits_allocated,
        "bits_stored": coded_bits(source, header) if encapsulated else header.bits_stored,
        "pixel_representation": header.pixel_representation,
        "pixel_keyword": opened.pixels.keyword,
        "pixel_vr": opened.pixels.vr,
    }
    if not encapsulated:
        options["view_only"] = True
    index = 0 if encapsulated or header.frame is None else header.frame
    try:
        data = encapsulate([source], has_bot=False) if encapsulated else source
        stored, _ = decoder.as_array(data, raw=True, index=index, **options)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"cannot be decoded ({lines[-1].strip()[:160]})"
        raise RejectedFile("corrupt", f"frame {header.frame or 0}: {reason}") from error
    if encapsulated:
        check_used_up(source, stored)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return _of_stored_bits(stored, header) if encapsulated else stored


def _of_stored_bits(stored: np.ndarray, header: PixelHeader) -> np.ndarray:
    """Return the values in the stored bits of decoded ones, PS3.5 8.1.1, as for native pixels.

    Codestreams deeper than BitsStored keep what lay above: overlays, copies of the sign, or zeros
    where a writer left out the sign.
    """
    bits = header.bits_stored
    if bits >= 8 * stored.itemsize:
        return stored
    values = stored & stored.dtype.type((1 << bits) - 1)
    if header.pixel_representation == 0:
        return values
    sign = stored.dtype.type(1 << (bits - 1))
    return (values ^ sign) - sign
