"""Listing a tree entry by entry: what cannot be looked at costs itself only, and has a row."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared import prepare_dicom, write_series_files

from common.dicom.names import name_of, path_of
from common.preparation import DicomReader
from common.preparation.source import NOT_A_FILE, list_files
from common.slices.table import SliceTable

LATIN_1 = b"Sch\xe4del"


def reasons(files: pd.DataFrame) -> dict[str, str]:
    """The entries that cannot be read, with the reason of each."""
    refused = files[files["reason"].notna()]
    return dict(zip(refused["source_file"], refused["reason"]))


def latin_1(folder: Path, name: bytes = LATIN_1) -> Path:
    """A path whose name is not UTF-8."""
    return folder / os.fsdecode(name)


def test_files_are_listed_once_by_name(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z", "b/y", "b/c/x", "b/c/.hidden"):
        (tmp_path / name).write_text("1234")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    files = list_files(tmp_path, "test")
    assert files["source_file"].tolist() == ["b/c/.hidden", "b/c/x", "b/y", "z"]
    assert set(files["split"]) == {"test"}
    assert set(files["size"]) == {4}
    assert files["reason"].isna().all()
    below = list_files(tmp_path, "none", "b/c", lambda name: name == "x")
    assert below["source_file"].tolist() == ["b/c/x"]


def test_odd_entries_cost_themselves_only(tmp_path: Path) -> None:
    for name in ("a", "d/b", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "d" / "itself").symlink_to("itself")
    (tmp_path / "d" / "through_a_file").symlink_to("b/more")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    files = list_files(tmp_path)
    assert files.loc[files["reason"].isna(), "source_file"].tolist() == ["a", "d/b", "z"]
    assert reasons(files) == {
        "d/itself": os.strerror(errno.ELOOP),
        "d/through_a_file": os.strerror(errno.ENOTDIR),
        "dangling": os.strerror(errno.ENOENT),
        "pipe": NOT_A_FILE,
    }
    assert set(reasons(list_files(tmp_path, wanted=lambda name: name == "a"))) >= {"dangling"}


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_stale_mount_or_a_closed_folder_is_a_row(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1", "stale/1", "z/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    scandir = os.scandir

    def failing(path: str) -> object:
        if os.path.basename(path) == "stale":
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    files = list_files(tmp_path)
    assert files["source_file"].tolist() == ["a/1", "stale", "z/1"]
    assert reasons(files) == {"stale": f"the folder, or the rest of it: {os.strerror(number)}"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_entry_without_permission_is_a_row(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    (tmp_path / "in" / "closed").mkdir(mode=0)
    (tmp_path / "in" / "1.2.3.4-1.dcm").chmod(0)
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    status = frame.set_index("source_file")["status"]
    assert status[["closed", "1.2.3.4-1.dcm"]].tolist() == ["unreadable"] * 2


def test_what_cannot_be_read_is_a_row_of_the_dataset(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    (tmp_path / "in" / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "in" / "pipe.zip")
    for _ in range(2):
        prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
        assert (prepared.num_files, prepared.num_slices) == (6, 4)
        assert prepared.rejected == {"unreadable": 2}
        rows = frame.set_index("source_file")
        assert rows.loc["itself", "reason"] == os.strerror(errno.ELOOP)
        assert rows.loc["pipe.zip", "reason"] == NOT_A_FILE
    (tmp_path / "in" / "itself").unlink()
    shutil.copy(tmp_path / "in" / "1.2.3.4-1.dcm", tmp_path / "in" / "itself")
    prepared, _ = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.rejected == {"duplicate": 1, "unreadable": 1}


@given(st.binary(min_size=1, max_size=12) | st.text("\\x5cf8é\udce9", max_size=12).map(os.fsencode))
def test_every_name_is_valid_text_and_leads_back(data: bytes) -> None:
    path = os.fsdecode(data)
    name = name_of(path)
    name.encode("utf-8")
    assert os.fsencode(path_of(name)) == data
    try:
        plain = data.decode()
    except UnicodeDecodeError:
        return
    assert "\\x" in plain or name == plain


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    """As archives of Windows consoles leave them when unpacked on Linux."""
    image_hu = write_series_files(latin_1(tmp_path / "in"))
    for file in list(latin_1(tmp_path / "in").iterdir()):
        file.rename(latin_1(file.parent, b"\xff" + os.fsencode(file.name)))
    for _ in range(2):
        prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
        assert (prepared.num_slices, prepared.rejected) == (4, {})
        assert frame["source_file"][0] == r"Sch\xe4del/\xff1.2.3.4-4.dcm"
    table = SliceTable.load(tmp_path / "out")
    np.testing.assert_array_equal(table.image_hu(2), image_hu[2])


def test_archives_and_members_whose_names_are_not_utf8(tmp_path: Path) -> None:
    write_series_files(tmp_path / "files")
    (tmp_path / "in").mkdir()
    archive = latin_1(tmp_path / "in", LATIN_1 + b".ZIP")
    with zipfile.ZipFile(archive, "w") as file:
        for number, path in enumerate(sorted((tmp_path / "files").iterdir())):
            file.write(path, f"ä{number}.dcm")  # flagged as UTF-8
    data = archive.read_bytes()
    archive.write_bytes(data.replace("ä2".encode(), b"\xe4\xe42"))
    expected = [r"Sch\xe4del.ZIP!/" + name for name in ("ä0.dcm", "ä1.dcm", "ä3.dcm", "ΣΣ2.dcm")]
    for folder in (tmp_path / "in", archive):
        prepared, frame = prepare_dicom(folder, tmp_path / "out")
        assert (prepared.num_slices, prepared.rejected) == (4, {})
        assert sorted(frame["source_file"]) == expected
    assert DicomReader(tmp_path / "in").read_headers(expected[3])[0].rows == 16
