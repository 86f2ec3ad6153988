"""The short way through well-formed files gives what pydicom gives, element by element."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import write_ct, write_enhanced_ct, write_rsna
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from common.dicom import elements, part10, quiet_pydicom
from common.dicom.plain import HEAD_BYTES, read_plain

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)


def both_ways(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[part10.OpenFile, part10.OpenFile]:
    """Returns what the short way gives, and what pydicom alone does."""
    with part10.open_dicom(path) as opened:
        short = opened
    with monkeypatch.context() as patch:
        patch.setattr(part10, "read_plain", lambda head, start: None)
        with part10.open_dicom(path) as opened:
            full = opened
    return short, full


def compare(short: part10.OpenFile, full: part10.OpenFile) -> None:
    assert short.transfer_syntax == full.transfer_syntax
    assert short.pixels == full.pixels
    assert short.dataset.keys() == full.dataset.keys()
    for tag in list(full.dataset.keys()):
        assert short.dataset.get_item(tag) == full.dataset.get_item(tag)
    assert short.dataset.original_encoding == full.dataset.original_encoding
    assert short.dataset.original_character_set == full.dataset.original_character_set
    assert short.dataset == full.dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_plain_files_take_the_short_way(
    syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_pydicom()
    path = write_ct(tmp_path / "a.dcm", PIXELS, transfer_syntax=syntax, PatientName="A^B")
    found = read_plain(path.read_bytes()[132 : 132 + HEAD_BYTES], 132)
    assert found is not None
    assert found.transfer_syntax == syntax
    compare(*both_ways(path, monkeypatch))
    path = write_rsna(tmp_path / "b.dcm", PIXELS.astype(np.int16), "ID_1", PixelPaddingValue=-2000)
    compare(*both_ways(path, monkeypatch))


def test_what_is_unusual_is_left_to_pydicom(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "a.dcm", PIXELS[None], [(0, 0, 0)])
    whole = write_ct(tmp_path / "b.dcm", PIXELS).read_bytes()
    heads = [whole[132 : 132 + size] for size in (0, 3, 40, 200, 300)]
    heads += [whole[132:].replace(b"CS", b"C\0"), bytes(1000), b"\xff" * 1000]
    assert all(read_plain(head, 132) is None for head in heads)
    assert path.exists()


def test_files_of_pydicom_and_odd_files_are_read_the_same(
    test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_pydicom()
    own = Path(str(get_testdata_file("CT_small.dcm"))).parent
    num_compared = 0
    folders = (own, test_data / "odd_dicom", test_data / "ge_head")
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if not path.is_file() or path.stat().st_size > 3_000_000:
            continue
        try:
            short, full = both_ways(path, monkeypatch)
        except part10.RejectedFile:
            continue
        compare(short, full)
        num_compared += 1
    assert num_compared > 100


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
            assert elements._values(plain) == elements._values(dataset[tag].value), (path.name, tag)
            num_compared += 1
    assert num_compared > 1000
