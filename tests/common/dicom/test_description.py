"""Scanner, patient and contrast medium: odd values are unknown, and never reject a file."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import write_ct, write_enhanced_ct
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from common.dicom import RejectedFile, SliceHeader, quiet_pydicom, read_headers
from common.dicom.description import describe

PIXELS = np.arange(12, dtype=np.int16).reshape(3, 4)
FIELDS = ("spacing_between_slices", "manufacturer", "model", "age_decade", "sex", "contrast")


def header_with(tmp_path: Path, **tags: object) -> SliceHeader:
    return read_headers(write_ct(tmp_path / "a.dcm", PIXELS, **tags))[0]


AGES = {
    "045Y": 40, "45": 40, "45Y": 40, " 045Y ": 40, "45 years": 40, "009Y": 0, "010Y": 10,
    "006M": 0, "119M": 0, "120M": 10, "018M": 0, "099W": 0, "003D": 0, "999D": 0, "089Y": 80,
    "090Y": 90, "101Y": 90, "110Y": 90, "111Y": None, "999Y": None, "": None, "Y": None,
    "-45Y": None, "adult": None, "045X": None, "4 5Y": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "decade"), AGES.items())
def test_ages_are_decades(text: str, decade: int | None) -> None:
    quiet_pydicom()
    dataset = Dataset()
    dataset.PatientAge = text
    assert describe(dataset, 0)["age_decade"] == decade


@pytest.mark.parametrize(
    ("birth", "study", "decade"),
    [
        ("19500131", "20200130", 60),
        ("19500131", "20200131", 70),
        ("1950.01.31", "2020.02.01", 70),
        ("19000101", "20150101", None),
        ("20200101", "20100101", None),
        ("", "20200101", None),
        ("00010101", "20200101", None),
    ],
)
def test_without_an_age_the_dates_tell(birth: str, study: str, decade: int | None) -> None:
    dataset = Dataset()
    dataset.PatientBirthDate, dataset.StudyDate = birth, study
    assert describe(dataset, 0)["age_decade"] == decade
    dataset = Dataset()
    dataset.PatientBirthDate, dataset.StudyDate, dataset.PatientAge = birth, study, "035Y"
    assert describe(dataset, 0)["age_decade"] == 30


def test_sex_in_other_words() -> None:
    words = {"m": "M", "Male": "M", "w": "F", "weiblich": "F", "männlich": "M", "female ": "F"}
    words |= {"O": "O", "U": None, "unknown": None, "M/F": None, "Frank": None, "": None}
    for text, sex in words.items():
        dataset = Dataset()
        dataset.PatientSex = text
        assert describe(dataset, 0)["sex"] == sex, text


def test_names_of_scanners_are_in_one_spelling() -> None:
    dataset = Dataset()
    dataset.Manufacturer = "  GE  Medical\tSystems\0"
    dataset.ManufacturerModelName = ["Somatom", "other"]
    found = describe(dataset, 0)
    assert (found["manufacturer"], found["model"]) == ("GE MEDICAL SYSTEMS", "SOMATOM")
    dataset = Dataset()
    dataset.Manufacturer, dataset.ManufacturerModelName = "<b>" * 60, "20190101"
    assert describe(dataset, 0)["manufacturer"] == ("<B>" * 60)[:64]
    assert describe(dataset, 0)["model"] is None


def test_contrast_is_known_unknown_or_denied(tmp_path: Path) -> None:
    assert header_with(tmp_path).contrast is None
    assert header_with(tmp_path, ContrastBolusAgent="Omnipaque").contrast is True
    assert header_with(tmp_path, ContrastBolusAgent="NONE").contrast is False
    assert header_with(tmp_path, SeriesDescription="HEAD W/O CONTRAST").contrast is False
    assert header_with(tmp_path, SeriesDescription="CTA HEAD").contrast is True


def test_frames_have_what_their_functional_groups_say(tmp_path: Path) -> None:
    pixels = np.stack([PIXELS, PIXELS + 1])
    path = write_enhanced_ct(tmp_path / "a.dcm", pixels, [(0, 0, 5.0), (0, 0, 0.0)])
    dataset = pydicom.dcmread(path)
    for number, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        measures = Dataset()
        measures.SpacingBetweenSlices, measures.PixelSpacing = 2.5 + number, [0.5, 0.5]
        item.PixelMeasuresSequence = Sequence([measures])
    dataset.save_as(path)
    assert [header.spacing_between_slices for header in read_headers(path)] == [2.5, 3.5]


@pytest.mark.parametrize("vr", ["SQ", "OB", "UN", "DS", "IS", "FD", "US", "PN", "DA", "AT", "ZZ"])
@pytest.mark.parametrize("value", [b"X", b"\xff\xfe\x00\xe0\xff", b"Doe^Jane", b"abc\\def "])
def test_wrong_vrs_and_damaged_values_reject_nothing(vr: str, value: bytes) -> None:
    quiet_pydicom()
    dataset = Dataset()
    keywords = ("SpacingBetweenSlices", "Manufacturer", "ManufacturerModelName", "PatientAge",
                "PatientSex", "PatientBirthDate", "ContrastBolusVolume")  # fmt: skip
    for keyword in keywords:
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    found = describe(dataset, 0)
    assert found["age_decade"] is None and found["sex"] is None
    assert found["spacing_between_slices"] is None or vr in ("FD", "US", "AT")
    assert found["contrast"] in (None, True, False)
    if vr in ("SQ", "OB", "PN"):
        assert found["manufacturer"] is None


@pytest.mark.parametrize("vr", [b"FD", b"ZZ", b"US", b"FL"])
@pytest.mark.parametrize("element", [b"120 ", b"5.25", b"6.75"])
def test_a_file_with_a_wrong_vr_is_read(tmp_path: Path, vr: bytes, element: bytes) -> None:
    tags = {"KVP": "120", "SliceThickness": "5.25", "SpacingBetweenSlices": "6.75"}
    path = write_ct(tmp_path / "a.dcm", PIXELS, **tags)
    written = b"DS\x04\x00" + element
    assert path.read_bytes().count(written) == 1
    path.write_bytes(path.read_bytes().replace(written, vr + written[2:]))
    (header,) = read_headers(path)
    assert header.rows == 3


def test_a_sequence_in_place_of_a_text_leaks_nothing() -> None:
    item, dataset = Dataset(), Dataset()
    item.PatientName = "A"
    dataset.add_new("Manufacturer", "SQ", [item])
    dataset.add_new("ManufacturerModelName", "PN", "Doe^Jane")
    assert set(describe(dataset, 0).values()) == {None}


def test_values_that_slices_share_are_those_read_anew(test_data: Path) -> None:
    """What is kept by raw values is what a dataset without raw values gives."""
    quiet_pydicom()
    num_known = 0
    for path in [*(test_data / "ge_head").glob("*"), *(test_data / "odd_dicom").rglob("*.dcm")]:
        try:
            headers = read_headers(path)
        except RejectedFile:
            continue
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for header in headers:
            expected = describe(Dataset({e.tag: e for e in dataset}), header.frame or 0)
            assert {name: getattr(header, name) for name in FIELDS} == expected, path.name
            num_known += header.manufacturer is not None
    assert num_known > 28
