"""Values of elements taken without pydicom's conversion are those that it gives."""

import io
from pathlib import Path

import pydicom
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
