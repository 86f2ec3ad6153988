"""Images of results: text below, not over, the slice; maps that can't be placed are refused."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from delivered import SIZE, START, conformance_errors, geometry, write_head
from pydicom.sr.coding import Code

from common.delivery.author import Author, quiet_highdicom
from common.delivery.headers import Undeliverable, Wanted, read_slices
from common.delivery.identity import Identity
from common.delivery.pictures import parametric_map, secondary_captures, with_text
from common.delivery.reports import NUM_KEYS, Finding, StudyResult, key_places
from common.delivery.writing import write_objects
from common.windows import BRAIN, windowed

SHA256 = 64 * "a"


@pytest.fixture
def result(tmp_path) -> StudyResult:
    quiet_highdicom()
    write_head(tmp_path / "in")
    names = [f"{n}.dcm" for n in range(len(geometry()))]
    slices = read_slices(tmp_path / "in", [Wanted(name, "") for name in names])
    author = Author(
        "maker", "net", ("1",), SHA256, "1.2.3", "MARK", "A notice.", ("Fact.",), "HEAD"
    )
    code = Code("303653007", "SCT", "Computed tomography of head")
    return StudyResult(slices, [1], [], [], code, "bleeding", author, Identity(["a"]))


def maps(result: StudyResult) -> list[np.ndarray]:
    shares = np.linspace(0, 1, len(result.slices), dtype=np.float32)
    return [np.full((SIZE, SIZE), share) for share in shares]


def test_a_slice_without_heat_is_shown_as_it_is_above_the_text(result, tmp_path):
    image_hu = np.random.default_rng(0).integers(-1000, 1000, (SIZE, SIZE)).astype(np.int16)
    heat = np.zeros((SIZE, SIZE), np.float32)
    (picture,) = secondary_captures(result, [image_hu], [heat], ["Slice 2"], "made up")
    shown = picture.pixel_array
    for channel in range(3):
        np.testing.assert_array_equal(shown[:SIZE, :, channel], windowed(image_hu, *BRAIN))
    assert shown[SIZE:].max() == 255
    assert picture.BurnedInAnnotation == "NO"


def test_each_line_of_text_fits_the_width():
    words = 30 * "not for diagnosis "
    wide = with_text(np.zeros((10, 512, 3), np.uint8), [words])
    narrow = with_text(np.zeros((10, 128, 3), np.uint8), [words])
    assert narrow.shape[0] > wide.shape[0] > 10
    # Nothing is drawn past the last column: it would be cut off.
    assert not narrow[:, -2:].any()


@pytest.mark.parametrize("lacking", ["FrameOfReferenceUID", "PixelSpacing"])
def test_slices_of_no_frame_of_reference_have_pictures_and_no_map(result, tmp_path, lacking):
    def without(one):
        header = deepcopy(one.header)
        del header[lacking]
        return replace(one, header=header, has_plane=False)

    result = replace(result, slices=[without(one) for one in result.slices])
    with pytest.raises(Undeliverable, match="without a position"):
        parametric_map(result, maps(result))
    image_hu = np.zeros((SIZE, SIZE), np.int16)
    (picture,) = secondary_captures(result, [image_hu], [maps(result)[1]], ["Slice 2"], "made up")
    assert "ImagePositionPatient" not in picture
    write_objects(tmp_path, {"picture": picture}, START)
    assert conformance_errors(tmp_path / "picture.dcm") == set()


def test_two_slices_at_one_place_have_no_map(result):
    again = deepcopy(result.slices[0].header)
    again.SOPInstanceUID = "1.2.3.4"
    twice = replace(result, slices=[*result.slices, replace(result.slices[0], header=again)])
    with pytest.raises(Undeliverable, match="duplicates"):
        parametric_map(twice, maps(twice))


def test_one_slice_alone_has_a_map(result, tmp_path):
    alone = replace(result, slices=result.slices[:1])
    made = parametric_map(alone, [np.full((SIZE, SIZE), 0.25, np.float32)])
    write_objects(tmp_path, {"map": made}, START)
    assert conformance_errors(tmp_path / "map.dcm") == set()
    stored = pydicom.dcmread(tmp_path / "map.dcm")
    assert set(np.frombuffer(stored.FloatPixelData, np.float32)) == {np.float32(0.25)}
    (frame,) = stored.PerFrameFunctionalGroupsSequence
    (source,) = frame.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == result.slices[0].header.SOPInstanceUID


def test_key_slices_are_the_likeliest_and_not_of_one_place():
    positions_mm = 0.5 * np.arange(60)
    p = np.exp(-(((positions_mm - 12) / 10) ** 2))
    places = key_places(p, positions_mm)
    assert len(places) == NUM_KEYS
    assert places == sorted(places)
    assert 24 in places
    assert (np.diff(positions_mm[places]) >= 4).all()
    unknown = key_places(p, np.full(60, np.nan))
    assert unknown == sorted(np.argsort(-p, kind="stable")[:NUM_KEYS].tolist())
    assert key_places(p[:2], positions_mm[:2]) == [1]


@pytest.mark.parametrize(
    ("probability", "percent", "text"),
    [
        (0.5, 50.0, "50.00 %"),
        (0.123456789, 12.3457, "12.35 %"),
        (0.99996, 99.996, "over 99.99 %"),
        (0.00004, 0.004, "under 0.01 %"),
        (1 - 1e-12, 99.9999, "over 99.99 %"),
        (1e-12, 0.0001, "under 0.01 %"),
    ],
)
def test_a_probability_is_not_rounded_to_certainty(result, probability, percent, text):
    code = Code("1386000", "SCT", "Intracranial hemorrhage")
    finding = Finding("Blood", code, None, probability, None, result.slices[0])
    assert finding.percent == percent
    assert finding.sentence == f"Blood: probability {text}."


@pytest.mark.parametrize(
    ("orientation", "directions"),
    [
        ([1, 0, 0, 0, 0.95, -0.31], ["L", "P"]),
        ([-1, 0, 0, 0, -1, 0], ["R", "A"]),
        ([0, 1, 0, 0, 0, -1], ["P", "F"]),
        (None, None),
    ],
)
def test_a_picture_says_where_its_rows_lead_where_that_is_known(
    result, tmp_path, orientation, directions
):
    for one in result.slices:
        if orientation is None:
            del one.header.ImageOrientationPatient
        else:
            one.header.ImageOrientationPatient = orientation
    unplaced = [replace(one, has_plane=False) for one in result.slices]
    images_hu = [np.zeros((SIZE, SIZE))]
    (made,) = secondary_captures(replace(result, slices=unplaced), images_hu, images_hu, [""], "")
    assert made.PatientOrientation == directions
    write_objects(tmp_path, {"picture": made}, START)
    assert conformance_errors(tmp_path / "picture.dcm") == set()
