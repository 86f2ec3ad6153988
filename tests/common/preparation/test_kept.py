"""What was stored and cannot be seen this time stays, until a flag says otherwise."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_ct
from prepared import contents, prepare_dicom, write_series_files

from common.dicom import RejectedFile
from common.preparation import DicomReader
from common.preparation.checks.check import check_dataset
from common.preparation.kept import UNSEEN
from common.slices.table import SliceTable
from rsna_task import SUBTYPES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `in` of three series, each in a folder, prepared as `out`."""
    for series in ("1.1", "1.2", "1.3"):
        write_series_files(tmp_path / "in" / series, series)
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    return tmp_path


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "slices.parquet")


def noted(frame: pd.DataFrame) -> list[str]:
    """The images of rows that were not seen; asserts that no other row has the note."""
    has_note = frame["reason"].eq(UNSEEN)
    assert frame.loc[~has_note, "reason"].isna().all()
    return frame.loc[has_note, "image_id"].tolist()


def assert_same_but_notes(frame: pd.DataFrame, before: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(frame.drop(columns="reason"), before.drop(columns="reason"))


def test_a_folder_that_is_not_there_keeps_its_volume(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, store = table(folder), contents(folder / "out" / "store")
    shutil.move(folder / "in" / "1.2", folder / "away")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepared, frame = prepare_dicom(folder / "in", folder / "out")
        assert "4 slices of 1 volume not seen this time: kept as stored" in caplog.text
        assert prepared.notes == {UNSEEN: 4}
        assert_same_but_notes(frame, before)
        assert noted(frame) == [f"1.2.{k}" for k in range(4)]
        assert contents(folder / "out" / "store") == store
        checked = check_dataset(folder / "out", subtypes=SUBTYPES, union="any", n_jobs=0)
        assert checked.findings == []
    write_series_files(folder / "in" / "new", "1.0")
    _, frame = prepare_dicom(folder / "in", folder / "out")
    assert_same_but_notes(frame[frame["series_id"] != "1.0"].reset_index(drop=True), before)
    shutil.rmtree(folder / "in" / "new")
    shutil.move(folder / "away", folder / "in" / "1.2")
    prepare_dicom(folder / "in", folder / "out", remove=True)
    pd.testing.assert_frame_equal(table(folder), before)


def test_a_flag_removes_what_is_not_there(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(folder / "in" / "1.2")
    prepare_dicom(folder / "in", folder / "out")
    of_killed_runs = [folder / "out" / ".slices.parquet.1a.tmp", folder / "out/index/.a.1a.tmp"]
    for path in of_killed_runs:
        path.touch()
    prepare_dicom(folder / "in", folder / "out", remove=True)
    assert not any(path.exists() for path in of_killed_runs)
    frame = table(folder)
    assert set(frame["series_id"]) == {"1.1", "1.3"}
    assert len(list((folder / "out" / "store").iterdir())) == 2
    assert "removed 1 series" in caplog.text


def test_a_volume_of_which_a_part_is_gone_stays_whole(folder: Path) -> None:
    """Although another of its files has changed, and a slice has come to it."""
    before = table(folder)
    (folder / "in" / "1.2" / "1.2-1.dcm").unlink()
    changed = folder / "in" / "1.2" / "1.2-2.dcm"
    changed.write_bytes(changed.read_bytes()[:-2] + b"\0\0")
    new = {"SOPInstanceUID": "1.2.9", "ImagePositionPatient": [-10.0, -10.0, 40.0]}
    ids = {"SeriesInstanceUID": "1.2", "StudyInstanceUID": "1.2.0", "PatientID": "patient of 1.2"}
    write_ct(folder / "in" / "1.2" / "new.dcm", np.full((16, 16), 1064, np.uint16), **new, **ids)
    _, frame = prepare_dicom(folder / "in", folder / "out")
    is_new = frame["image_id"] == "1.2.9"
    assert_same_but_notes(frame[~is_new].reset_index(drop=True), before)
    assert noted(frame) == ["1.2.3"]
    assert frame.loc[is_new, ["num_slices", "status"]].to_numpy().tolist() == [[1, "ok"]]
    assert not set(frame.loc[is_new, "volume_id"]) & set(before["volume_id"])
    prepare_dicom(folder / "in", folder / "out", remove=True)
    frame = table(folder)
    assert frame.loc[frame["series_id"] == "1.2", "num_slices"].tolist() == [4] * 4
    images = SliceTable.load(folder / "out")
    assert images.image_hu(int(images.rows_of(["1.2.2"])[0]))[-1, -1] == -1024


def test_moved_files_are_seen_and_replaced_ones_are_gone(folder: Path) -> None:
    before = table(folder)
    shutil.move(folder / "in" / "1.1", folder / "in" / "moved")
    _, frame = prepare_dicom(folder / "in", folder / "out")
    assert noted(frame) == []
    assert_same_but_notes(frame.drop(columns="source_file"), before.drop(columns="source_file"))
    # A file that is read again, and now holds something else, is no longer what it was.
    write_series_files(folder / "other", "1.9")
    for number in range(1, 5):
        os.replace(
            folder / "other" / f"1.9-{number}.dcm", folder / "in" / "1.2" / f"1.2-{number}.dcm"
        )
    _, frame = prepare_dicom(folder / "in", folder / "out")
    assert set(frame["series_id"]) == {"1.1", "1.3", "1.9"}


def test_copies_of_kept_slices_are_duplicates(folder: Path) -> None:
    before = table(folder)
    (folder / "in" / "1.2" / "1.2-1.dcm").unlink()
    (folder / "in" / "1.2" / "1.2-2.dcm").rename(folder / "in" / "moved.dcm")
    _, frame = prepare_dicom(folder / "in", folder / "out")
    moved = frame["source_file"] == "moved.dcm"
    assert frame.loc[moved, ["status", "reason"]].to_numpy().tolist() == [
        ["duplicate", "same image as 1.2/1.2-2.dcm"]
    ]
    assert_same_but_notes(frame[~moved].reset_index(drop=True), before)


def test_a_repeated_uid_is_kept_by_its_pixels(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in", "1.1", SOPInstanceUID="1.1.1")
    write_series_files(tmp_path / "in", "1.2")
    _, before = prepare_dicom(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "1.1-3.dcm").unlink()
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert_same_but_notes(frame, before)
    assert frame["reason"].str.contains(UNSEEN).sum() == 1


def test_files_that_cannot_be_opened_any_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table(folder)
    for file in (folder / "in" / "1.3").iterdir():
        os.utime(file, ns=(1, 1))
    whole = DicomReader.read_headers

    def failing(reader: DicomReader, source_file: str) -> object:
        if source_file.startswith("1.3/"):
            raise RejectedFile("unreadable", "Stale file handle")
        return whole(reader, source_file)

    monkeypatch.setattr(DicomReader, "read_headers", failing)
    _, frame = prepare_dicom(folder / "in", folder / "out")
    assert_same_but_notes(frame, before)
    assert noted(frame) == [f"1.3.{k}" for k in range(4)]


def test_a_volume_whose_store_file_is_lost_or_of_another_run_is_not_kept(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = table(folder)
    names = frame.groupby("series_id")["store_file"].first()
    (folder / "out" / "store" / names["1.1"]).unlink()
    record = folder / "out" / "index" / "series" / names["1.2"].replace("b2nd", "json")
    record.write_text(record.read_text().replace('"ok", null, 0,', '"corrupt", "x", null,'))
    for series in ("1.1", "1.2"):
        (folder / "in" / series / f"{series}-1.dcm").unlink()
    _, frame = prepare_dicom(folder / "in", folder / "out")
    assert "2 volumes not seen this time, and lost" in caplog.text
    assert frame["series_id"].value_counts().to_dict() == {"1.3": 4, "1.1": 3, "1.2": 3}
    assert noted(frame) == []
