"""Decoding: every syntax gives the same image, and damage never passes as an image."""

import errno
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import ct_dataset, write_ct, write_dataset, write_enhanced_ct
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from common.dicom import RejectedFile, part10, pixels, read_hu
from common.dicom.part10 import open_dicom

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]
IMAGE = np.random.default_rng(0).normal(1064, 200, (33, 47)).round().astype(np.int16)


def frames_of(path: Path) -> list[bytes]:
    with open_dicom(path) as opened:
        return list(generate_frames(opened.read_pixels(), number_of_frames=1))


def with_frame(path: Path, frame: bytes, syntax: str) -> Path:
    """A file of IMAGE's size whose only compressed frame is `frame`."""
    dataset = ct_dataset(IMAGE)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    write_dataset(path, dataset, syntax, compress=False)
    return path


def rejection(path: Path) -> RejectedFile:
    with pytest.raises(RejectedFile) as caught:
        read_hu(path)
    return caught.value


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_gives_the_same_hu(tmp_path: Path, syntax: str) -> None:
    image_hu = read_hu(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=syntax)).image_hu
    assert image_hu.dtype == np.dtype(np.int16)
    assert image_hu.dtype.isnative
    np.testing.assert_array_equal(image_hu[0], IMAGE - 1024)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, ExplicitVRLittleEndian])
def test_frames_keep_their_order(tmp_path: Path, syntax: str) -> None:
    stack = np.stack([IMAGE, IMAGE + 1, IMAGE + 2])
    path = write_ct(tmp_path / "a.dcm", stack, transfer_syntax=syntax)
    np.testing.assert_array_equal(read_hu(path).image_hu, stack - 1024)


def test_unsigned_8bit_pixels(tmp_path: Path) -> None:
    image = np.arange(15, dtype=np.uint8).reshape(3, 5)
    tags = {"RescaleSlope": 10, "RescaleIntercept": -100}
    image_hu = read_hu(write_ct(tmp_path / "a.dcm", image, **tags)).image_hu
    np.testing.assert_array_equal(image_hu[0], image.astype(int) * 10 - 100)


def test_a_few_bytes_after_the_pixels_are_no_frame(tmp_path: Path) -> None:
    dataset = ct_dataset(IMAGE)
    dataset.PixelData = IMAGE.tobytes() + bytes(6)
    write_dataset(tmp_path / "a.dcm", dataset)
    np.testing.assert_array_equal(read_hu(tmp_path / "a.dcm").image_hu[0], IMAGE - 1024)


def test_rsna_s_corrupt_file_is_truncated(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", IMAGE)
    path.write_bytes(path.read_bytes()[:-1000])
    assert rejection(path).status == "truncated"
    assert f"of {IMAGE.nbytes} bytes" in rejection(path).reason


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_frame_is_refused(tmp_path: Path, syntax: str, part: float) -> None:
    (frame,) = frames_of(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=syntax))
    cut = with_frame(tmp_path / "b.dcm", frame[: int(part * len(frame)) // 2 * 2], syntax)
    assert rejection(cut).status in ("truncated", "corrupt")


@pytest.mark.parametrize(
    "name",
    [
        "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
        "JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81",
        "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
        "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70",
        "JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50",
        "JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91",
        "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
    ],
)
@pytest.mark.parametrize("part", [0.3, 0.8])
def test_cut_frames_of_a_real_image_are_refused(
    test_data: Path, tmp_path: Path, name: str, part: float
) -> None:
    """Codecs return half an image for these without an error."""
    folder = test_data / "odd_dicom" / "cornerstoneWADOImageLoader"
    data = (folder / f"CTImage.dcm_{name}.dcm").read_bytes()
    with open_dicom(folder / f"CTImage.dcm_{name}.dcm") as opened:
        assert opened.pixels is not None
        start = opened.pixels.offset
        (frame,) = generate_frames(opened.read_pixels(), number_of_frames=1)
    cut = frame[: int(part * len(frame)) // 2 * 2]
    whole, lost = tmp_path / "whole_frame_lost.dcm", tmp_path / "file_cut.dcm"
    whole.write_bytes(data[:start] + encapsulate([cut]) + b"\xfe\xff\xdd\xe0" + bytes(4))
    lost.write_bytes(data[: start + int(part * len(frame))])
    for path in (whole, lost):
        assert rejection(path).status in ("truncated", "corrupt"), path.name


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    stack = np.stack([IMAGE, IMAGE])
    positions = [(0, 0, 0), (0, 0, 5)]
    path = write_enhanced_ct(tmp_path / "a.dcm", stack, positions, transfer_syntax=RLELossless)
    np.testing.assert_array_equal(read_hu(path).image_hu, stack - 1024)
    dataset = ct_dataset(stack)
    (frame,) = frames_of(write_ct(tmp_path / "b.dcm", IMAGE, transfer_syntax=RLELossless))
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    write_dataset(tmp_path / "c.dcm", dataset, RLELossless, compress=False)
    caught = rejection(tmp_path / "c.dcm")
    assert (caught.status, caught.reason) == ("truncated", "1 of 2 compressed frames")


def test_a_frame_of_another_size_never_reaches_the_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (frame,) = frames_of(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=JPEG2000Lossless))
    assert struct.unpack_from(">2I", frame, 8) == (47, 33)
    huge = frame[:8] + struct.pack(">2I", 60000, 60000) + frame[16:]
    path = with_frame(tmp_path / "b.dcm", huge, JPEG2000Lossless)
    monkeypatch.setattr(pixels, "get_decoder", lambda uid: pytest.fail("a codec was asked"))
    caught = rejection(path)
    assert caught.status == "corrupt"
    assert "60000 x 60000, the header says 33 x 47" in caught.reason


def test_a_jpeg_frame_of_another_size_is_corrupt(tmp_path: Path) -> None:
    start_of_frame = b"\xff\xc3\x00\x0b\x10" + struct.pack(">2H", 7, 9) + b"\x01\x01\x11\x00"
    start_of_scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    frame = b"\xff\xd8" + b"\xff\xfe\x00\x04ab" + start_of_frame + start_of_scan + b"\xff\xd9"
    assert "7 x 9" in rejection(with_frame(tmp_path / "a.dcm", frame, JPEGLosslessSV1)).reason
    no_size = b"\xff\xd8" + bytes(20) + b"\xff\xd9"
    caught = rejection(with_frame(tmp_path / "b.dcm", no_size, JPEGLosslessSV1))
    assert "damaged headers" in caught.reason


def test_a_frame_that_ends_the_process_in_gdcm_never_gets_there(
    test_data: Path, tmp_path: Path
) -> None:
    name = "CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm"
    data = (test_data / "odd_dicom" / "cornerstoneWADOImageLoader" / name).read_bytes()
    assert data.count(b"JFIF\0\x01") == 1
    path = tmp_path / "a.dcm"
    path.write_bytes(data.replace(b"JFIF\0\x01", b"JFIF\0\xf6"))
    assert rejection(path).reason == "a compressed frame has damaged headers"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_fragment_that_lacks_a_byte_is_refused(tmp_path: Path, syntax: str) -> None:
    path = write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=syntax)
    path.write_bytes(path.read_bytes()[:-9])  # the delimiter has 8
    assert str(rejection(path)) == "truncated: a fragment lacks 1 bytes"


@pytest.mark.parametrize("num_bytes", range(2, 40, 2))
def test_the_last_bytes_of_an_rle_frame_are_missed(tmp_path: Path, num_bytes: int) -> None:
    (frame,) = frames_of(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=RLELossless))
    path = with_frame(tmp_path / "b.dcm", frame[:-num_bytes], RLELossless)
    assert rejection(path).status in ("truncated", "corrupt")


def cut_and_closed(frame: bytes, part: float) -> bytes:
    """A frame without its end, but with an end marker."""
    return frame[: int(part * len(frame)) // 2 * 2] + b"\xff\xd9"


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_cut_tile_of_jpeg_2000_is_refused(tmp_path: Path, part: float) -> None:
    (frame,) = frames_of(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=JPEG2000Lossless))
    path = with_frame(tmp_path / "b.dcm", cut_and_closed(frame, part), JPEG2000Lossless)
    assert rejection(path).status == "truncated"
    assert "of a tile" in rejection(path).reason


def test_a_frame_of_another_codec_is_refused(tmp_path: Path) -> None:
    (frame,) = frames_of(write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=JPEG2000Lossless))
    path = with_frame(tmp_path / "b.dcm", frame, JPEGLosslessSV1)
    assert "is JPEG 2000, unlike its transfer syntax" in rejection(path).reason


class Panic(BaseException):
    """As codecs written in Rust raise."""


class FakeDecoder:
    """A codec that raises."""

    def __init__(self, error: BaseException | None, *, is_available: bool = True) -> None:
        self.error = error
        self.is_available = is_available

    def as_array(self, *arguments: object, **options: object) -> None:
        assert self.error is not None
        raise self.error


@pytest.mark.parametrize("error", [Panic("panicked"), ValueError("first\nlast"), SystemError("")])
def test_whatever_a_codec_raises_is_a_rejection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=RLELossless)
    monkeypatch.setattr(pixels, "get_decoder", lambda uid: FakeDecoder(error))
    caught = rejection(path)
    assert caught.status == "corrupt"
    assert "\n" not in caught.reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_interrupts_are_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=RLELossless)
    monkeypatch.setattr(pixels, "get_decoder", lambda uid: FakeDecoder(error))
    with pytest.raises(type(error)):
        read_hu(path)


def test_a_missing_codec_is_not_the_file_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ct(tmp_path / "a.dcm", IMAGE, transfer_syntax=JPEG2000Lossless)
    decoder = FakeDecoder(None, is_available=False)
    monkeypatch.setattr(pixels, "get_decoder", lambda uid: decoder)
    assert str(rejection(path)) == (
        "unsupported_syntax: no codec is installed for JPEG 2000 Lossless"
    )


def test_a_read_error_of_the_disk_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(opened: part10.OpenFile) -> bytes:
        raise OSError(errno.EIO, "gone")

    path = write_ct(tmp_path / "a.dcm", IMAGE)
    monkeypatch.setattr(part10.OpenFile, "read_pixels", fail)
    assert rejection(path).status == "unreadable"


def test_a_rejection_survives_the_way_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(RejectedFile("corrupt", "two\nlines")))
    assert (copy.status, copy.reason) == ("corrupt", "two lines")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_flipped_bytes_give_an_image_or_a_rejection(tmp_path: Path, syntax: str) -> None:
    data = write_ct(tmp_path / "a.dcm", IMAGE[:8, :8], transfer_syntax=syntax).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "b.dcm"
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        positions = rng.integers(128, len(damaged), rng.integers(1, 6))
        damaged[positions] = rng.integers(0, 256, len(positions))
        path.write_bytes(damaged.tobytes())
        try:
            image = read_hu(path)
        except RejectedFile:
            continue
        assert image.image_hu.dtype == np.int16
        assert image.image_hu.min() >= -1024
