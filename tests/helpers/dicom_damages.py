"""Ways to damage a file, each with what may still be read from it."""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from dicom_elements import UNDEFINED, Element, Sound, encode, encode_element
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

PIXEL_DATA = 0x7FE00010
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
)
# PixelData is kept where the damage is elsewhere; where its bytes are changed nothing can tell,
# as DICOM has no checksum; where bytes are missing it must never pass for whole.
HEADER, PIXELS, CUT = "header", "pixels", "cut"
Damaged = tuple[bytes, str, str]


def _absurd_value(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Put an absurd value in place of an element's."""
    keyword = str(rng.choice(list(ABSURD)))
    values = ABSURD[keyword]
    value = values[rng.integers(len(values))]
    elements = _set(sound, keyword, value)
    return encode(sound, elements), f"{keyword} {str(value)[:40]!r}", HEADER


def _two_absurd_values(sound: Sound, rng: np.random.Generator) -> Damaged:
    elements, text = list(sound.elements), []
    for _ in range(2):
        keyword = str(rng.choice(list(ABSURD)))
        value = ABSURD[keyword][rng.integers(len(ABSURD[keyword]))]
        elements = _set(replace(sound, elements=tuple(elements)), keyword, value)
        text.append(f"{keyword} {str(value)[:40]!r}")
    return encode(sound, elements), ", ".join(text), HEADER


def _other_syntax(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Declare another transfer syntax than the file is in."""
    others = [uid for uid in (*SYNTAXES, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51",
              "1.2.840.10008.1.2.4.201", "1.2.3", "") if uid != sound.syntax]  # fmt: skip
    uid = str(others[rng.integers(len(others))])
    value = uid.encode() + b"\0" * (len(uid) % 2)
    meta = tuple(
        Element(e.tag, e.vr, len(value), value) if e.tag == 0x00020010 else e for e in sound.meta
    )
    changed = replace(sound, meta=meta)
    return encode(changed, sound.elements), f"declares {uid}", HEADER


def _deleted(sound: Sound, rng: np.random.Generator) -> Damaged:
    elements = list(sound.elements)
    gone = elements.pop(rng.integers(len(elements)))
    return encode(sound, elements), f"{gone.tag:08x}", HEADER if gone.tag != PIXEL_DATA else CUT


def _duplicated(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Repeat an element, at its place or anywhere, with its own value or with another's."""
    elements = list(sound.elements)
    index = int(rng.integers(len(elements)))
    element = elements[index]
    if rng.random() < 0.3:
        element = element._replace(value=element.value[::-1])
    place = index if rng.random() < 0.5 else int(rng.integers(len(elements) + 1))
    elements.insert(place, element)
    # A second pixel element in reversed order is another image: which is right, nobody knows.
    kind = PIXELS if element.tag == PIXEL_DATA and element not in sound.elements else HEADER
    return encode(sound, elements), f"{element.tag:08x} at {place}", kind


def _swapped(sound: Sound, rng: np.random.Generator) -> Damaged:
    elements = list(sound.elements[:-1])
    a, b = rng.integers(len(elements), size=2)
    elements[a], elements[b] = elements[b], elements[a]
    return encode(sound, [*elements, sound.elements[-1]]), f"{a} and {b}", HEADER


def _other_length(sound: Sound, rng: np.random.Generator) -> Damaged:
    elements = list(sound.elements)
    index = int(rng.integers(len(elements)) if rng.random() < 0.8 else len(elements) - 1)
    lengths = (0, 1, 2, 3, 8, 0x7FFF, 0xFFFE, 0xFFFF, 1 << 20, 0x7FFFFFFE, 0xFFFFFFFE, UNDEFINED)
    near = int(rng.integers(-4, 5)) + elements[index].length
    length = near % (1 << 32) if rng.random() < 0.4 else int(rng.choice(lengths))
    elements[index] = elements[index]._replace(length=length)
    kind = HEADER if elements[index].tag != PIXEL_DATA or length else CUT
    return encode(sound, elements), f"{elements[index].tag:08x} {length:#x}", kind


def _other_vr(sound: Sound, rng: np.random.Generator) -> Damaged:
    elements = list(sound.elements)
    index = int(rng.integers(len(elements)) if rng.random() < 0.8 else len(elements) - 1)
    known = (b"OB", b"OW", b"UN", b"SQ", b"US", b"SS", b"UL", b"DS", b"IS", b"LO", b"UI", b"UT",
             b"FD", b"PN", b"AT", b"\0\0", b"xx", b"  ")  # fmt: skip
    vr = known[rng.integers(len(known))]
    changed = elements[index]._replace(vr=vr)
    if rng.random() < 0.5:  # only the two bytes, so the length is read from another place
        old = encode_element(elements[index], sound.syntax)
        start = encode(replace(sound, meta=()), elements[:index])[132:]
        if sound.syntax not in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
            whole = encode(sound, elements)
            offset = whole.index(start + old) + len(start)
            return _patched(whole, offset + 4, vr), f"{changed.tag:08x} bytes {vr!r}", HEADER
    elements[index] = changed
    return encode(sound, elements), f"{changed.tag:08x} {vr!r}", HEADER


def _inserted(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Put in an odd element: deep sequences, private ones, junk."""
    elements = list(sound.elements)
    kinds = ("nested", "deep", "open", "private", "empty sequence", "junk", "character set")
    kind = str(rng.choice(kinds))
    place = int(rng.integers(len(elements)))
    if kind == "junk":
        whole = encode(sound, elements)
        offset = int(rng.integers(132, len(whole)))
        junk = rng.bytes(int(rng.integers(1, 40)))
        where = HEADER if offset < len(whole) - len(elements[-1].value) else PIXELS
        if sound.syntax == DeflatedExplicitVRLittleEndian:
            where = PIXELS
        return whole[:offset] + junk + whole[offset:], f"{len(junk)} bytes at {offset}", where
    if kind == "character set":
        value = bytes(
            rng.choice([b"ISO_IR 999", b"\\\\", b"ISO 2022 IR 87\\ISO 2022 IR 58", b"GB18030 "])
        )
        new = Element(0x00080005, b"CS", len(value), value)
    elif kind == "private":
        value = rng.bytes(16)
        new = Element(0x00091000 + int(rng.integers(4096)), b"UN", 16, value)
    else:
        depth = {"nested": 20, "deep": int(rng.choice([200, 2000, 20000])), "open": 3}.get(kind, 0)
        value = _nested(depth, sound.syntax, closed=kind != "open")
        new = Element(0x00081140, b"SQ", UNDEFINED if depth else 0, value)
    elements.insert(place, new)
    return encode(sound, elements), f"{kind} at {place}", HEADER


def _nested(depth: int, syntax: str, *, closed: bool) -> bytes:
    """Return the items of a sequence with sequences in it, all of undefined length."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    item = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, UNDEFINED)
    inner = encode_element(Element(0x00081140, b"SQ", UNDEFINED, b""), syntax)
    ends = struct.pack(f"{order}HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return (item + inner) * depth + (ends * (depth + 1))[8:] * closed


def _flipped_header(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Change one to five bytes before the pixels."""
    if sound.syntax == DeflatedExplicitVRLittleEndian:
        body = encode(replace(sound, syntax=ExplicitVRLittleEndian, meta=()), sound.elements)[132:]
        damaged = _flipped(body, rng, 0, len(body) - len(sound.elements[-1].value))
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        meta = encode(replace(sound, syntax=ExplicitVRLittleEndian), [])
        return meta + deflater.compress(damaged) + deflater.flush(), "", HEADER
    whole = encode(sound, sound.elements)
    return _flipped(whole, rng, 128, len(whole) - len(sound.elements[-1].value)), "", HEADER


def _flipped_pixels(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Change one to five bytes of the pixel data, its first ones more often."""
    whole = encode(sound, sound.elements)
    start = 132 if sound.syntax == DeflatedExplicitVRLittleEndian else \
        len(whole) - len(sound.elements[-1].value)  # fmt: skip
    end = min(len(whole), start + 120) if rng.random() < 0.5 else len(whole)
    return _flipped(whole, rng, start, end), "", PIXELS


def _cut_anywhere(sound: Sound, rng: np.random.Generator) -> Damaged:
    whole = encode(sound, sound.elements)
    end = int(rng.integers(len(whole)))
    return whole[:end], f"after {end} of {len(whole)} bytes", CUT


def _cut_end(sound: Sound, rng: np.random.Generator) -> Damaged:
    whole = encode(sound, sound.elements)
    num_bytes = int(rng.integers(1, 40))
    return whole[:-num_bytes], f"{num_bytes} bytes before the end", CUT


def _cut_between(sound: Sound, rng: np.random.Generator) -> Damaged:
    end = int(rng.integers(len(sound.elements)))
    return encode(sound, sound.elements[:end]), f"before element {end}", CUT


def _cut_pixels(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Cut the pixel data and declare what is left; compressed frames are closed again."""
    last = sound.elements[-1]
    if last.length != UNDEFINED:
        left = last.value[: 2 * int(rng.integers(len(last.value) // 2))]
        cut = last._replace(length=len(left), value=left)
        return encode(sound, [*sound.elements[:-1], cut]), f"{len(left)} left", CUT
    start = 8 + struct.unpack_from("<I", last.value, 4)[0]
    (length,) = struct.unpack_from("<I", last.value, start + 4)
    left = last.value[start + 8 : start + 8 + 2 * int(rng.integers(length // 2))]
    rest = last.value[start + 8 + length :]
    if rng.random() < 0.3 and len(left) > 2:
        left = left[:-2] + b"\xff\xd9"
    value = last.value[:start] + struct.pack("<HHI", 0xFFFE, 0xE000, len(left)) + left + rest
    cut = last._replace(value=value)
    return encode(sound, [*sound.elements[:-1], cut]), f"{len(left)} of {length} left", CUT


def _zeroed_tail(sound: Sound, rng: np.random.Generator) -> Damaged:
    """Write zeros over the end, as an interrupted copy leaves it."""
    whole = encode(sound, sound.elements)
    start = int(rng.integers(132, len(whole)))
    native = sound.elements[-1].length != UNDEFINED
    kind = PIXELS if native and sound.syntax != DeflatedExplicitVRLittleEndian else CUT
    return whole[:start] + bytes(len(whole) - start), f"from {start} of {len(whole)}", kind


def _appended(sound: Sound, rng: np.random.Generator) -> Damaged:
    tail = rng.bytes(int(rng.choice([1, 2, 7, 128, 5000])))
    return encode(sound, sound.elements) + tail, f"{len(tail)} bytes", HEADER


def _flipped(data: bytes, rng: np.random.Generator, start: int, end: int) -> bytes:
    damaged = bytearray(data)
    for offset in rng.integers(start, end, int(rng.integers(1, 6))):
        damaged[offset] = int(rng.integers(256))
    return bytes(damaged)


def _patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def _set(sound: Sound, keyword: str, value: bytes | int | None) -> list[Element]:
    """Return the elements with a value changed or added: text as bytes, US as a number."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    elements = [element for element in sound.elements if element.tag != tag]
    if isinstance(value, int):
        order = ">" if sound.syntax == ExplicitVRBigEndian else "<"
        value, vr = struct.pack(f"{order}H", value % 65536), b"US"
    else:
        assert value is not None
        vr = dictionary_VR(tag)[:2].encode()
    value += b" " * (len(value) % 2)
    place = sum(element.tag < tag for element in elements)
    return [*elements[:place], Element(tag, vr, len(value), value), *elements[place:]]


_NUMBERS = (
    *b"nan inf -inf 1e300 -1e300 1e-300 0 -1 abc 1\\2 1e99999 -60000 70000".split(),
    *(b"9" * 23, b"\xff\xfe", b""),
)
_SIZES = (0, 1, 2, 33, 35, 39, 41, 17, 20, 68, 80, 4096, 4097, 32768, 65535)
_BITS = (0, 1, 7, 8, 9, 12, 15, 16, 17, 24, 32, 64, 65535)
_IDS = (
    *(b"", b"../../../etc/passwd", b"/etc/passwd", b"1.2\n3", b"1.2\x003", b"1" * 3000, b".."),
    *(b"\xff\xfe\xfd", b"ID_abc", b"1.2.3\\4.5.6", b" ", b"\x1b$B!!", "é".encode(), b"\\"),
)
_SPACINGS = rb"0\0 -0.5\0.5 nan\nan inf\1 1e300\1e300 0.5 1\1\1 x\y 1e-300\1 0.5\0 \ ".split()
_POSITIONS = rb"nan\0\0 0\inf\0 1e300\-1e300\1e308 0\0 0\0\0\0 a\b\c 0\0\1e99999 \\".split()
_ORIENTATIONS = rb"0\0\0\0\0\0 nan\0\0\0\1\0 1\0\0 1e300\0\0\0\1e300\0 1\0\0\1\0\0".split()
ABSURD: dict[str, Sequence[bytes | int]] = {
    "Rows": _SIZES,
    "Columns": _SIZES,
    "NumberOfFrames": b"0 -1 2 3 4 1000 9999 22369621 2147483648 1A 1.5".split(),
    "BitsAllocated": _BITS,
    "BitsStored": _BITS,
    "HighBit": _BITS,
    "PixelRepresentation": (0, 1, 2, 255, 65535),
    "SamplesPerPixel": (0, 1, 2, 3, 65535),
    "PhotometricInterpretation": (
        b"RGB",
        b"MONOCHROME1",
        b"PALETTE COLOR",
        b"",
        b"\xff",
        b"X" * 300,
    ),
    "PlanarConfiguration": (0, 1, 7),
    "RescaleSlope": _NUMBERS,
    "RescaleIntercept": _NUMBERS,
    "RescaleType": (b"US", b"HU", b"hu", b"", b"\xff", b"HU\\US"),
    "PixelSpacing": _SPACINGS,
    "ImagePositionPatient": _POSITIONS,
    "ImageOrientationPatient": _ORIENTATIONS,
    "InstanceNumber": _NUMBERS,
    "WindowCenter": _NUMBERS,
    "WindowWidth": _NUMBERS,
    "PixelPaddingValue": (0, 1, 40, 1064, 32768, 63536, 65535),
    "PixelPaddingRangeLimit": (0, 1100, 32768, 65535),
    "SOPInstanceUID": _IDS,
    "SeriesInstanceUID": _IDS,
    "StudyInstanceUID": _IDS,
    "PatientID": _IDS,
    "ImageType": (b"ORIGINAL\\PRIMARY\\LOCALIZER", b"", b"\\\\\\\\", b"\xff\xff", b"localizer"),
    "Modality": (b"MR", b"", b"CT\\MR", b"\xff\xff", b"ct"),
    "SOPClassUID": (b"1.2.840.10008.5.1.4.1.1.4", b"", b"1.2.3", b"1.2.840.10008.5.1.4.1.1.2.1"),
}
"""Values that no sound file has, or not beside the others: text as bytes, US as numbers."""

DAMAGES: dict[Callable[[Sound, np.random.Generator], Damaged], int] = {
    _absurd_value: 30,
    _two_absurd_values: 10,
    _other_syntax: 4,
    _deleted: 4,
    _duplicated: 5,
    _swapped: 3,
    _other_length: 10,
    _other_vr: 8,
    _inserted: 8,
    _flipped_header: 14,
    _flipped_pixels: 10,
    _cut_anywhere: 6,
    _cut_end: 6,
    _cut_between: 3,
    _cut_pixels: 8,
    _zeroed_tail: 5,
    _appended: 3,
}
