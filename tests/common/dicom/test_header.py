"""Headers: RSNA's quirks, multi-frame files, and what is rejected without reading pixels."""

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import ct_dataset, write_ct, write_dataset, write_enhanced_ct, write_rsna
from pydicom import config as pydicom_config
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from common.dicom import RejectedFile, part10, read_headers, read_hu

PIXELS = np.arange(12, dtype=np.int16).reshape(3, 4)


def rejection(path: Path, **options: bool) -> RejectedFile:
    with pytest.raises(RejectedFile) as caught:
        read_headers(path, **options)
    return caught.value


def test_a_header_says_what_was_written(tmp_path: Path) -> None:
    tags = {"SOPInstanceUID": "1.2.3.5", "PixelSpacing": [0.5, 0.4], "InstanceNumber": 7}
    tags |= {"ImagePositionPatient": [-1.5, 2, 30], "PixelPaddingValue": -2000}
    (header,) = read_headers(write_ct(tmp_path / "a.dcm", PIXELS, **tags))
    assert (header.image_id, header.frame, header.num_frames) == ("1.2.3.5", None, 1)
    assert (header.patient_id, header.study_id, header.series_id) == ("patient", "1.2.3", "1.2.3.4")
    assert (header.rows, header.columns) == (3, 4)
    assert (header.spacing_row, header.spacing_column) == (0.5, 0.4)
    assert (header.position, header.position_mm) == ((-1.5, 2, 30), 30)
    assert (header.rescale_slope, header.rescale_intercept) == (1, -1024)
    assert (header.window_center, header.window_width) == (40, 80)
    assert (header.instance_number, header.padding_value) == (7, -2000)
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_rsna_headers_are_read_without_a_warning(tmp_path: Path, dtype: type) -> None:
    path = write_rsna(tmp_path / "ID_000000001.dcm", PIXELS.astype(dtype), "ID_0fbf6a978")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (header,) = read_headers(path)
    assert header.image_id == "ID_0fbf6a978"  # from the header, not from the file's name
    assert header.patient_id == "ID_0a1b2c3d"
    assert header.image_type == ()
    assert header.instance_number is None
    assert header.bits_stored == (16 if dtype == np.int16 else 12)
    assert header.window_center == (30 if dtype == np.int16 else 36)  # the first of two
    assert header.window_width == 80


def test_importing_and_reading_leave_other_warnings_alone(tmp_path: Path) -> None:
    read_headers(write_ct(tmp_path / "a.dcm", PIXELS))
    assert pydicom_config.settings.reading_validation_mode == pydicom_config.IGNORE
    with pytest.warns(UserWarning, match="of another package"):
        warnings.warn("of another package", UserWarning, stacklevel=1)


def test_a_multi_frame_file_has_a_header_per_frame(tmp_path: Path) -> None:
    pixels = np.stack([PIXELS, PIXELS + 1])
    positions = [(0, 0, 5.0), (0, 0, 0.0)]
    path = write_enhanced_ct(
        tmp_path / "a.dcm", pixels, positions, intercepts=[-1024, -1000], SOPInstanceUID="1.2.9"
    )
    headers = read_headers(path)
    assert [header.image_id for header in headers] == ["1.2.9_0", "1.2.9_1"]
    assert [header.position_mm for header in headers] == [5, 0]
    assert [header.rescale_intercept for header in headers] == [-1024, -1000]
    assert headers[1].spacing_row == 0.5
    assert headers[1].window_width == 80
    np.testing.assert_array_equal(
        read_hu(path).image_hu, pixels + np.array([-1024, -1000]).reshape(2, 1, 1)
    )


def test_an_enhanced_file_of_one_frame_is_a_slice(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "a.dcm", PIXELS[np.newaxis], [(0, 0, 5.0)])
    (header,) = read_headers(path)
    assert (header.frame, header.position_mm) == (None, 5)


def test_frames_without_functional_groups_are_rejected(tmp_path: Path) -> None:
    pixels = np.stack([PIXELS, PIXELS])
    path = write_enhanced_ct(tmp_path / "a.dcm", pixels, [(0, 0, 0)])
    assert rejection(path).status == "corrupt"


def test_a_stream_is_read_like_a_path_and_stays_open(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS, SOPInstanceUID="1.2.3.5")
    with io.BytesIO(path.read_bytes()) as stream:
        assert read_headers(stream) == read_headers(path)
        assert read_hu(stream).image_hu.shape == (1, 3, 4)
        assert not stream.closed


def test_headers_need_no_pixels_of_compressed_files(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS, transfer_syntax=RLELossless)
    path.write_bytes(path.read_bytes()[:-60])
    assert len(read_headers(path)) == 1


REJECTED = {
    "not_ct": {"Modality": "MR"},
    "color": {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "no_rescale": {"RescaleSlope": None},
    "not_hu": {"RescaleType": "US"},
    "no_id": {"SeriesInstanceUID": None},
    "too_large": {"Rows": 60000, "Columns": 60000},
    "truncated": {"Rows": 4},
    "overlong": {"Rows": 1},
    "no_pixels": {"PixelData": b""},
}


@pytest.mark.parametrize("status", REJECTED)
def test_rejections_known_from_the_header(tmp_path: Path, status: str) -> None:
    assert rejection(write_ct(tmp_path / "a.dcm", PIXELS, **REJECTED[status])).status == status


@pytest.mark.parametrize("declared", [{"Rows": 11}, {"Columns": 15}, {"Rows": 9, "Columns": 14}])
def test_a_row_or_column_too_few_is_refused(tmp_path: Path, declared: dict[str, int]) -> None:
    pixels = np.zeros((12, 16), dtype=np.int16)
    assert rejection(write_ct(tmp_path / "a.dcm", pixels, **declared)).status == "overlong"


CORRUPT = [
    ({"BitsAllocated": 12}, "BitsAllocated"),
    ({"BitsStored": 17, "HighBit": 16}, "BitsStored"),
    ({"HighBit": 12}, "HighBit"),
    ({"PixelRepresentation": 2}, "PixelRepresentation"),
    ({"PhotometricInterpretation": "FUZZ"}, "PhotometricInterpretation"),
    ({"Columns": None}, "Columns is missing"),
    ({"Columns": 0}, "0 columns"),
    ({"NumberOfFrames": 0}, "0 frames"),
    ({"RescaleSlope": 0}, "RescaleSlope"),
    ({"RescaleIntercept": [1, 2]}, "RescaleIntercept"),
    ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient"),
    ({"ImagePositionPatient": [0, 1e300, 0]}, "ImagePositionPatient is 1e+300"),
    ({"PixelSpacing": [0.5, 0]}, "PixelSpacing is 0, not within"),
    ({"PixelSpacing": [-0.5, 0.5]}, "PixelSpacing is -0.5, not within"),
    ({"RescaleSlope": 1e-300}, "RescaleSlope is 1e-300"),
    ({"RescaleIntercept": -1e300}, "RescaleIntercept is -1e+300"),
]


@pytest.mark.parametrize(("tags", "reason"), CORRUPT)
def test_contradictions_are_named(tmp_path: Path, tags: dict, reason: str) -> None:
    caught = rejection(write_ct(tmp_path / "a.dcm", PIXELS, **tags))
    assert caught.status == "corrupt"
    assert reason in caught.reason


def test_screen_shots_from_ct_are_no_ct(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS, SOPClassUID=SecondaryCaptureImageStorage)
    assert rejection(path).status == "not_ct"


def test_a_modality_may_be_missing_in_a_ct_image(tmp_path: Path) -> None:
    assert len(read_headers(write_ct(tmp_path / "a.dcm", PIXELS, Modality=None))) == 1
    path = write_ct(tmp_path / "b.dcm", PIXELS, Modality=None, SOPClassUID=None)
    assert rejection(path).status == "not_ct"


def test_an_impossible_orientation_is_none(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS, ImageOrientationPatient=[0, 0, 0, 0, 0, 0])
    (header,) = read_headers(path)
    assert (header.orientation, header.tilt_deg, header.normal) == (None, None, None)
    assert header.position_mm == 0


def test_an_absurd_orientation_is_none_without_a_warning(tmp_path: Path) -> None:
    absurd = [1e300, 0, 0, 0, 1e300, 0]
    path = write_ct(tmp_path / "a.dcm", PIXELS, ImageOrientationPatient=absurd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_headers(path)[0].orientation is None


def with_syntax(path: Path, syntax: bytes) -> Path:
    """Write a file that declares a transfer syntax of 20 bytes."""
    data = write_ct(path, PIXELS).read_bytes()
    assert data.count(b"1.2.840.10008.1.2.1\0") == 1
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", syntax))
    return path


def test_odd_bytes_are_not_repeated_in_a_reason(tmp_path: Path) -> None:
    path = with_syntax(tmp_path / "a.dcm", b"1.2.840.\x1b[2J\x8908.1.2\0")
    assert rejection(path).reason == "the transfer syntax is not a UID"
    path = write_ct(tmp_path / "b.dcm", PIXELS, Modality="\u00ff\u00ff")
    assert rejection(path).reason == "the modality is not one"


def test_file_meta_without_vrs_is_read_and_a_damaged_vr_is_not(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS)
    data = path.read_bytes()
    meta = b"\x02\x00\x10\x00UI\x14\x00"
    assert data[132:].startswith(meta)
    path.write_bytes(data.replace(meta, b"\x02\x00\x10\x00\x14\x00\x00\x00"))
    assert len(read_headers(path)) == 1
    version = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
    path.write_bytes(data.replace(meta, version + b"\x02\x00\x10\x00\x00\x00\x14\x00"))
    assert str(rejection(path)) == "corrupt: the file meta information is damaged"
    path.write_bytes(data[:132] + zlib.compress(data[132:]))
    assert rejection(path).reason == "no file meta information follows the DICM marker"


@pytest.mark.parametrize("vr", [b"UT", b"SQ", b"US", b"xx"])
def test_pixels_with_a_vr_of_another_kind_are_refused(tmp_path: Path, vr: bytes) -> None:
    """Some have the length elsewhere: the image was shifted by two pixels."""
    path = write_ct(tmp_path / "a.dcm", PIXELS)
    data = path.read_bytes()
    assert data.count(b"\xe0\x7f\x10\x00OW") == 1
    path.write_bytes(data.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00" + vr))
    assert rejection(path).status in ("corrupt", "truncated")


def test_a_length_beyond_the_file_is_no_excess_of_pixels(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS)
    data = path.read_bytes()
    head = data[: -PIXELS.nbytes - 4]
    path.write_bytes(head + (1 << 20).to_bytes(4, "little") + PIXELS.tobytes())
    assert str(rejection(path)) == "truncated: 24 of 1048576 bytes of pixel data"


def test_frames_that_cannot_be_there_cost_no_header_each(tmp_path: Path) -> None:
    path = write_ct(
        tmp_path / "a.dcm", PIXELS, transfer_syntax=RLELossless, NumberOfFrames=1, Rows=3, Columns=4
    )
    data = path.read_bytes()
    tag = b"\x28\x00\x08\x00IS\x02\x00"
    assert data.count(tag + b"1 ") == 1
    for frames, status in ((b"9999", "truncated"), (b"22369621", "too_large")):
        length = len(frames).to_bytes(2, "little")
        path.write_bytes(data.replace(tag + b"1 ", tag[:-2] + length + frames))
        assert rejection(path).status == status


def test_windows_are_optional_and_never_fatal(tmp_path: Path) -> None:
    dataset = ct_dataset(PIXELS, WindowCenter=None, WindowWidth=None)
    dataset.add_new("WindowCenter", "LO", "wide")
    write_dataset(tmp_path / "a.dcm", dataset)
    (header,) = read_headers(tmp_path / "a.dcm")
    assert (header.window_center, header.window_width) == (None, None)


def test_files_that_are_not_dicom(tmp_path: Path) -> None:
    for number, data in enumerate([b"", b"a,b\n1,2\n", bytes(4000), b"\xff\xd8\xff\xe0" * 99]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        assert rejection(path).status == "not_dicom"


def test_what_cannot_be_opened_is_unreadable(tmp_path: Path) -> None:
    assert rejection(tmp_path / "none.dcm").status == "unreadable"
    assert rejection(tmp_path).reason == os.strerror(21)


def test_any_cut_of_a_file_is_rejected(tmp_path: Path) -> None:
    data = write_ct(tmp_path / "a.dcm", PIXELS).read_bytes()
    path = tmp_path / "cut.dcm"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(RejectedFile):
            read_headers(path)


def test_an_implicit_file_that_declares_explicit_is_read(tmp_path: Path) -> None:
    implicit = write_ct(tmp_path / "a.dcm", PIXELS, transfer_syntax=ImplicitVRLittleEndian)
    data = implicit.read_bytes()
    wrong = tmp_path / "b.dcm"
    meta = b"\x02\x00\x10\x00UI\x12\x00" + b"1.2.840.10008.1.2\0"
    assert meta in data
    declared = b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.1\0"
    wrong.write_bytes(data.replace(meta, declared))
    np.testing.assert_array_equal(read_hu(wrong).image_hu, read_hu(implicit).image_hu)


def test_a_deflate_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((256, 256), np.int16)
    path = write_ct(tmp_path / "a.dcm", pixels, transfer_syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_hu(path).image_hu[0], pixels - 1024)
    monkeypatch.setattr(part10, "MAX_INFLATED_BYTES", 2 * path.stat().st_size)
    assert rejection(path).status == "too_large"


def test_a_damaged_deflated_file_is_told_apart(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PIXELS, transfer_syntax=DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert rejection(path).status == "truncated"
    start = data.index(b"1.2.840.10008.1.2.1.99") + 22
    path.write_bytes(data[:start] + b"\xff" * 40)
    assert rejection(path).status == "corrupt"
    with pytest.raises(zlib.error):
        pydicom.dcmread(path)
