"""Elements that are scanned are those that pydicom reads, and what is odd is left to pydicom."""

import io
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from common.dicom import quiet_pydicom
from common.dicom.part10 import PIXEL_TAGS
from common.dicom.scan import Elements, Encoding, read_elements

PIXELS = bytes(32)
META, EXPLICIT, IMPLICIT = Encoding(False), Encoding(False), Encoding(True)


def scans(data: bytes, start: int, encoding: Encoding, stop=PIXEL_TAGS.__contains__) -> bool:
    """Return whether the first bytes alone are enough; compare them with pydicom's reading then."""
    found = read_elements(io.BytesIO(), data, start, encoding, stop)
    if found.next is None:  # pydicom met an empty file
        return False
    expected = read_elements(io.BytesIO(data), b"", start, encoding, stop)
    assert elements_of(found) == elements_of(expected)
    assert (found.end, found.next) == (expected.end, expected.next)
    assert found.dataset.original_encoding == expected.dataset.original_encoding
    assert found.dataset.original_character_set == expected.dataset.original_character_set
    return True


def elements_of(found: Elements) -> list[object]:
    return [found.dataset.get_item(tag, keep_deferred=True) for tag in list(found.dataset.keys())]


def written(dataset: Dataset, encoding: Encoding) -> bytes:
    """Return a data set as bytes, with PIXELS at its end."""
    dataset.add_new("PixelData", "OW", PIXELS)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = encoding
    write_dataset(file, dataset)
    return file.getvalue()


def test_files_of_many_writers(test_data: Path) -> None:
    quiet_pydicom()
    own = Path(str(get_testdata_file("CT_small.dcm"))).parent
    folders = (own, test_data / "odd_dicom", test_data / "ge_head")
    num_scanned = 0
    for path in sorted(path for folder in folders for path in folder.rglob("*.dcm")):
        data = path.read_bytes()[: 1 << 15]
        num_scanned += scans(data, 132, META, lambda tag: tag >> 16 != 2)
        start = read_elements(io.BytesIO(data), b"", 132, META, lambda tag: tag >> 16 != 2).end
        for encoding in (EXPLICIT, IMPLICIT):
            num_scanned += scans(data, start, encoding)
    assert num_scanned > 100


@pytest.mark.parametrize("encoding", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("charset", [None, "", "ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_empty_values_sequences_and_character_sets(encoding: Encoding, charset: object) -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset = Dataset()
    if charset is not None:
        dataset.SpecificCharacterSet = charset
    dataset.PatientName, dataset.PatientID, dataset.Rows = "A^B", "", None
    dataset.ReferencedImageSequence = [item]
    dataset.add_new(0x00190010, "LO", "PRIVATE")
    dataset.add_new(0x00191001, "OB", b"\1\2")
    assert scans(written(dataset, encoding), 0, encoding)


def test_no_part_of_a_header_is_taken_for_the_whole() -> None:
    dataset = Dataset()
    dataset.PatientID, dataset.WindowCenter = "1", [40, 80]
    data = written(dataset, EXPLICIT)
    whole = data[: -len(PIXELS)]
    assert scans(whole, 0, EXPLICIT)
    for end in range(len(whole)):
        assert not scans(whole[:end], 0, EXPLICIT)


@pytest.mark.parametrize("damage", ["undefined length", "unknown VR", "item end", "VRs"])
def test_what_is_odd_is_left_to_pydicom(damage: str) -> None:
    dataset = Dataset()
    item = Dataset()
    item.PatientID = "2"
    dataset.PatientID = "1"
    if damage == "undefined length":
        dataset.ReferencedImageSequence = [item]
        dataset["ReferencedImageSequence"].is_undefined_length = True
    data = written(dataset, EXPLICIT)
    if damage == "unknown VR":
        data = data.replace(b"LO", b"L1", 1)
    if damage == "item end":
        data = b"\xfe\xff\x0d\xe0UN\0\0\0\0\0\0" + data
    encoding = IMPLICIT if damage == "VRs" else EXPLICIT
    assert not scans(data, 0, encoding)
