"""Values of elements taken without pydicom's conversion are those that it gives."""

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from common.dicom import elements, quiet_pydicom


def test_plain_values_are_those_of_pydicom(test_data: Path) -> None:
    quiet_pydicom()
    own = Path(str(get_testdata_file("CT_small.dcm"))).parent
    num_compared = 0
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
            num_compared += 1
    assert num_compared > 1000


@pytest.mark.parametrize(
    ("elements_of", "expected"),
    [
        ({"AcquisitionTime": "013005.5", "ContentTime": "02"}, 5405.5),
        ({"AcquisitionTime": "", "ContentTime": "100102"}, 36062),
        ({"AcquisitionTime": "none", "ContentTime": "100102"}, 36062),
        ({}, None),
    ],
)
def test_the_first_time_that_is_there_is_seconds_of_the_day(elements_of, expected) -> None:
    dataset = pydicom.Dataset()
    for keyword, value in elements_of.items():
        with pydicom.config.disable_value_validation():
            setattr(dataset, keyword, value)
    assert elements.seconds(dataset, ("AcquisitionTime", "ContentTime")) == expected
