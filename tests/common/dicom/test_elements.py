"""Values of elements taken without pydicom's conversion are those that it gives."""

import io
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from common.dicom import elements, quiet_pydicom


def test_plain_values_are_those_of_pydicom(test_data: Path) -> None:
    quiet_pydicom()
    own = Path(str(get_testdata_file("CT_small.dcm"))).parent
    compared: Counter[str] = Counter()
    for path in sorted(
        path for folder in (own, test_data / "odd_dicom") for path in folder.glob("*")
    ):
        try:
            dataset = pydicom.dcmread(io.BytesIO(path.read_bytes()[: 1 << 20]), force=True)
        except Exception:
            continue
        for tag in list(dataset.keys()):
            raw = dataset.get_item(tag)
            if not isinstance(raw, elements.RawDataElement):
                continue
            try:
                plain = elements._plain_values(raw)
            except KeyError:
                continue
            if plain is None:
                continue
            expected = tuple(elements._values(dataset[tag].value))
            assert elements._values(plain) == expected, (path.name, tag)
            compared[raw.VR or elements._vr(raw.tag)] += 1
    assert min(compared[vr] for vr in ("US", "SS", "LO", "SH", "CS", "UI", "DS", "IS")) > 10


@pytest.mark.parametrize("value", [b"caf\xe9", b"\x1b$B8!::"])
def test_text_in_another_character_set_is_left_to_pydicom(value: bytes) -> None:
    raw = elements.RawDataElement(pydicom.tag.Tag(0x00081030), "LO", len(value), value, 0, 0, True)
    assert elements._plain_values(raw) is None


@pytest.mark.parametrize(
    ("acquired", "whole", "expected"),
    [
        ("103015.5", "20260102110000", 37815.5),
        ("10:30:15", "", 37815.0),  # as ACR-NEMA wrote it
        ("", "20260102110203.25", 39723.25),
        ("1030", "", None),
    ],
)
def test_the_first_time_counts_in_seconds_of_the_day(
    acquired: str, whole: str, expected: float | None
) -> None:
    dataset = pydicom.Dataset()
    dataset.AcquisitionTime, dataset.AcquisitionDateTime = acquired, whole
    keywords = ("AcquisitionTime", "AcquisitionDateTime", "ContentTime")
    assert elements.seconds(dataset, keywords) == expected


def groups(spacing: list[float]) -> pydicom.Sequence:
    item, measures = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = spacing
    item.PixelMeasuresSequence = [measures]
    return pydicom.Sequence([item])


def test_a_frame_has_its_own_value_or_the_shared_one_or_that_of_the_file() -> None:
    dataset = pydicom.Dataset()
    dataset.PixelSpacing = [1.0, 1.0]
    assert elements.numbers(dataset, "PixelSpacing", 2) == (1.0, 1.0)
    dataset.SharedFunctionalGroupsSequence = groups([2.0, 2.0])
    assert elements.numbers(dataset, "PixelSpacing", 2) == (2.0, 2.0)
    dataset.PerFrameFunctionalGroupsSequence = groups([3.0, 3.0])
    assert elements.numbers(dataset, "PixelSpacing", 2) == (3.0, 3.0)
    del dataset.SharedFunctionalGroupsSequence
    assert elements.numbers(dataset, "PixelSpacing", 2) == (3.0, 3.0)
