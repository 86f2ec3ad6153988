"""Checks of a header before its pixels are decoded; a rejection names the rule that failed."""

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from common.dicom import elements
from common.dicom.part10 import UNDEFINED_LENGTH, OpenFile
from common.dicom.rejection import RejectedFile
from common.words import count

MAX_MATRIX = 4096
"""Largest rows and columns; clinical CT has 512 to 2048."""
MAX_FRAMES = 10_000
"""Most frames of a file; each costs a header of 1 ms, and enhanced CT has hundreds."""
MAX_PIXELS = 1 << 28
"""Largest rows * columns * frames: 1,024 frames of 512 x 512, 512 MiB of HU."""

NATIVE_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
}
ENCAPSULATED_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image Storage",
}
_NOT_SLICES = {"LOCALIZER", "SCOUT"}


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The size of an image and of its stored values, checked."""

    num_frames: int = 1
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int

    @property
    def frame_bytes(self) -> int:
        """The bytes of one frame when it is not compressed."""
        return self.rows * self.columns * self.bits_allocated // 8


def check_image(opened: OpenFile) -> StoredImage:
    """Return the size and type of the stored pixels if they can be decoded; raise RejectedFile."""
    dataset = opened.dataset
    _check_ct(opened)
    _check_syntax(opened)
    _check_color(dataset)
    stored = _stored_image(dataset)
    _check_size(stored)
    _check_bits(stored, elements.integer(dataset, "HighBit"))
    if opened.transfer_syntax == JPEG_EXTENDED and stored.bits_stored > 8:
        raise RejectedFile("unsupported_syntax", f"{stored.bits_stored}-bit JPEG Extended")
    if opened.transfer_syntax in NATIVE_SYNTAXES:
        _check_native_length(opened, stored)
    elif opened.pixels is not None and 8 * stored.num_frames > opened.pixels.available:
        # Each needs a fragment, which has a head of 8 bytes.
        reason = (
            f"{opened.pixels.available} bytes for {count(stored.num_frames, 'compressed frame')}"
        )
        raise RejectedFile("truncated", reason)
    _check_kind(dataset)
    return stored


def _check_ct(opened: OpenFile) -> None:
    dataset = opened.dataset
    sop_class = UID(elements.text(dataset, "SOPClassUID"))
    modality = elements.text(dataset, "Modality")
    if not sop_class and not modality and opened.media_class not in CT_CLASSES:
        # A DICOMDIR, for one, has its class in the file meta information only.
        sop_class = UID(opened.media_class)
    if sop_class not in CT_CLASSES and sop_class.name != sop_class:
        raise RejectedFile("not_ct", f"the SOP class is {sop_class.name}")
    if modality != "CT" and (modality or sop_class not in CT_CLASSES):
        is_word = modality.isascii() and modality.isalpha() and len(modality) <= 4
        known = modality if is_word else "not one"
        raise RejectedFile("not_ct", f"the modality is {known}" if modality else "no modality")


def _check_syntax(opened: OpenFile) -> None:
    pixels, syntax = opened.pixels, opened.transfer_syntax
    if pixels is None or pixels.length == 0:
        raise RejectedFile("no_pixels", "no pixel data" if pixels is None else "empty pixel data")
    if pixels.keyword != "PixelData":
        raise RejectedFile("not_hu", f"{pixels.keyword}: floating-point values of another unit")
    if syntax not in NATIVE_SYNTAXES and syntax not in ENCAPSULATED_SYNTAXES:
        name = UID(syntax).name[:64] if syntax else "missing"
        name = name if name.isascii() and name.isprintable() else "not a UID"
        raise RejectedFile("unsupported_syntax", f"the transfer syntax is {name}")
    if (pixels.length == UNDEFINED_LENGTH) != (syntax in ENCAPSULATED_SYNTAXES):
        held = "in fragments" if pixels.length == UNDEFINED_LENGTH else "not in fragments"
        raise RejectedFile("corrupt", f"pixel data {held}, the transfer syntax is {_name(syntax)}")


def _check_color(dataset: Dataset) -> None:
    photometric = elements.text(dataset, "PhotometricInterpretation")
    samples = elements.required_integer(dataset, "SamplesPerPixel")
    if samples != 1:
        raise RejectedFile("color", f"{samples} samples per pixel")
    if photometric.startswith(("RGB", "YBR", "PALETTE")):
        raise RejectedFile("color", f"PhotometricInterpretation is {photometric[:16]}")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RejectedFile("corrupt", "PhotometricInterpretation is not one that DICOM defines")


def _stored_image(dataset: Dataset) -> StoredImage:
    num_frames = elements.integer(dataset, "NumberOfFrames")
    return StoredImage(
        num_frames=1 if num_frames is None else num_frames,
        rows=elements.required_integer(dataset, "Rows"),
        columns=elements.required_integer(dataset, "Columns"),
        bits_allocated=elements.required_integer(dataset, "BitsAllocated"),
        bits_stored=elements.required_integer(dataset, "BitsStored"),
        pixel_representation=elements.required_integer(dataset, "PixelRepresentation"),
    )


def _check_size(stored: StoredImage) -> None:
    rows, columns, num_frames = stored.rows, stored.columns, stored.num_frames
    if min(rows, columns, num_frames) < 1:
        size = f"{rows} rows, {columns} columns and {num_frames} frames"
        raise RejectedFile("corrupt", f"an image of {size}")
    if max(rows, columns) > MAX_MATRIX:
        reason = f"{rows} x {columns} pixels, above the limit of {MAX_MATRIX} each way"
        raise RejectedFile("too_large", reason)
    if num_frames > MAX_FRAMES:
        raise RejectedFile("too_large", f"{num_frames} frames, above the limit of {MAX_FRAMES}")
    if rows * columns * num_frames > MAX_PIXELS:
        reason = f"{num_frames} frames of {rows} x {columns}, above the limit of {MAX_PIXELS}"
        raise RejectedFile("too_large", f"{reason} pixels")


def _check_bits(stored: StoredImage, high_bit: int | None) -> None:
    allocated, used = stored.bits_allocated, stored.bits_stored
    if allocated not in (8, 16, 32):
        reason = f"BitsAllocated is {allocated}; stored CT values have 8, 16 or 32"
        raise RejectedFile("corrupt", reason)
    if not 1 <= used <= allocated:
        raise RejectedFile("corrupt", f"BitsStored is {used}, BitsAllocated {allocated}")
    if high_bit not in (None, used - 1):
        reason = f"HighBit is {high_bit}; it must be BitsStored - 1 = {used - 1}"
        raise RejectedFile("corrupt", reason)
    if stored.pixel_representation not in (0, 1):
        raise RejectedFile("corrupt", "PixelRepresentation is neither 0 nor 1")


def _check_native_length(opened: OpenFile, stored: StoredImage) -> None:
    """Raise where uncompressed pixels are not as long as declared; odd bytes may follow.

    A row or a column more means that Rows or Columns are wrong: the image would be cut, or sheared.
    """
    assert opened.pixels is not None
    expected = stored.num_frames * stored.frame_bytes
    # One byte may be added, so that the length is even (PS3.5 8.1.1).
    line = max(2, min(stored.rows, stored.columns) * stored.bits_allocated // 8)
    present = min(opened.pixels.length, opened.pixels.available)
    if present < expected:
        raise RejectedFile("truncated", f"{present} of {expected} bytes of pixel data")
    if opened.pixels.length - expected >= line:
        if opened.pixels.length > opened.pixels.available:
            reason = f"{present} of {opened.pixels.length} bytes of pixel data"
            raise RejectedFile("truncated", reason)
        reason = f"{opened.pixels.length} bytes of pixel data where {expected} are declared"
        raise RejectedFile("overlong", reason)


def _check_kind(dataset: Dataset) -> None:
    """Raise where the image is no slice, or nothing identifies it."""
    image_type = {value.upper() for value in elements.texts(dataset, "ImageType")}
    if image_type & _NOT_SLICES:
        raise RejectedFile("localizer", f"ImageType has {min(image_type & _NOT_SLICES)}")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if not elements.text(dataset, keyword):
            raise RejectedFile("no_id", f"{keyword} is missing")


def _name(syntax: str) -> str:
    return NATIVE_SYNTAXES.get(syntax) or ENCAPSULATED_SYNTAXES[syntax]
