"""A folder of DICOM in, result objects out: valid, the same again, and without the patient."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from delivered import (
    PERSON,
    SIZE,
    START,
    TYPE_2,
    blob_maps,
    conformance_errors,
    contents,
    make_deliverer,
    objects_in,
    seeded_network,
    write_enhanced_head,
    write_head,
    write_predictor,
)
from dicom_factory import write_rsna

import rsna.delivery
from common.delivery.reports import percent_text
from common.errors import InputError
from common.scoring.predictions import Calibration
from common.scoring.study_calibration import StudyCalibration
from rsna.predictor import Predictor
from rsna_task import LABELS

COMMENTS = ("notice", "model", "weights", "calibration", "operating point", "slices")
POINTS = {
    "rule": {"kind": "fixed", "value": 0.5, "prevalence": None},
    "thresholds": {"any": 0.0, "subdural": 1.0},
    "fitted_on": None,
}


@pytest.fixture(scope="module", autouse=True)
def known_maps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsna.delivery, "heat_maps", blob_maps)
        yield


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Path:
    return write_predictor(tmp_path_factory.mktemp("predictor") / "net")


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return write_head(tmp_path_factory.mktemp("head"))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory, predictor, head) -> Path:
    """The folder of the one study, with all kinds of objects."""
    output = tmp_path_factory.mktemp("delivered")
    (one,) = make_deliverer(predictor, dl_heat_map="pm").deliver(head, output, START)
    assert one.status == "delivered", one.reason
    return one.folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory, predictor, head) -> Path:
    """The folder of the same study, without images."""
    return deliver_one(
        head, predictor, tmp_path_factory.mktemp("reports"), dl_heat_map="none"
    ).folder


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, predictor, head):
    """What predict.py finds in the same study."""
    found = make_deliverer(predictor).predictor
    return found.predict_folder(head, tmp_path_factory.mktemp("predicted"))


def deliver_one(source: Path, predictor: Path, output: Path, **flags):
    (one,) = make_deliverer(predictor, **flags).deliver(source, output, START)
    return one


def texts_of(dataset: pydicom.Dataset, without: frozenset[str] = frozenset()) -> list[str]:
    """All values of an object as text, but for elements of its patient and study."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            found += [text for item in element.value for text in texts_of(item)]
        elif element.keyword not in without and element.VR not in ("OB", "OW", "OF"):
            found.append(str(element.value))
    return found


def test_a_study_has_its_set_of_objects(delivered):
    objects = objects_in(delivered)
    maps = [f"heat_map_{n}" for n in range(1, 6)]
    assert list(objects) == [*maps, "key_images", "measurements", "parametric_map", "report"]
    classes = {one.SOPClassUID.name for one in objects.values()}
    assert classes == {
        "Comprehensive 3D SR Storage",
        "Enhanced SR Storage",
        "Key Object Selection Document Storage",
        "Secondary Capture Image Storage",
        "Parametric Map Storage",
    }
    assert len({one.SOPInstanceUID for one in objects.values()}) == len(objects)
    assert len({one.SeriesInstanceUID for one in objects.values()}) == len(classes)
    assert {one.SOPInstanceUID.is_valid for one in objects.values()} == {True}
    record = json.loads((delivered / "result.json").read_text())
    assert sorted(each["file"] for each in record["objects"]) == sorted(
        f"{name}.dcm" for name in objects
    )


@pytest.mark.parametrize(
    "name", ["measurements", "report", "key_images", "heat_map_1", "parametric_map"]
)
def test_each_object_conforms_and_belongs_to_the_patient(delivered, name):
    assert conformance_errors(delivered / f"{name}.dcm") == set()
    made = pydicom.dcmread(delivered / f"{name}.dcm")
    for keyword in set(PERSON) - {"Manufacturer"}:
        assert str(made[keyword].value) == PERSON[keyword]


def test_each_object_says_what_it_is(delivered, predictor):
    weights = subprocess.run(
        ["sha256sum", predictor / "model.pt"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    for made in objects_in(delivered).values():
        assert made.SeriesDescription.startswith("RESEARCH ONLY")
        said = " ".join(texts_of(made))
        for text in ("not for diagnosis", "nverified", "test_resnet", weights, "Calibration: none"):
            assert text in said, text
        assert "Operating point: none" in said
    for name in ("measurements", "report"):
        made = pydicom.dcmread(delivered / f"{name}.dcm")
        flags = (made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag)
        assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
        assert not re.search(r"\b(Present|Absent|called)\b", " ".join(texts_of(made))[: 10**6]) or (
            "nothing is called present or absent" in " ".join(texts_of(made))
        )


def test_visible_text_names_no_patient(delivered):
    identifying = [*PERSON.values(), "Wolf", "Änne", "1951", "2024"]
    identifying.remove("F")
    identifying.remove("Maker")
    record = (delivered / "result.json").read_text()
    study = "1.2.826.0.1.3680043.8.498.1"
    assert not [text for text in (*identifying, study) if text in record]
    for made in objects_in(delivered).values():
        own = frozenset((*PERSON, "StudyInstanceUID", "FrameOfReferenceUID"))
        said = [text for text in texts_of(made, own) if not re.fullmatch(r"[\d.]+", text)]
        assert not [text for text in identifying if text in " ".join(said)]


def test_probabilities_are_those_of_the_study(delivered, predicted):
    again = predicted.studies.iloc[0]
    record = json.loads((delivered / "result.json").read_text())
    assert record["probabilities"] == {name: again[name] for name in LABELS}
    dsrdump = shutil.which("dsrdump")
    if dsrdump is None:
        pytest.skip("dsrdump is not installed: apt-get install dcmtk")
    shown = subprocess.run(
        [dsrdump, str(delivered / "measurements.dcm")], capture_output=True, text=True, check=True
    ).stdout
    values = re.findall(r'NUM:\(,,"Certainty of Finding"\)="([\d.]+)" \(%', shown)
    np.testing.assert_allclose(
        np.array(values, dtype=float) / 100, [again[name] for name in LABELS], rtol=0, atol=5e-7
    )


def test_each_finding_names_the_slice_that_shows_it_best(delivered, predicted):
    found = predicted.predictions
    best = [found["image_id"][found[name].idxmax()] for name in LABELS]
    assert len(set(best)) > 1
    report = pydicom.dcmread(delivered / "measurements.dcm")
    named = [
        [
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for item in group.ContentSequence
            if item.ValueType == "IMAGE"
        ]
        for group in groups_of(report)
    ]
    assert named == [[name] for name in best]


def test_the_caption_of_an_image_is_its_place_and_probability(
    monkeypatch, predictor, predicted, head, tmp_path
):
    captions = {}

    def kept(result, images_hu, maps, lines, description):
        uids = [one.header.SOPInstanceUID for one in result.key_slices]
        captions.update(zip(uids, lines, strict=True))
        return []

    monkeypatch.setattr(rsna.delivery, "secondary_captures", kept)
    deliver_one(head, predictor, tmp_path)
    planes = sorted(
        map(pydicom.dcmread, head.glob("*.dcm")), key=lambda p: p.ImagePositionPatient[2]
    )
    any_of = predicted.predictions.set_index("image_id")["any"]
    expected = {
        plane.SOPInstanceUID: f"Slice {place} of {len(planes)} from below: any hemorrhage "
        + percent_text(any_of[plane.SOPInstanceUID])
        for place, plane in enumerate(planes, start=1)
    }
    assert captions and captions.items() <= expected.items()


def groups_of(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The measurement groups of a report."""
    if (item.get("ConceptNameCodeSequence") or [item])[0].get("CodeValue") == "125007":
        return [item]
    return [group for each in item.get("ContentSequence", []) for group in groups_of(each)]


def test_images_lie_where_their_sources_do(delivered, head):
    planes = {
        pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in head.glob("*.dcm")
    }
    objects = objects_in(delivered)
    for name, made in objects.items():
        if name.startswith("heat_map"):
            source = planes[made.SourceImageSequence[0].ReferencedSOPInstanceUID]
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
                assert list(made[keyword].value) == list(source[keyword].value)
            assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
            assert made.PatientOrientation == ["L", "P"]
    made = objects["parametric_map"]
    assert len(made.PerFrameFunctionalGroupsSequence) == len(planes)
    shared = made.SharedFunctionalGroupsSequence[0]
    for group in made.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        source = planes[reference.ReferencedSOPInstanceUID]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(source.ImagePositionPatient)
        assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == list(
            source.ImageOrientationPatient
        )


def test_a_map_keeps_its_values_and_an_overlay_its_blob(delivered):
    objects = objects_in(delivered)
    values = np.frombuffer(objects["parametric_map"].FloatPixelData, np.float32)
    record = json.loads((delivered / "result.json").read_text())
    assert 0 < values.max() <= record["probabilities"]["any"] + 1e-6
    rgb = objects["heat_map_3"].pixel_array[:96].astype(int)
    colored = np.abs(rgb[..., 0] - rgb[..., 2]) > 25
    rows, columns = np.nonzero(colored)
    assert abs(rows.mean() - 0.4 * 96) < 3
    assert abs(columns.mean() - 0.6 * 96) < 3
    text = objects["heat_map_3"].pixel_array[96:]
    assert text.max() > 200
    assert text.shape[0] > 30


def test_the_same_time_gives_the_same_bytes_and_another_the_same_uids(
    delivered, predictor, head, tmp_path
):
    one = deliver_one(head, predictor, tmp_path / "again", dl_heat_map="pm")
    assert one.folder.name == delivered.name
    assert contents(one.folder) == contents(delivered)
    later = make_deliverer(predictor, dl_heat_map="pm")
    (other,) = later.deliver(head, tmp_path / "later", START + timedelta(days=1, seconds=1))
    for name, made in objects_in(other.folder).items():
        before = pydicom.dcmread(delivered / f"{name}.dcm")
        assert made.SOPInstanceUID == before.SOPInstanceUID
        assert made.SeriesInstanceUID == before.SeriesInstanceUID
        assert made.InstanceCreationDate == "20260102"


@pytest.mark.parametrize(
    "what", ["weights", "threshold", "calibration", "study calibration", "heat map", "root"]
)
def test_what_objects_depend_on_changes_their_uids(delivered, reports, head, tmp_path, what):
    changes, flags, known = {}, {"dl_heat_map": "none"}, reports
    if what == "weights":
        changes, flags, known = {"network": seeded_network(1)}, {"dl_heat_map": "pm"}, delivered
    elif what == "threshold":
        changes = {"operating_points": POINTS}
    elif what == "calibration":
        changes = {"calibration": Calibration((1.5,) * 6, (0.1,) * 6)}
    elif what == "study calibration":
        changes = {"study_calibration": StudyCalibration(((1.0, 0.0, 0.0),) * 6, (0.1,) * 6)}
    elif what == "heat map":
        flags, known = {"dl_heat_map": "sc"}, delivered
    else:
        flags["dl_uid_root"] = "1.2.826.0.1.3680043.8.498"
    one = deliver_one(head, write_predictor(tmp_path / "net", **changes), tmp_path / "out", **flags)
    before, now = objects_in(known), objects_in(one.folder)
    assert now
    for name, made in now.items():
        assert made.SOPInstanceUID != before[name].SOPInstanceUID
        assert made.SeriesInstanceUID != before[name].SeriesInstanceUID


def test_a_rule_is_reported_with_what_was_measured_of_it(head, tmp_path):
    rates = {
        "sensitivity": {"any": {"num_found": 19, "num_studies": 21}, "subdural": None},
        "specificity": {"any": {"num_found": 0, "num_studies": 9}},
    }
    rule = {"kind": "sensitivity", "value": 0.9, "prevalence": None}
    net = write_predictor(tmp_path / "net", operating_points={**POINTS, "rule": rule, **rates})
    one = deliver_one(head, net, tmp_path / "out", dl_heat_map="none")
    report = texts_of(objects_in(one.folder)["report"])
    assert "Sensitivity on the data that it was chosen on: any 19 of 21." in report
    assert "Specificity on the data that it was chosen on: any 0 of 9." in report


def test_an_operating_point_calls_and_none_calls_nothing(head, tmp_path):
    net = write_predictor(tmp_path / "net", operating_points=POINTS)
    one = deliver_one(head, net, tmp_path / "out", dl_heat_map="none")
    objects = objects_in(one.folder)
    assert list(objects) == ["key_images", "measurements", "report"]
    report = " ".join(texts_of(objects["report"]))
    assert "Operating point: fixed 0.5; thresholds: any 0, subdural 1." in report
    assert re.search(r"Any intracranial hemorrhage: probability [\d.]+ %, called present", report)
    assert re.search(r"Subdural hemorrhage: probability [\d.]+ %, called absent", report)
    assert "Epidural hemorrhage: probability" in report
    assert report.count("called") == 2
    assert "Sensitivity" not in report and "Specificity" not in report
    groups = objects["measurements"].ContentSequence[-1 - len(COMMENTS)].ContentSequence
    calls = {}
    for group in groups:
        items = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
        finding = items["121071"].ConceptCodeSequence[0].CodeValue
        if "121052" in items:
            calls[finding] = items["121052"].ConceptCodeSequence[0].CodeValue
    assert calls == {"1386000": "52101004", "35486000": "272519000"}
    assert conformance_errors(one.folder / "measurements.dcm") == set()


def test_a_study_of_one_slice_says_how_little_it_shows(head, reports, predictor, tmp_path):
    shutil.copytree(head, tmp_path / "in", ignore=lambda _, names: sorted(names)[1:])
    one = deliver_one(tmp_path / "in", predictor, tmp_path / "out", dl_heat_map="none")
    shown = []
    for folder in (one.folder, reports):
        texts = " ".join(texts_of(objects_in(folder)["report"]))
        shown.append(re.search(r"(\d+) slices? of .*? shows (\d+) mm of brain\.", texts).groups())
    assert shown[0] == ("1", "5"), "the usual spacing"
    assert shown[1][0] == "6" and 20 < int(shown[1][1]) < 60


def test_a_study_that_was_not_seen_whole_says_so_and_is_never_called_absent(tmp_path):
    source = write_head(tmp_path / "in")
    damaged = pydicom.dcmread(source / "2.dcm")
    damaged.PixelData = damaged.PixelData[:100]
    damaged.save_as(source / "2.dcm")
    net = write_predictor(tmp_path / "net", operating_points=POINTS)
    one = deliver_one(source, net, tmp_path / "out")
    record = json.loads((one.folder / "result.json").read_text())
    assert (one.status, record["study"]["status"], record["num_slices"]) == (
        "delivered", "partial", 5,
    )  # fmt: skip
    assert "1 slice can't be read" in one.missing
    assert one.line().endswith(f" (not the whole study: {one.missing})")
    assert record["decisions"] == {"call": 1, "call_subdural": None}
    objects = objects_in(one.folder)
    report = " ".join(texts_of(objects["report"]))
    shown = (
        r"5 slices of one volume\. The study shows \d+ mm of brain\. Not the whole study: 1 slice "
    )
    assert re.search(f"{shown}can't be read", report)
    assert "Nothing is called absent in a study that was not seen whole." in report
    assert report.count(", called present") == 1 and ", called absent" not in report
    for made in objects.values():
        assert str(damaged.SOPInstanceUID) not in texts_of(made)


def errors_of_all(folder: Path) -> dict[str, set[str]]:
    found = {path.stem: conformance_errors(path) for path in sorted(folder.glob("*.dcm"))}
    return {name: errors for name, errors in found.items() if errors}


def test_slices_without_positions_are_not_said_to_lie_below(predictor, tmp_path, monkeypatch):
    captions: list[str] = []
    drawn = rsna.delivery.secondary_captures

    def seen(result, images_hu, maps, texts, description):
        captions.extend(texts)
        return drawn(result, images_hu, maps, texts, description)

    monkeypatch.setattr(rsna.delivery, "secondary_captures", seen)
    source = write_head(tmp_path / "head")
    placed = deliver_one(source, predictor, tmp_path / "placed")
    assert all(" from below: " in text for text in captions)
    captions.clear()
    for path in source.rglob("*"):
        if path.is_file():
            header = pydicom.dcmread(path)
            del header.ImagePositionPatient
            header.save_as(path)
    one = deliver_one(source, predictor, tmp_path / "results")
    assert captions and not [text for text in captions if "below" in text]
    unknown = "Nothing tells which end of it is nearer the feet."
    said = [texts_of(pydicom.dcmread(each.folder / "report.dcm")) for each in (placed, one)]
    assert [unknown in " ".join(texts) for texts in said] == [False, True]


@pytest.mark.parametrize("lacking", [TYPE_2, ("PatientBirthDate",)], ids=["all", "one"])
def test_type_2_elements_that_the_source_lacks_are_completed(predictor, tmp_path, lacking):
    source = write_head(tmp_path / "in", **dict.fromkeys(lacking), InstanceNumber=None)
    one = deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    assert one.status == "delivered", one.reason
    assert errors_of_all(one.folder) == {}
    assert json.loads((one.folder / "result.json").read_text())["repaired"] == []


@pytest.mark.long
@pytest.mark.parametrize("lacking", [*TYPE_2, "SliceThickness", "InstanceNumber", "SOPClassUID"])
def test_each_element_can_be_lacking(predictor, tmp_path, lacking):
    source = write_head(tmp_path / "in", **{lacking: None})
    one = deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    assert one.status == "delivered", one.reason
    assert errors_of_all(one.folder) == {}


@pytest.mark.long
def test_real_ct_of_a_tilted_head_gives_objects_without_its_defects(predictor, test_data, tmp_path):
    source = test_data / "ge_head"
    assert conformance_errors(source / "01.dcm"), "it has defects"
    one = deliver_one(source, predictor, tmp_path, dl_heat_map="pm")
    assert errors_of_all(one.folder) == {}
    made = pydicom.dcmread(one.folder / "parametric_map.dcm")
    sources = {}
    for path in source.glob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        sources[header.SOPInstanceUID] = header
    for group in made.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        header = sources.pop(reference.ReferencedSOPInstanceUID)
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(header.ImagePositionPatient)
    assert not sources


HOSTILE = {
    "PatientName": "a^b^c^d^e^f^g=\x1b[31m\r\n<script>alert(1)</script>",
    "PatientID": "id\x00\x07\u202e\u2066" + 90 * "9",
    "PatientBirthDate": "1951-02-30",
    "PatientSex": "<b>",
    "StudyDate": "20241340",
    "StudyTime": "25:99",
    "StudyID": 40 * "s",
    "AccessionNumber": "a\\b\\" + 40 * "c",
    "ReferringPhysicianName": "\x1b]0;title\x07" + 200 * "r",
    "Manufacturer": "m\r\nmany lines" + 100 * "m",
    "StudyDescription": "<img src=x onerror=alert(1)>\x00" + 200 * "d",
    "SeriesDescription": "'; DROP TABLE studies; --\x1b[2J",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "",
    "SpecificCharacterSet": "ISO_IR 192",
}


def test_hostile_header_strings_are_bounded_and_cleaned(predictor, tmp_path):
    source = write_head(tmp_path / "in", **HOSTILE)
    one = deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    assert one.status == "delivered", one.reason
    assert errors_of_all(one.folder) == {}
    repaired = json.loads((one.folder / "result.json").read_text())["repaired"]
    assert set(repaired) == set(PERSON) - {"Manufacturer"}
    for made in objects_in(one.folder).values():
        texts = texts_of(made)
        assert not [text for text in texts if re.search(r"[\x00-\x1f\u202e\u2066]", text)]
        said = " ".join(texts_of(made, frozenset(PERSON)))
        assert not re.search(r"<script|onerror|DROP|title|many lines", said)
        # An id that is cut can be somebody else's.
        assert made.PatientID == made.AccessionNumber == made.StudyID == ""
        assert made.PatientBirthDate == made.StudyDate == made.PatientSex == ""
        assert len(made.ReferringPhysicianName) == 64


def test_frames_of_an_enhanced_file_are_named_one_by_one(predictor, delivered, tmp_path):
    source = write_enhanced_head(tmp_path / "in")
    one = deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    assert one.status == "delivered", one.reason
    assert errors_of_all(one.folder) == {}
    header = pydicom.dcmread(source / "head.dcm", stop_before_pixels=True)
    frames = header.PerFrameFunctionalGroupsSequence
    positions = [list(each.PlanePositionSequence[0].ImagePositionPatient) for each in frames]
    objects = objects_in(one.folder)
    seen = set()
    for group in objects["parametric_map"].PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
        position = list(group.PlanePositionSequence[0].ImagePositionPatient)
        assert position == positions[reference.ReferencedFrameNumber - 1]
        seen.add(reference.ReferencedFrameNumber)
    assert seen == set(range(1, 7))
    for name in (f"heat_map_{n}" for n in range(1, 6)):
        number = objects[name].SourceImageSequence[0].ReferencedFrameNumber
        assert list(objects[name].ImagePositionPatient) == positions[number - 1]
        of_files = pydicom.dcmread(delivered / f"{name}.dcm").pixel_array
        assert np.array_equal(objects[name].pixel_array[:SIZE], of_files[:SIZE])
    keys = [
        item.ReferencedSOPSequence[0].ReferencedFrameNumber
        for item in objects["key_images"].ContentSequence
        if item.ValueType == "IMAGE"
    ]
    pictured = [objects[f"heat_map_{n}"].SourceImageSequence[0] for n in range(1, 6)]
    assert keys == [each.ReferencedFrameNumber for each in pictured]


def test_each_study_of_a_folder_has_its_own_set(predictor, tmp_path):
    write_head(tmp_path / "in" / "a", 1)
    write_head(tmp_path / "in" / "b", 2, PatientID="other")
    write_head(tmp_path / "in" / "c", 3, BodyPartExamined="ABDOMEN", SeriesDescription="abdomen")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    found = make_deliverer(predictor).deliver(tmp_path / "in", tmp_path / "out", START)
    assert sorted(one.status for one in found) == ["delivered", "delivered", "unusable"]
    patients = set()
    for one in found:
        record = json.loads((one.folder / "result.json").read_text())
        assert record["status"] == one.status
        assert record["reason"] == one.reason
        objects = objects_in(one.folder)
        patients |= {str(made.PatientID) for made in objects.values()}
        if one.status == "unusable":
            assert "another part of the body" in one.reason
            assert not objects
            assert record["probabilities"] is None
    assert patients == {PERSON["PatientID"], "other"}
    assert len({one.folder for one in found}) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        one.folder.name for one in found
    )


def test_a_map_of_too_many_slices_is_left_out(monkeypatch, predictor, head, tmp_path):
    monkeypatch.setattr(rsna.delivery, "MOST_MAPPED", 5)
    one = deliver_one(head, predictor, tmp_path, dl_heat_map="pm")
    record = json.loads((one.folder / "result.json").read_text())
    assert record["left_out"] == {"parametric_map": "more than 5 slices"}
    assert "heat_map_1" in objects_in(one.folder)
    assert "parametric_map" not in objects_in(one.folder)


def test_a_head_in_two_series_is_one_volume_whose_files_are_all_named(predictor, tmp_path):
    source = write_head(tmp_path / "in")
    other = "1.2.826.0.1.3680043.8.498.1.7"
    for number in range(3, 6):
        dataset = pydicom.dcmread(source / f"{number}.dcm")
        dataset.SeriesInstanceUID = other
        dataset.save_as(source / f"{number}.dcm")
    one = deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    assert one.status == "delivered", one.reason
    assert errors_of_all(one.folder) == {}
    objects = objects_in(one.folder)
    named = {
        item.SeriesInstanceUID: len(item.ReferencedInstanceSequence)
        for item in objects["parametric_map"].ReferencedSeriesSequence
    }
    assert named == {"1.2.826.0.1.3680043.8.498.1.1": 3, other: 3}
    (study,) = objects["key_images"].CurrentRequestedProcedureEvidenceSequence
    assert {item.SeriesInstanceUID for item in study.ReferencedSeriesSequence} == set(named)


def test_results_are_of_the_volume_that_stands_for_the_study(predictor, tmp_path):
    alone = deliver_one(write_head(tmp_path / "in"), predictor, tmp_path / "a", dl_heat_map="none")
    other = write_head(tmp_path / "in" / "sharp", ConvolutionKernel="BONE")
    for number, path in enumerate(sorted(other.glob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID += ".7"
        dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{number}"
        dataset.PixelData = (dataset.pixel_array + 1).tobytes()
        dataset.save_as(path, enforce_file_format=False)
    one = deliver_one(tmp_path / "in", predictor, tmp_path / "b", dl_heat_map="none")
    assert one.status == "delivered", one.reason
    for name in ("report", "key_images"):
        assert objects_in(one.folder)[name] == objects_in(alone.folder)[name]


def test_an_archive_gives_what_its_folder_gives(predictor, head, delivered, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "scans"), "zip", head))
    one = deliver_one(archive, predictor, tmp_path / "out", dl_heat_map="pm")
    assert contents(one.folder) == contents(delivered)


def test_files_without_valid_uids_are_refused(predictor, head, tmp_path, monkeypatch):
    pixels = np.asarray(np.random.default_rng(0).normal(1060, 9, (64, 64)), dtype=np.int16)
    pixels[:8] = 0
    for n in range(3):
        place = [0.0, 0.0, 5.0 * n]
        write_rsna(tmp_path / "in" / f"{n}.dcm", pixels, f"ID_{n}", ImagePositionPatient=place)
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    (tmp_path / "in" / "cut.dcm").write_bytes((tmp_path / "in" / "0.dcm").read_bytes()[:200])
    reason = "SOPInstanceUID is no valid UID, as in files of RSNA 2019"
    with monkeypatch.context() as patch:
        patch.delattr(Predictor, "predict_folder")  # It is not asked.
        for source in (
            tmp_path / "in",
            Path(shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "in")),
        ):
            with pytest.raises(InputError, match=f"nothing to deliver: {reason}"):
                deliver_one(source, predictor, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copytree(head, tmp_path / "in" / "z")
    found = make_deliverer(predictor, dl_heat_map="none").deliver(
        tmp_path / "in", tmp_path / "out", START
    )
    assert sorted(one.status for one in found) == ["delivered", "refused"]
    (one,) = (one for one in found if one.status == "refused")
    assert one.reason.startswith(reason)
    assert [path.name for path in one.folder.iterdir()] == ["result.json"]


def test_folders_without_ct_are_not_refused_for_their_uids(predictor, tmp_path):
    pixels = np.zeros((64, 64), np.int16)
    write_rsna(tmp_path / "in" / "0.dcm", pixels, "ID_0", Modality="MR")
    one = deliver_one(tmp_path / "in", predictor, tmp_path / "out")
    assert one.status == "unusable"


def test_a_later_version_names_its_predecessor(predictor, tmp_path):
    source = write_head(tmp_path / "in")
    late = source / "5.dcm"
    late.rename(tmp_path / "late.dcm")
    deliverer = make_deliverer(predictor, dl_heat_map="none")
    (first,) = deliverer.deliver(source, tmp_path / "out", START)
    before = objects_in(first.folder)
    (tmp_path / "late.dcm").rename(late)
    earlier = {first.folder.name: first.documents}
    (second,) = deliverer.deliver(source, tmp_path / "out", START, earlier)
    assert second.folder == first.folder
    now = objects_in(second.folder)
    for kind in ("measurements", "report"):
        (study,) = now[kind].PredecessorDocumentsSequence
        assert study.StudyInstanceUID == now[kind].StudyInstanceUID
        named = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert named.ReferencedSOPInstanceUID == before[kind].SOPInstanceUID
        assert now[kind].SOPInstanceUID != before[kind].SOPInstanceUID
    assert errors_of_all(second.folder) == {}
    (alone,) = deliverer.deliver(source, tmp_path / "alone", START)
    for name, made in objects_in(alone.folder).items():
        assert made.SOPInstanceUID != now[name].SOPInstanceUID, "the same UID for another text"


def test_patients_never_reach_log_and_warnings(predictor, tmp_path, caplog, recwarn):
    source = write_head(tmp_path / "in", PatientName="Wolf")  # highdicom warns of one component
    with caplog.at_level("DEBUG"):
        deliver_one(source, predictor, tmp_path / "out", dl_heat_map="pm")
    said = caplog.text + " ".join(str(each.message) for each in recwarn)
    study = "1.2.826.0.1.3680043.8.498.1"
    assert not [text for text in ("Wolf", "mrn-4711", "19510203", study) if text in said]


def test_two_processes_do_not_deliver_into_one_folder(predictor, head, tmp_path):
    from common.delivery.writing import working_folder

    with working_folder(tmp_path), pytest.raises(InputError, match="another process"):
        deliver_one(head, predictor, tmp_path)
    assert list(tmp_path.iterdir()) == []
