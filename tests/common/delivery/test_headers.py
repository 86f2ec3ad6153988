"""What of a header results take over: valid values as they are, others emptied or cut."""

import numpy as np
import pydicom
import pytest
from delivered import PERSON, geometry, write_head
from dicom_factory import write_ct
from hypothesis import given
from hypothesis import strategies as st

from common.delivery.headers import Undeliverable, Wanted, common_header, read_slices, visible
from common.dicom.part10 import open_dicom

UID = "1.2.826.0.1.3680043.8.498.1"


def taken(tmp_path, **tags):
    """The header that is taken over of a file with these elements, and what was repaired."""
    path = write_ct(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), **tags)
    with open_dicom(path) as opened:
        return common_header(opened)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientID", "mrn  12", "mrn  12"),
        ("PatientID", 64 * "9", 64 * "9"),
        ("PatientID", 65 * "9", ""),
        ("PatientID", "12\x0034", ""),
        ("PatientID", ["12", "34"], ""),
        ("IssuerOfPatientID", "Ward 7", "Ward 7"),
        ("AccessionNumber", 16 * "a", 16 * "a"),
        ("AccessionNumber", 17 * "a", ""),
        ("PatientName", "A^B^C^D^E^F", "A^B^C^D^E"),
        (
            "PatientName",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        ("PatientName", "Wolf\x1b[31m^\u202eAnna", "Wolf[31m^Anna"),
        ("PatientBirthDate", "19510203", "19510203"),
        ("PatientBirthDate", "19510230", ""),
        ("PatientBirthDate", "1951.02.03", ""),
        ("PatientBirthDate", "195102 3", ""),
        ("PatientBirthDate", "00010101", ""),
        ("PatientSex", "F", "F"),
        ("PatientSex", "female", ""),
        ("StudyTime", "235959.123456", "235959.123456"),
        ("StudyTime", "23", "23"),
        ("StudyTime", "240000", ""),
        ("StudyTime", "23:59:59", ""),
    ],
)
def test_a_value_is_taken_as_it_is_or_made_valid(tmp_path, keyword, value, expected):
    header, repaired = taken(tmp_path, SpecificCharacterSet="ISO_IR 192", **{keyword: value})
    assert str(header[keyword].value) == expected
    assert (keyword in repaired) is (str(value) != expected)


def test_bytes_of_another_character_set_are_reported_and_no_id(tmp_path):
    tags = {"PatientID": "mrn~12", "PatientName": "W~lf^Anna", "SpecificCharacterSet": "ISO_IR 192"}
    path = write_ct(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), **tags)
    path.write_bytes(path.read_bytes().replace(b"~", "ö".encode("latin-1")))
    with open_dicom(path) as opened:
        header, repaired = common_header(opened)
    assert (header.PatientID, str(header.PatientName)) == ("", "W\ufffdlf^Anna")
    assert {"PatientID", "PatientName"} <= repaired


def test_what_is_removed_stays_marked_and_how_is_filled_in(tmp_path):
    tags = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""}
    header, repaired = taken(tmp_path, **tags)
    assert (header.PatientIdentityRemoved, header.DeidentificationMethod) == (
        "YES",
        "not stated in the source",
    )
    header, repaired = taken(tmp_path, **tags | {"DeidentificationMethod": "CTP"})
    assert header.DeidentificationMethod == "CTP"
    assert not repaired


@given(st.text(max_size=300), st.integers(1, 80))
def test_visible_text_is_one_bounded_line_without_control_characters(text, most):
    shown = visible(text, most)
    assert len(shown) <= most
    assert shown == visible(shown, most)
    assert shown.isprintable()


def test_slices_keep_their_places(tmp_path):
    write_head(tmp_path)
    wanted = [Wanted(f"{n}.dcm", f"{UID}.1.{n + 1}") for n in (3, 0)]
    slices = read_slices(tmp_path, wanted)
    for one, place in zip(slices, (3, 0), strict=True):
        for keyword, value in geometry()[place].items():
            assert [float(each) for each in one.header[keyword].value] == value
        assert (one.frame, one.has_plane) == (None, True)
        assert str(one.header.PatientName) == PERSON["PatientName"]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SOPInstanceUID": f"{UID}.1.1"}, "share a SOPInstanceUID"),
        ({"StudyInstanceUID": "ID_1"}, "StudyInstanceUID is no valid UID"),
        ({"SeriesInstanceUID": "1.02"}, "SeriesInstanceUID is no valid UID"),
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID is no valid UID"),
        ({"PatientID": "other"}, "differ in PatientID"),
    ],
)
def test_slices_that_no_result_can_refer_to_are_undeliverable(tmp_path, tags, reason):
    write_head(tmp_path)
    dataset = pydicom.dcmread(tmp_path / "1.dcm")
    for keyword, value in tags.items():
        with pydicom.config.disable_value_validation():
            dataset.__delattr__(keyword) if value is None else setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "1.dcm", enforce_file_format=False)
    with pytest.raises(Undeliverable, match=reason):
        read_slices(tmp_path, [Wanted("0.dcm", "a"), Wanted("1.dcm", "b")])


def test_a_file_that_is_gone_is_no_fault_of_the_program(tmp_path):
    with pytest.raises(Undeliverable, match="can't be read again"):
        read_slices(tmp_path, [Wanted("0.dcm", "a")])
