"""Every compressed transfer syntax against the raw pixels, encoded by another library's encoder."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from coded_files import CT_HU, GDCM_SYNTAXES, file_of_frames, gdcm_frame
from dicom_factory import write_ct
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEGLSNearLossless,
)

from common.dicom import read_hu
from common.dicom.checks import ENCAPSULATED_SYNTAXES

STORED = {
    "signed": (CT_HU, {"RescaleIntercept": 0}),
    "unsigned": ((CT_HU + 1024).astype(np.uint16), {"RescaleIntercept": -1024}),
    "12 bits": (
        (CT_HU + 1024).astype(np.uint16),
        {"RescaleIntercept": -1024, "BitsStored": 12, "HighBit": 11},
    ),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("syntax", GDCM_SYNTAXES, ids=lambda syntax: syntax.name)
def test_lossless_syntaxes_give_the_raw_pixels(tmp_path: Path, syntax: UID, kind: str) -> None:
    stored, tags = STORED[kind]
    frame = gdcm_frame(tmp_path, stored, syntax, **tags)
    path = file_of_frames(tmp_path / "a.dcm", stored, [frame], syntax, **tags)
    np.testing.assert_array_equal(read_hu(path).image_hu[0], CT_HU)


@pytest.mark.parametrize("syntax", GDCM_SYNTAXES, ids=lambda syntax: syntax.name)
def test_frames_of_one_file_keep_their_order(tmp_path: Path, syntax: UID) -> None:
    stack = np.stack([CT_HU, CT_HU[::-1], CT_HU[:, ::-1]])
    tags = {"RescaleIntercept": 0}
    frames = [gdcm_frame(tmp_path, stored, syntax, **tags) for stored in stack]
    path = file_of_frames(tmp_path / "a.dcm", stack, frames, syntax, **tags)
    np.testing.assert_array_equal(read_hu(path).image_hu, stack)


@pytest.mark.parametrize(
    ("coded", "syntax", "largest_error_hu"),
    [
        ("lossless", HTJ2KLossless, 0),
        ("lossless", HTJ2KLosslessRPCL, 0),
        ("lossy", HTJ2K, 1),
    ],
)
def test_high_throughput_jpeg_2000(
    tmp_path: Path, coded: str, syntax: str, largest_error_hu: int
) -> None:
    """No encoder is installed: tests/saved/htj2k.json has what OpenJPH made of this image."""
    row, column = np.mgrid[0:24, 0:32]
    expected = (20 * row - 7 * column + (13 * column + 29 * row) % 97 - 124).astype(np.int16)
    saved = json.loads((Path(__file__).parents[2] / "saved" / "htj2k.json").read_text())
    frame = base64.b64decode(saved[coded])
    path = file_of_frames(tmp_path / "a.dcm", expected, [frame], syntax, RescaleIntercept=0)
    error_hu = read_hu(path).image_hu[0].astype(int) - expected
    assert np.abs(error_hu).max() <= largest_error_hu


def test_deflated(tmp_path: Path) -> None:
    stored, tags = STORED["signed"]
    path = write_ct(
        tmp_path / "a.dcm", stored, transfer_syntax=DeflatedExplicitVRLittleEndian, **tags
    )
    assert stored.tobytes() not in path.read_bytes()
    np.testing.assert_array_equal(read_hu(path).image_hu[0], CT_HU)


def test_every_encapsulated_syntax_is_compared_somewhere() -> None:
    """Lossy ones and JPEG Baseline are compared on a real slice, in test_dicom_odd_files.py."""
    here = {*GDCM_SYNTAXES, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}
    real = {JPEGLSNearLossless, JPEG2000, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
    assert {str(uid) for uid in here | real} == set(ENCAPSULATED_SYNTAXES)
