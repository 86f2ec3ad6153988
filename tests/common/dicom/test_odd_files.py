"""Every odd file is accounted for, with the status that a table written by hand expects."""

import csv
import fnmatch
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import SimpleITK

from common.dicom import STATUSES, RejectedFile, read_headers, read_hu
from common.dicom.rejection import NOT_WANTED

# Written by hand: each header was looked at with pydicom, gdcmdump or a hex dump, and what its
# pixels are with SimpleITK, before the reader was asked. Of several things that are wrong with a
# file the first counts, in the order: can it be opened, is it CT, has it pixels in a known syntax,
# are they gray, are size and bits possible, are all bytes there, is it a slice, has it ids and HU.
TABLE = Path(__file__).parents[2] / "saved" / "odd_statuses.csv"
MOST = 0.9
"""Part of the rows for pydicom whose files must be there: they differ between its versions."""
NUM_FILES = 150
NUM_OK = 22


class Row(NamedTuple):
    """One row of the table; `file` may be a pattern."""

    collection: str
    file: str
    status: str
    why: str


@pytest.fixture(scope="module")
def table() -> list[Row]:
    rows = [Row(**row) for row in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())]
    assert len(rows) >= 300
    return rows


@pytest.fixture(scope="module")
def odd_files(test_data: Path) -> dict[str, Path]:
    return {path.name: path for path in (test_data / "odd_dicom").rglob("*") if path.is_file()}


def files_of(folder: Path) -> dict[str, Path]:
    """The files below a folder by their relative name, without code."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def compare(files: dict[str, Path], rows: list[Row], present: float, known: float) -> None:
    """Compare statuses with the table; `present` and `known` are parts of rows and of files."""
    expected = {name: row for row in rows for name in fnmatch.filter(files, row.file)}
    found = {name: status_of(files[name]) for name in expected}
    assert found == {name: row.status for name, row in expected.items()}
    assert len({row.file for row in expected.values()}) >= present * len(rows)
    assert len(expected) >= known * len(files)
    for name in files.keys() - expected.keys():
        assert status_of(files[name]) in ("ok", *STATUSES)


def status_of(path: Path) -> str:
    try:
        read_hu(path)
    except RejectedFile as rejection:
        assert rejection.reason and "\n" not in rejection.reason
        return rejection.status
    return "ok"


def test_every_odd_file_has_the_status_written_by_hand(test_data: Path, table: list[Row]) -> None:
    rows = [row for row in table if row.collection == "odd_dicom"]
    assert len(rows) == NUM_FILES
    compare(files_of(test_data / "odd_dicom"), rows, present=1, known=1)


def test_every_file_of_pydicom_has_the_status_written_by_hand(table: list[Row]) -> None:
    rows = [row for row in table if row.collection == "pydicom"]
    folder = Path(pydicom.__file__).parent / "data"
    compare(files_of(folder), rows, present=MOST, known=MOST)


def test_every_status_of_single_files_occurs(table: list[Row]) -> None:
    # The others are made by tests of their own.
    elsewhere = {"unreadable", "no_id", *NOT_WANTED}
    elsewhere |= {"bad_archive", "nested_archive", "encrypted", "zip_bomb"}
    elsewhere |= {"ambiguous", "no_spacing", "implausible_hu"}
    assert {row.status for row in table} >= {"ok", *STATUSES} - elsewhere


def test_a_directory_of_files_is_called_one() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    with pytest.raises(RejectedFile, match="Media Storage Directory"):
        read_hu(folder / "DICOMDIR")


def test_every_file_is_accounted_for_without_a_warning(odd_files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = Counter(status_of(path) for path in odd_files.values())
    assert counts.total() == NUM_FILES
    assert counts["ok"] == NUM_OK
    assert set(counts) <= {"ok", *STATUSES}


def test_reasons_hold_no_patient_name_or_id(odd_files: dict[str, Path]) -> None:
    for path in odd_files.values():
        try:
            read_hu(path)
        except RejectedFile as rejection:
            for value in patient_values(path):
                assert value not in rejection.reason


def patient_values(path: Path) -> list[str]:
    """The patient's name and id in a file that pydicom can read, where long enough to tell."""
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:
        return []
    values = [str(dataset.get(keyword, "")) for keyword in ("PatientName", "PatientID")]
    return [value for value in values if len(value) >= 4]


def test_headers_and_pixels_agree_on_what_is_rejected_early(odd_files: dict[str, Path]) -> None:
    for path in odd_files.values():
        try:
            headers = read_headers(path)
        except RejectedFile as rejection:
            assert status_of(path) == rejection.status
            continue
        if status_of(path) == "ok":
            assert tuple(headers) == read_hu(path).headers


def test_hu_equal_an_independent_reader(odd_files: dict[str, Path]) -> None:
    compared = 0
    for path in odd_files.values():
        if status_of(path) == "ok":
            assert_equals_itk(path)
            compared += 1
    assert compared == NUM_OK


def assert_equals_itk(path: Path) -> None:
    """Fail where the HU of a file are not those that SimpleITK reads."""
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    reference = np.clip(np.rint(reference.astype(np.float64)), -1024, 31767)
    np.testing.assert_array_equal(read_hu(path).image_hu, reference, err_msg=path.name)


def test_one_slice_in_all_lossless_syntaxes_is_one_image(odd_files: dict[str, Path]) -> None:
    first = read_hu(odd_files["CTImage.dcm"])
    assert first.num_padding == 55772  # the corners outside the round field of view, raw -2000
    for name, path in odd_files.items():
        if name.startswith("CTImage.dcm_") and status_of(path) == "ok":
            error = np.abs(read_hu(path).image_hu.astype(int) - first.image_hu)
            lossy = {"1.2.840.10008.1.2.4.91": 8, "1.2.840.10008.1.2.4.81": 4}
            limit = next((e for uid, e in lossy.items() if uid in name), 0)
            assert error.max() <= limit or "4.50" in name, name  # 4.50: 8 bits, 32 HU steps


def test_hu_of_pydicom_s_files_equal_an_independent_reader(table: list[Row]) -> None:
    folder = Path(pydicom.__file__).parent / "data"
    names = [row.file for row in table if row.collection == "pydicom" and row.status == "ok"]
    paths = [folder / name for name in names if (folder / name).is_file()]
    assert len(paths) >= MOST * len(names)
    for path in paths:
        assert_equals_itk(path)


def test_pixels_without_headers_are_the_same(odd_files: dict[str, Path]) -> None:
    """Of every file that can be read whole."""
    num_same = 0
    for path in odd_files.values():
        try:
            whole = read_hu(path)
        except RejectedFile:
            continue
        bare = read_hu(path, with_headers=False)
        assert np.array_equal(bare.image_hu, whole.image_hu)
        assert np.array_equal(bare.counts, whole.counts)
        assert (bare.num_padding, bare.num_repaired, bare.note) == (
            whole.num_padding, whole.num_repaired, whole.note
        )  # fmt: skip
        assert whole.headers and not bare.headers
        num_same += 1
    assert num_same >= NUM_OK
