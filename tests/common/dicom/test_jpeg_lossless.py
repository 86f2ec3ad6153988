"""Lossless JPEG: the decoded image tells how many bytes its frame must have had."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import ct_dataset, write_dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLossless

from common.dicom import RejectedFile, read_hu
from common.dicom.jpeg_lossless import check_used_up, read_scan

FOLDER = "cornerstoneWADOImageLoader/CTImage.dcm_JPEGProcess14"
REAL = {
    f"{FOLDER}TransferSyntax_1.2.840.10008.1.2.4.57.dcm": 6,
    f"{FOLDER}SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm": 1,
    "pydicom-data/bad_sequence.dcm": 1,
    "pydicom-data/JPEG-LL.dcm": 1,
    "pydicom-data/JPGLosslessP14SV1_1s_1f_8b.dcm": 1,
}
"""Files with one frame each, and its predictor."""
END = b"\xff\xd9"


def encode(image: np.ndarray, predictor: int, precision: int = 16) -> bytes:
    """A lossless JPEG frame, ISO 10918-1 annex H, with codes of five bits for all categories."""
    bits = []
    for row, column in np.ndindex(image.shape):
        left, above, corner = (
            int(image[row - up, column - back]) if row >= up and column >= back else 0
            for up, back in ((0, 1), (1, 0), (1, 1))
        )
        if row == column == 0:
            predicted = 1 << (precision - 1)
        elif row == 0:
            predicted = left
        elif column == 0:
            predicted = above
        else:
            sums = [left, above, corner, left + above - corner, left + ((above - corner) >> 1)]
            sums += [above + ((left - corner) >> 1), (left + above) >> 1]
            predicted = sums[predictor - 1]
        difference = (int(image[row, column]) - predicted + 32767) % 65536 - 32767
        category = abs(difference).bit_length()
        bits.append(f"{category:05b}")
        if 0 < category < 16:
            value = difference if difference > 0 else difference + (1 << category) - 1
            bits.append(f"{value:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return (
        b"\xff\xd8\xff\xc3"
        + struct.pack(">HBHHB3B", 11, precision, *image.shape, 1, 1, 0x11, 0)
        + b"\xff\xc4"
        + struct.pack(">H", 2 + len(table))
        + table
        + b"\xff\xda\x00\x08\x01\x01\x00"
        + bytes([predictor, 0, 0])
        + scan
        + END
    )


def write_frame(path: Path, image: np.ndarray, frame: bytes) -> Path:
    dataset = ct_dataset(image)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    write_dataset(path, dataset, JPEGLossless, compress=False)
    return path


@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_is_counted_as_the_codec_decodes_it(tmp_path: Path, predictor: int) -> None:
    rng = np.random.default_rng(predictor)
    image = rng.integers(0, 3000, (12, 9)).astype(np.uint16)
    image[3, :4] = 500
    frame = encode(image, predictor)
    stored = read_hu(write_frame(tmp_path / "a.dcm", image, frame)).image_hu[0].astype(int) + 1024
    np.testing.assert_array_equal(stored, image)
    scan = read_scan(frame)
    assert scan is not None and scan.predictor == predictor
    for num_bytes in (2, 30):
        cut = frame[: -num_bytes - 2] + END
        with pytest.raises(RejectedFile) as caught:
            read_hu(write_frame(tmp_path / "b.dcm", image, cut))
        assert caught.value.status in ("truncated", "corrupt")


def test_a_difference_of_half_the_range_has_no_bits_of_its_own() -> None:
    image = np.array([[0, 32768, 0]], np.uint16)  # the first is predicted as 32,768
    check_used_up(encode(image, 1), image)


@pytest.mark.parametrize("name", REAL)
def test_real_frames_have_exactly_the_bytes_of_their_image(test_data: Path, name: str) -> None:
    dataset = pydicom.dcmread(test_data / "odd_dicom" / name)
    stored = dataset.pixel_array
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    scan = read_scan(frame)
    assert scan is not None
    assert scan.predictor == REAL[name]
    check_used_up(frame, stored)
    end = frame.rfind(END)
    with pytest.raises(RejectedFile) as caught:
        check_used_up(frame[: end - 1] + frame[end:], stored)
    reason = f"has {scan.num_bytes - 1} of the {scan.num_bytes} bytes of its image"
    assert caught.value.status == "truncated"
    assert reason in caught.value.reason
    with pytest.raises(RejectedFile, match="leaves data over"):
        check_used_up(frame[:end] + bytes(40) + frame[end:], stored)


def test_other_frames_are_not_looked_at() -> None:
    image = np.zeros((3, 3), np.uint16)
    frame = encode(image, 1)
    restarts = frame.replace(b"\xff\xda", b"\xff\xdd\x00\x04\x00\x03\xff\xda")
    for other in (restarts, frame.replace(b"\xff\xc3", b"\xff\xc0"), frame[:20], b"\xff\xd8"):
        assert read_scan(other) is None
        check_used_up(other, image)
