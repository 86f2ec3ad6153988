"""What a slice shows, by its header: each rule with what it is for, and what it is not for."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import _item, ct_dataset, write_ct, write_dataset, write_enhanced_ct
from pydicom.dataset import Dataset

from common.dicom import STATUSES, read_headers
from common.dicom.rejection import NOT_WANTED
from common.dicom.selection import why_left_out

PIXELS = np.zeros((4, 4), np.uint16)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def status(**tags: object) -> str:
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    found = why_left_out(dataset, 0, None)
    assert found is None or (found[0] in STATUSES and found[0] in NOT_WANTED and found[1])
    return found[0] if found else "ok"


def turned(degrees: float) -> tuple[float, ...]:
    angle = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))


def test_nothing_is_left_out_for_what_is_absent() -> None:
    assert why_left_out(Dataset(), 0, None) is None
    empty = ("SeriesDescription", "BodyPartExamined", "ContrastBolusAgent", "ImageType")
    assert status(**dict.fromkeys(empty, "")) == "ok"


@pytest.mark.parametrize(
    ("orientation", "words"),
    [
        (CORONAL, "a coronal slice, 90 degrees from axial"),
        (SAGITTAL, "a sagittal slice, 90 degrees from axial"),
        (turned(50), "an oblique slice, 50 degrees from axial"),
        (turned(80), "a coronal slice, 80 degrees from axial"),
        (turned(44), None),
        (turned(-30), None),
        ((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), None),
    ],
)
def test_planes_are_told_by_the_orientation(
    orientation: tuple[float, ...], words: str | None
) -> None:
    found = why_left_out(Dataset(), 0, orientation)
    assert found == (None if words is None else ("not_axial", words))


@pytest.mark.parametrize(
    ("image_type", "expected"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], "ok"),
        (["DERIVED", "SECONDARY", "MPR"], "ok"),
        (["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MPR"], "ok"),
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"], "derived"),
        (["DERIVED", "SECONDARY", "OTHER", "CT_SOM7 VRT"], "derived"),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"], "ok"),
        (["ORIGINAL", "PRIMARY", "OTHER", "CT_SOM5 TOP"], "localizer"),
        (["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"], "not_ct"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "not_ct"),
        (["DERIVED", "SECONDARY", "MIP"], "derived"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE"], "derived"),
        (["DERIVED", "PRIMARY", "PERFUSION", "RCBF"], "derived"),
        (["DERIVED", "SECONDARY", "AXIAL", "VRT"], "derived"),
        (["derived", "secondary", "subtraction"], "derived"),
    ],
)
def test_images_that_no_scanner_measured(image_type: list[str], expected: str) -> None:
    assert status(ImageType=image_type) == expected


# Names that consoles and sites give to series; CQ500's and those of the test data among them.
@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("CT Plain", "ok"),
        ("5/5mm Plain", "ok"),
        ("CT Thin Plain", "ok"),
        ("CT PRE CONTRAST 5MM STD", "ok"),
        ("CT BONE", "ok"),
        ("CT I To S", "ok"),
        ("Routine Brain", "ok"),
        ("HEAD W/O 5.0 J40s", "ok"),
        ("Head wo contrast", "ok"),
        ("BRAIN NON-CONTRAST", "ok"),
        ("NCCT Head", "ok"),
        ("Kopf nativ", "ok"),
        ("Schaedel ohne KM", "ok"),
        ("CRANE SANS INJECTION", "ok"),
        ("Head C-", "ok"),
        ("W/WO CONTRAST", "contrast"),
        ("CT POST CONTRAST", "contrast"),
        ("CT 55mm Contrast", "contrast"),
        ("CT 4cc sec 150cc D3D on", "contrast"),
        ("Head C+", "contrast"),
        ("HEAD W/C", "contrast"),
        ("Kopf KM", "contrast"),
        ("CTA HEAD", "contrast"),
        ("CT ANGIO", "contrast"),
        ("CT Angiography 0.6", "contrast"),
        ("Head_Venous", "contrast"),
        ("SmartPrep Series", "contrast"),
        ("CTP Perfusion 5.0", "contrast"),
        ("Scout", "localizer"),
        ("Topogram 0.6 T80s", "localizer"),
        ("SURVIEW", "localizer"),
        ("HELICAL CHEST", "not_head"),
        ("C-SPINE BONE", "not_head"),
        ("Pancreas", "not_head"),
        ("NECK 3MM", "not_head"),
        ("HEAD AND NECK", "ok"),
        ("NICE SERIES", "ok"),
        ("HANDLED BY KMART", "ok"),
    ],
)
def test_what_series_descriptions_say(description: str, expected: str) -> None:
    assert status(SeriesDescription=description) == expected


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("ISOVUE300/100", "contrast"),
        ("CE", "contrast"),
        ("APPLIED", "contrast"),
        ("IV", "contrast"),
        ("ORAL & IV", "contrast"),
        ("", "ok"),
        ("NONE", "ok"),
        ("No", "ok"),
        ("n/a", "ok"),
        ("0", "ok"),
        ("W/O", "ok"),
        ("WITHOUT CONTRAST", "ok"),
        ("ORAL", "ok"),
    ],
)
def test_what_is_written_as_contrast_agent(agent: str, expected: str) -> None:
    assert status(ContrastBolusAgent=agent) == expected


def test_the_description_of_a_series_outweighs_the_agent_of_the_examination() -> None:
    assert status(ContrastBolusAgent="OMNIPAQUE", SeriesDescription="HEAD WITHOUT") == "ok"
    assert status(ContrastBolusAgent="OMNIPAQUE", SeriesDescription="HEAD W/WO") == "contrast"
    assert status(ContrastBolusAgent="OMNIPAQUE", SeriesDescription="HEAD 5MM") == "contrast"
    assert status(StudyDescription="CT HEAD WITH CONTRAST", SeriesDescription="HEAD 5MM") == "ok"


def test_a_part_of_the_body_is_named_by_the_series_first() -> None:
    assert status(BodyPartExamined="CHEST") == "not_head"
    assert status(BodyPartExamined="CHEST", SeriesDescription="HEAD 5MM") == "ok"
    assert status(BodyPartExamined="CHEST", ProtocolName="1.1 Routine Brain") == "ok"
    assert status(BodyPartExamined="CHEST", StudyDescription="CT HEAD/CHEST") == "ok"
    assert status(BodyPartExamined="HEAD", SeriesDescription="C SPINE BONE") == "not_head"
    assert status(BodyPartExamined="HEAD", StudyDescription="CT CHEST") == "ok"
    assert status(StudyDescription="CT CHEST") == "not_head"
    assert status(ProtocolName="COLLO CRANIO TOTBODY", BodyPartExamined="TOTAL B") == "ok"
    assert status(BodyPartExamined="XYZ") == "ok"


def test_reasons_quote_nothing_that_a_site_wrote(tmp_path: Path) -> None:
    tags = {"SeriesDescription": "CHEST of Doe^Jane", "ContrastBolusAgent": "Doe Jane"}
    (header,) = read_headers(write_ct(tmp_path / "a.dcm", PIXELS, **tags), sort_out=True)
    assert header.left_out == "not_head"
    assert "Doe" not in header.left_out_reason and "DOE" not in header.left_out_reason
    (plain,) = read_headers(tmp_path / "a.dcm")
    assert (plain.left_out, plain.left_out_reason) == ("", "")


def test_frames_of_one_file_are_sorted_out_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "m.dcm"
    positions = [(0.0, 0.0, 5.0 * k) for k in range(4)]
    write_enhanced_ct(path, np.zeros((4, 4, 4), np.uint16), positions)
    dataset = pydicom.dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[0].PlaneOrientationSequence = [_item(ImageOrientationPatient=list(SAGITTAL))]
    frames[1].CTImageFrameTypeSequence = [_item(FrameType=["DERIVED", "PRIMARY", "MIP", "NONE"])]
    dataset.ContrastBolusAgentSequence = [_item(CodeValue="1")]
    for number, given in ((2, "NO"), (3, "YES")):
        usage = _item(ContrastBolusAgentAdministered=given)
        frames[number].ContrastBolusUsageSequence = [usage]
    write_dataset(path, dataset)
    found = [header.left_out for header in read_headers(path, sort_out=True)]
    assert found == ["not_axial", "derived", "", "contrast"]


def test_frames_without_positions_of_their_own_have_none(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.dcm", ct_dataset(np.zeros((3, 4, 4), np.uint16)))
    assert [header.position for header in read_headers(tmp_path / "a.dcm")] == [None] * 3


def test_the_real_head_is_one(test_data: Path) -> None:
    for path in (test_data / "ge_head").rglob("*.dcm"):
        assert [header.left_out for header in read_headers(path, sort_out=True)] == [""]


@pytest.mark.parametrize(
    "description, expected",
    [
        ("Head MIP 10 mm", "derived"),
        ("VRT Schaedel", "derived"),
        ("Iodine Overlay Head", "derived"),
        ("TTP head", "derived"),
        ("Bone subtraction", "derived"),
        ("Head MPR", "ok"),
        ("HEAD AMIPAQUE NO", "ok"),
        ("Schaedel MITTELS H31s", "ok"),
        ("Hlava s k.l.", "contrast"),
        ("Hlava bez k.l.", "ok"),
    ],
)
def test_what_descriptions_say_of_maps_and_projections(description: str, expected: str) -> None:
    assert status(SeriesDescription=description) == expected
