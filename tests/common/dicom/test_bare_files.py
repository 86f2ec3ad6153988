"""DICOM without preamble, marker or file meta information; what is not DICOM stays so."""

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from common.dicom import RejectedFile, read_headers, read_hu
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8) + 1000
SYNTAXES = {
    ExplicitVRLittleEndian: "Explicit VR Little Endian",
    ImplicitVRLittleEndian: "Implicit VR Little Endian",
    ExplicitVRBigEndian: "Explicit VR Big Endian",
    DeflatedExplicitVRLittleEndian: "Deflated Explicit VR Little Endian",
    RLELossless: "RLE Lossless",
}


def whole_file(tmp_path: Path, syntax: str) -> bytes:
    return write_ct(tmp_path / "whole.dcm", PIXELS, transfer_syntax=syntax).read_bytes()


def data_set(whole: bytes) -> bytes:
    """The file without preamble, marker and file meta information."""
    assert whole[132:136] == b"\x02\0\x10\0"  # TransferSyntaxUID is all that the factory writes
    return whole[140 + int.from_bytes(whole[138:140], "little") :]


def status(data: bytes) -> str:
    try:
        read_hu(io.BytesIO(data))
    except RejectedFile as rejected:
        assert rejected.reason and "\n" not in rejected.reason
        return rejected.status
    return "ok"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_without_the_preamble(tmp_path: Path, syntax: str) -> None:
    whole = whole_file(tmp_path, syntax)
    for data in (whole[132:], whole[128:]):
        found = read_hu(io.BytesIO(data))
        np.testing.assert_array_equal(found.image_hu[0], PIXELS - 1024.0)
        assert found.note == f"the file has no DICM marker: read as {SYNTAXES[syntax]}"
    assert read_hu(io.BytesIO(whole)).note == ""


@pytest.mark.parametrize("syntax", list(SYNTAXES)[:3])
def test_without_file_meta_information(tmp_path: Path, syntax: str) -> None:
    bare = data_set(whole_file(tmp_path, syntax))
    found = read_hu(io.BytesIO(bare))
    np.testing.assert_array_equal(found.image_hu[0], PIXELS - 1024.0)
    assert found.note == f"the file has no DICM marker: read as {SYNTAXES[syntax]}"
    (header,) = read_headers(io.BytesIO(bare), sort_out=True)
    assert (header.transfer_syntax, header.left_out) == (syntax, "")


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_what_only_meta_information_could_tell_is_not_guessed(tmp_path: Path, syntax: str) -> None:
    assert status(data_set(whole_file(tmp_path, syntax))) in ("not_dicom", "corrupt")


def test_a_data_set_of_another_modality_is_called_one(tmp_path: Path) -> None:
    write_ct(tmp_path / "whole.dcm", PIXELS, SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")
    assert status(data_set((tmp_path / "whole.dcm").read_bytes())) == "not_ct"


@pytest.mark.parametrize(
    "tags", [{"SOPClassUID": None}, {"SOPClassUID": "1.2.3.4"}, {"SOPClassUID": ""}]
)
def test_without_a_sop_class_that_dicom_defines_it_is_mistakable(
    tmp_path: Path, tags: dict[str, str | None]
) -> None:
    write_ct(tmp_path / "whole.dcm", PIXELS, **tags)
    assert status(data_set((tmp_path / "whole.dcm").read_bytes())) == "not_dicom"


@pytest.mark.parametrize("syntax", list(SYNTAXES)[:3])
def test_any_cut_is_rejected(tmp_path: Path, syntax: str) -> None:
    whole = whole_file(tmp_path, syntax)
    for bare in (whole[132:], data_set(whole)):
        for size in range(len(bare)):
            assert status(bare[:size]) in (
                "not_dicom",
                "truncated",
                "corrupt",
                "no_pixels",
                "not_ct",
            )


def test_the_note_is_the_reason_in_the_dataset(tmp_path: Path) -> None:
    pixels = np.full((32, 32), 1050, np.uint16)
    whole = write_ct(tmp_path / "whole.dcm", pixels, ImagePositionPatient=[0, 0, 5]).read_bytes()
    folder = tmp_path / "in"
    write_ct(folder / "a.dcm", pixels, ImagePositionPatient=[0, 0, 0])
    (folder / "b.dcm").write_bytes(data_set(whole))
    (folder / "c.txt").write_text("notes")
    prepare_dataset(DicomSource(folder), tmp_path / "out", n_jobs=0)
    frame = SliceTable.load(tmp_path / "out").frame.set_index("source_file")
    assert frame["status"].to_dict() == {"a.dcm": "ok", "b.dcm": "ok", "c.txt": "not_dicom"}
    note = "the file has no DICM marker: read as Explicit VR Little Endian"
    assert frame.loc["b.dcm", "reason"] == note
    assert frame["reason"].isna()["a.dcm"]


def not_dicom_files() -> list[bytes]:
    acr_nema = b"\x08\0\0\0\x04\0\0\0\x20\0\0\0\x08\0\x10\0\x0c\0\0\0ACR-NEMA 2.0"
    return [
        b"",
        b"\x08\0",
        b"a,b\n1,2\n" * 40,
        "Schädel nativ\n".encode() * 99,
        bytes(4000),
        b"\xff" * 4000,
        b"\xff\xd8\xff\xe0" * 99,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        b"PK\x03\x04" + bytes(range(256)) * 9,
        b"%PDF-1.7\n" * 99,
        b"DICM" + bytes(4000),
        b"DICM text " * 99,
        bytes(127) + b"DICM" + bytes(400),
        acr_nema + b"\x28\0\x10\0\x02\0\0\0\0\x01" * 99,
        b"\x08\0\x16\0UI\x1a\x001.2.840.99999.5.1.4.1.1.2\0" + bytes(400),
        b"\x08\0\x16\0UI\xff\xff" + b"1.2.840.10008.5.1.4.1.1.2" * 9,
        b"\x02\0\x10\0UI\x08\x001.2.3.4\0" + bytes(400),
        b"\x02\0\x10\0UI\x14\0hello, this is text!" + bytes(400),
        b"\0\x08\0\x16UI\0\x081.2.3.4\0" + bytes(400),
    ]


@pytest.mark.parametrize("number", range(len(not_dicom_files())))
def test_what_is_not_dicom_stays_so(number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert status(not_dicom_files()[number]) == "not_dicom"


STARTS = [b"", b"\x08\0", b"\0\x08", b"\x02\0", b"DICM\x08\0", b"DICM\x02\0"]
STARTS += [b"\x08\0\x05\0CS", b"\x08\0\x16\0UI", b"\x08\0\x16\0", b"\0\x08\0\x16UI"]
STARTS += [b"\x02\0\x10\0UI", b"\x02\0\0\0UL\x04\0", b"\x08\0\x10\x11SQ\0\0", b"\x08\0\x10\x11"]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=600))
def test_random_bytes_are_not_dicom(start: bytes, rest: bytes) -> None:
    data = start + rest
    assert data[128:132] != b"DICM"
    assert status(data) == "not_dicom"


def test_many_random_files_are_not_dicom() -> None:
    rng = random.Random(5)
    for number in range(3000):
        start = STARTS[number % len(STARTS)]
        assert status(start + rng.randbytes(rng.randrange(2000))) == "not_dicom"


def test_damaged_data_sets_never_crash(tmp_path: Path) -> None:
    """Bytes of bare files are changed: they are read, or get a status, and nothing else happens."""
    rng = random.Random(7)
    for syntax in list(SYNTAXES)[:3]:
        whole = whole_file(tmp_path, syntax)
        for bare in (whole[132:], data_set(whole)):
            for _ in range(300):
                changed = bytearray(bare)
                for _ in range(rng.randrange(1, 4)):
                    changed[rng.randrange(min(400, len(changed)))] = rng.randrange(256)
                status(bytes(changed))


def test_files_that_come_with_pydicom_are_read_as_pydicom_forces_them() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    found = 0
    for name in ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"):
        path = folder / name
        if path.is_file():
            assert status(path.read_bytes()) == "not_ct"
            found += 1
    assert found
