"""Any tree of DICOM: archives beside folders, and every kind of series accounted for."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archive_files import patch, zip_folder, zip_members
from dicom_factory import write_ct, write_enhanced_ct, write_rsna
from prepared import contents, prepare_dicom, write_series_files

from common.errors import InputError
from common.preparation import prepare_dataset
from common.preparation.tables import GAP_NOTE
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource

SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
# What a dataset made from an archive and one made from its files differ in.
PLACES = ["source_file"]


def tables(folder: Path, dataset: Path) -> tuple[pd.DataFrame, SliceTable]:
    prepare_dataset(DicomSource(folder), dataset, n_jobs=0)
    table = SliceTable.load(dataset)
    return pd.read_parquet(dataset / "slices.parquet"), table


def test_an_archive_gives_the_dataset_of_its_files(tmp_path: Path) -> None:
    for series in ("1.1", "1.2"):
        write_series_files(tmp_path / "in" / series, series)
    zip_folder(tmp_path / "in", tmp_path / "zipped" / "deep" / "all.zip")
    plain, plain_table = tables(tmp_path / "in", tmp_path / "plain")
    names = plain["source_file"]
    for number, folder in enumerate(
        [tmp_path / "zipped", tmp_path / "zipped" / "deep" / "all.zip"]
    ):
        frame, table = tables(folder, tmp_path / f"{number}")
        prefix = "all.zip!/" if folder.suffix else "deep/all.zip!/"
        assert frame["source_file"].tolist() == (prefix + names).tolist()
        pd.testing.assert_frame_equal(frame.drop(columns=PLACES), plain.drop(columns=PLACES))
        for row in range(len(frame)):
            np.testing.assert_array_equal(table.image_hu(row), plain_table.image_hu(row))


def test_an_archive_of_which_nothing_is_usable_is_named_with_the_reason(tmp_path: Path) -> None:
    archive = tmp_path / "cut.zip"
    archive.write_bytes(b"PK\3\4 and no end")
    reason = r"nothing usable in .*cut\.zip: .*1 bad_archive\): no list of members at its end"
    with pytest.raises(InputError, match=reason):
        prepare_dicom(archive, tmp_path / "out")


def test_archives_stand_beside_folders_and_other_files(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in" / "plain", "1.1")
    write_series_files(tmp_path / "packed", "1.2")
    zip_folder(tmp_path / "packed", tmp_path / "in" / "b.ZIP")
    data = (tmp_path / "packed" / "1.2-1.dcm").read_bytes()
    zip_members(tmp_path / "in" / "odd.zip", {"a\nb": b"no DICOM", "../1.2-1.dcm": data})
    patch(zip_members(tmp_path / "in" / "locked.zip", {"m": data}), flags=1)
    zip_members(tmp_path / "in" / "bomb.zip", {"zeros": bytes(20 << 20), "good.dcm": data})
    zip_members(tmp_path / "in" / "empty.zip", {})
    (tmp_path / "in" / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    before = sorted(path for path in tmp_path.rglob("*") if "out" not in path.parts)
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.num_slices == 8
    status = frame.set_index("source_file")["status"]
    assert status["odd.zip!/a\nb"] == "not_dicom"
    assert status["odd.zip!/../1.2-1.dcm"] == "duplicate"
    assert status["locked.zip!/m"] == "encrypted"
    assert status["bomb.zip!/zeros"] == "zip_bomb"
    assert status["bomb.zip!/good.dcm"] == "duplicate"
    assert (status["empty.zip"], status["broken.zip"]) == ("bad_archive", "bad_archive")
    assert frame.loc[frame["status"] != "ok", "reason"].str.len().min() > 5
    assert sorted(path for path in tmp_path.rglob("*") if "out" not in path.parts) == before
    names = {path.name for path in (tmp_path / "out" / "store").iterdir()}
    assert all(len(name) == len("0" * 24 + ".b2nd") for name in names)


def test_ids_that_look_like_paths_stay_in_the_tables(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.int16)
    ids = {"SeriesInstanceUID": "../../../x", "StudyInstanceUID": "/etc/x", "PatientID": "C:\\x"}
    write_rsna(tmp_path / "in" / "a.dcm", pixels, "../../y", **ids)
    prepare_dicom(tmp_path / "in", tmp_path / "deep" / "er" / "out")
    frame = pd.read_parquet(tmp_path / "deep" / "er" / "out" / "slices.parquet")
    assert frame["series_id"].tolist() == ["../../../x"]
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not files & {"x", "y", "x.b2nd", "y.b2nd"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "deep"}


def test_what_an_archive_lost_gained_or_changed_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "in" / "a.zip"
    write_series_files(tmp_path / "files", "1.1")
    zip_folder(tmp_path / "files", archive)
    prepare_dicom(archive, tmp_path / "out")
    first = contents(tmp_path / "out")
    prepare_dicom(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == first

    times = archive.stat().st_mtime_ns
    write_series_files(tmp_path / "files", "1.1", PatientID="somebody else")
    zip_folder(tmp_path / "files", archive)
    os.utime(archive, ns=(times, times))
    _, frame = prepare_dicom(archive, tmp_path / "out")
    assert set(frame["patient_id"]) == {"somebody else"}
    write_series_files(tmp_path / "files", "1.2")
    (tmp_path / "files" / "1.1-1.dcm").unlink()
    zip_folder(tmp_path / "files", archive)
    for remove, number in ((False, 4), (True, 3)):
        _, frame = prepare_dicom(archive, tmp_path / "out", remove=remove)
        assert frame.groupby("series_id").size().to_dict() == {"1.1": number, "1.2": 4}


def test_a_member_that_is_there_twice_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series_files(tmp_path / "files", "1.1")
    zip_folder(tmp_path / "files", tmp_path / "in" / "a.zip")
    with (
        zipfile.ZipFile(tmp_path / "in" / "a.zip", "a") as file,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        file.writestr("1.1-1.dcm", b"newer, and no DICOM")
    with caplog.at_level(logging.WARNING):
        _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert frame.set_index("source_file").loc["a.zip!/1.1-1.dcm", "status"] == "not_dicom"
    assert "left out 1 member of an archive" in caplog.text


def test_a_folder_named_like_an_archive_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series_files(tmp_path / "in" / "x.zip!", "1.1")
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.num_slices == 4
    assert frame["source_file"].str.startswith("x.zip!/").all()
    write_series_files(tmp_path / "files", "1.2")
    zip_folder(tmp_path / "files", tmp_path / "in" / "x.zip")
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "again")
    assert set(frame["series_id"]) == {"1.2"}
    assert "left out 4 files in folders named like an archive" in caplog.text


def test_what_is_neither_folder_nor_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    for path in (tmp_path / "a.dcm", tmp_path / "none.zip"):
        with pytest.raises(InputError, match="no such folder"):
            DicomSource(path)
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(InputError, match="1 bad_archive"):
        prepare_dicom(tmp_path / "a.zip", tmp_path / "out")


def write_hospital_study(folder: Path) -> None:
    """One study as an archive exports it: a plain head among all that comes with it."""
    study = {"StudyInstanceUID": "1.0", "PatientID": "p", "BodyPartExamined": "HEAD"}

    def write(series: str, num_slices: int = 4, **tags: object) -> None:
        write_series_files(folder / series, series, num_slices, **(study | tags))

    write("1.1", 6, SeriesDescription="Head 5.0 H31s")
    write("1.2", 6, SeriesDescription="Head 5.0 H60s bone", ConvolutionKernel="H60s")
    write("1.3", SeriesDescription="Head MPR cor", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write("1.4", SeriesDescription="Head MPR sag", ImageOrientationPatient=SAGITTAL)
    write("1.5", ContrastBolusAgent="Imeron 300", SeriesDescription="Head 5.0")
    write("1.6", SeriesDescription="CTA 0.75")
    write("1.7", SeriesDescription="C-Spine 2.0 bone")
    write("1.8", 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesDescription="Topogram")
    write("1.9", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesDescription="Patient Protocol")
    write("1.10", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")
    write("1.11", ImageType=["DERIVED", "SECONDARY", "MIP"], SeriesDescription="MIP")
    # A series that holds two sagittal slices beside its axial ones.
    write("1.12", SeriesDescription="Head mixed")
    for number in (1, 2):
        shutil.move(folder / "1.12" / f"1.12-{number}.dcm", folder / f"{number}.dcm")
        pixels = np.zeros((16, 16), np.uint16)
        write_ct(folder / f"{number}.dcm", pixels, SOPInstanceUID=f"1.12.9{number}",
                 SeriesInstanceUID="1.12", ImageOrientationPatient=SAGITTAL,
                 ImagePositionPatient=[number, 0, 0], **study)  # fmt: skip
    stored = np.zeros((3, 8, 8), np.uint16)
    positions = [(0.0, 0.0, 5.0 * k) for k in range(3)]
    frames = study | {"SeriesInstanceUID": "1.13", "SOPInstanceUID": "1.13.1"}
    write_enhanced_ct(folder / "enhanced.dcm", stored, positions, **frames)


EXPECTED = {
    "1.1": {"ok": 6},
    "1.2": {"ok": 6},
    "1.3": {"not_axial": 4},
    "1.4": {"not_axial": 4},
    "1.5": {"contrast": 4},
    "1.6": {"contrast": 4},
    "1.7": {"not_head": 4},
    "1.8": {"localizer": 2},
    "1.9": {"not_ct": 1},
    "1.10": {"not_ct": 1},
    "1.11": {"derived": 4},
    "1.12": {"ok": 2, "not_axial": 2},
    "1.13": {"ok": 3},
}


def test_every_series_of_a_study_is_accounted_for(tmp_path: Path) -> None:
    write_hospital_study(tmp_path / "in")
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    found = {
        series: rows["status"].value_counts().to_dict()
        for series, rows in frame.groupby("series_id")
    }
    assert found == EXPECTED
    left_out = frame[frame["status"] != "ok"]
    assert left_out["reason"].notna().all() and left_out["store_index"].isna().all()
    assert prepared.rejected == {
        "not_axial": 10,
        "contrast": 8,
        "derived": 4,
        "not_head": 4,
        "localizer": 2,
        "not_ct": 2,
    }
    # What is left out has no place among the slices.
    assert frame.loc[frame["series_id"] == "1.12", "num_slices"].dropna().tolist() == [2, 2]


def test_a_missing_slice_is_noted(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in", num_slices=8)
    (tmp_path / "in" / "1.2.3.4-4.dcm").unlink()
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.notes == {GAP_NOTE: 1}
    assert frame.loc[frame["reason"].notna(), "position_mm"].tolist() == [15]
    assert (frame["status"] == "ok").all()
    # The same beside a file that has a reason of its own.
    (tmp_path / "in" / "broken.dcm").write_bytes(b"")
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "again")
    assert frame.loc[frame["status"] == "ok", "reason"].dropna().tolist() == [GAP_NOTE]


def test_the_real_head_has_no_gap(test_data: Path, tmp_path: Path) -> None:
    """Its spacing changes once from 4 to 7 mm, with a step of 1 mm between."""
    prepared, _ = prepare_dicom(test_data / "ge_head", tmp_path / "out")
    assert prepared.notes == {}
    assert prepared.num_slices == 28
