"""Codestreams deeper than BitsStored: what lies above the stored bits never reaches the HU.

Writers leave there copies of the sign, zeros where a sign should be, or an overlay. The native file
with the same words and the same header is the reference, and the HU that were meant.
"""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from coded_files import CT_HU, GDCM_SYNTAXES, file_of_frames, gdcm_frame
from dicom_factory import write_ct
from prepared import prepare_dicom
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from common.dicom import read_hu
from common.slices.table import SliceTable

BITS = 12
LOW_BITS = (1 << BITS) - 1
OVERLAY = (np.indices(CT_HU.shape).sum(axis=0) % 16 << BITS).astype(np.uint16)
SIGNED, UNSIGNED = CT_HU, (CT_HU + 1024).astype(np.uint16)
# The words as they lie in 16 bits, and whether the header calls them signed.
WORDS: dict[str, tuple[np.ndarray, bool]] = {
    "signed, sign not extended": (SIGNED & LOW_BITS, True),
    "signed, sign extended": (SIGNED, True),
    "signed, overlay above": ((SIGNED.view(np.uint16) & LOW_BITS | OVERLAY).view(np.int16), True),
    "unsigned": (UNSIGNED, False),
    "unsigned, overlay above": (UNSIGNED | OVERLAY, False),
}


def gdcm_encoder(syntax: UID) -> Callable[[Path, np.ndarray], bytes]:
    """GDCM's, of a file that declares all 16 bits as stored."""
    return lambda folder, words: gdcm_frame(folder, words, syntax)


def as_unsigned(encode: Callable[[np.ndarray], bytes]) -> Callable[[Path, np.ndarray], bytes]:
    """An encoder that does not know of the sign."""
    return lambda folder, words: encode(words.view(np.uint16))


def openjpeg_frame(words: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(words, level=0, codecformat="j2k", reversible=True))


ENCODERS: dict[str, tuple[UID, Callable[[Path, np.ndarray], bytes]]] = {
    **{f"GDCM, {uid.name}": (uid, gdcm_encoder(uid)) for uid in GDCM_SYNTAXES},
    "OpenJPEG": (JPEG2000Lossless, lambda folder, words: openjpeg_frame(words)),
    "OpenJPEG, unsigned": (JPEG2000Lossless, as_unsigned(openjpeg_frame)),
    "OpenJPH": (HTJ2KLossless, lambda folder, words: imagecodecs.htj2k_encode(words)),
    "OpenJPH, unsigned": (HTJ2KLossless, as_unsigned(imagecodecs.htj2k_encode)),
    "CharLS": (JPEGLSLossless, as_unsigned(imagecodecs.jpegls_encode)),
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_they_equal_the_native_file(encoder: str, kind: str, tmp_path: Path) -> None:
    words, is_signed = WORDS[kind]
    tags = {"BitsStored": BITS, "HighBit": BITS - 1, "RescaleIntercept": -1024 * (not is_signed)}
    native = read_hu(write_ct(tmp_path / "native.dcm", words, **tags))
    np.testing.assert_array_equal(native.image_hu[0], CT_HU)
    syntax, encode = ENCODERS[encoder]
    frame = encode(tmp_path, words)
    path = file_of_frames(tmp_path / "coded.dcm", words, [frame], syntax, **tags)
    coded = read_hu(path)
    np.testing.assert_array_equal(coded.image_hu[0], CT_HU)
    assert coded.num_padding == native.num_padding == coded.num_repaired == native.num_repaired == 0


def test_all_lossless_syntaxes_are_here() -> None:
    assert {uid for uid, _ in ENCODERS.values()} == {
        *(JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
        RLELossless,
    }


def test_case_36_signed_12_bit_in_16_bit_jpeg_2000(test_data: Path, tmp_path: Path) -> None:
    """Kind of pydicom/pydicom#2260: 60 to 66 % of the pixels were 4,096 HU too high."""
    images = {}
    for name in ("packed", "plain"):
        _, frame = prepare_dicom(test_data / "cases" / "36" / "in" / name, tmp_path / name)
        assert (frame["status"] == "ok").all() and len(frame) == 6
        table = SliceTable.load(tmp_path / name)
        images[name] = np.stack([table.image_hu(row) for row in range(len(frame))])
    np.testing.assert_array_equal(images["packed"], images["plain"])
