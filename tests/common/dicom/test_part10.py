"""Files that are scanned have the elements that pydicom reads from them."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom.data
import pytest

from common.dicom import RejectedFile, part10
from common.dicom.part10 import open_dicom

LARGEST = 600_000


def described(data: bytes) -> str:
    """Return all that an opened file holds, elements as they were read, or why it was rejected."""
    try:
        with open_dicom(io.BytesIO(data)) as opened:
            held, tags = opened.dataset, list(opened.dataset.keys())
            values = [(type(tag), held.get_item(tag)) for tag in tags]
            coded = held.original_encoding, held.original_character_set
            pixels = None if opened.pixels is None else opened.read_pixels()
            of_file = opened.transfer_syntax, opened.media_class, opened.note, opened.pixels, pixels
            return repr((of_file, values, coded, [held.get(tag) for tag in tags]))
    except RejectedFile as rejected:
        return repr((rejected.status, rejected.reason))


@pytest.fixture
def is_scanned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Compare a file as scanned and as pydicom reads it; return whether it could be scanned."""
    scanned = part10._scanned

    def compare(data: bytes) -> bool:
        results = []
        monkeypatch.setattr(
            part10, "_scanned", lambda *a: results.append(scanned(*a)) or results[0]
        )
        one = described(data)
        monkeypatch.setattr(part10, "_scanned", lambda *a: None)
        assert one == described(data)
        return any(results)

    yield compare


def files_of(*folders: Path) -> list[bytes]:
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.read_bytes() for path in paths if path.stat().st_size < LARGEST]


def test_scanned_elements_are_those_of_pydicom(is_scanned: Any, test_data: Path) -> None:
    of_head = [is_scanned(data) for data in files_of(test_data / "ge_head")]
    assert of_head and all(of_head)
    files = files_of(Path(pydicom.data.__file__).parent, test_data / "odd_dicom")
    counts = of_head + [is_scanned(data) for data in files]
    assert counts.count(True) > 50 and counts.count(False) > 50


def test_damaged_elements_are_read_as_pydicom_reads_them(is_scanned: Any, test_data: Path) -> None:
    rng = random.Random(0)
    files = files_of(test_data / "odd_dicom", test_data / "ge_head")
    counts = []
    for _ in range(300):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(min(len(data), 6000))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(1, min(len(data), 8000)) :]
        counts.append(is_scanned(bytes(data)))
    assert counts.count(True) > 30 and counts.count(False) > 30
