import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import write_ct, write_enhanced_ct
from prepared import contents, prepare_dicom, write_series_files
from pydicom.uid import JPEG2000Lossless, RLELossless

import common.preparation.engine
from common.dicom import RejectedFile
from common.errors import InputError
from common.preparation import DicomReader, prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource


def test_pixels_order_and_measures_of_a_series(tmp_path: Path) -> None:
    image_hu = write_series_files(tmp_path / "in")
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.line() == "read 4 files, stored 4 slices in 1 series, rejected 0"
    assert frame["image_id"].tolist() == [f"1.2.3.4.{k}" for k in range(4)]
    assert frame["rank"].tolist() == [0, 1, 2, 3]
    assert frame["position_mm"].tolist() == [0, 5, 10, 15]
    assert frame["source_file"].tolist() == [f"1.2.3.4-{k}.dcm" for k in (4, 3, 2, 1)]
    table = SliceTable.load(tmp_path / "out")
    for row in range(4):
        np.testing.assert_array_equal(table.image_hu(row), image_hu[row])
        assert frame["hu_min"][row] == image_hu[row].min()
        assert frame["hu_max"][row] == image_hu[row].max()
        assert frame["hu_mean"][row] == pytest.approx(image_hu[row].mean(), abs=1e-3)
        share = np.mean((image_hu[row] >= 0) & (image_hu[row] <= 80))
        assert frame["brain_fraction"][row] == pytest.approx(share, abs=1e-6)
    assert set(frame["split"]) == {"none"}
    assert frame["any"].isna().all()
    assert frame["label_source"].isna().all()
    assert frame["keep_for_training"].all()


def test_names_of_store_files_tell_nothing(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    (store_file,) = (tmp_path / "out" / "store").iterdir()
    assert "1.2.3" not in store_file.name
    assert store_file.stat().st_size > 0


def test_bad_files_are_listed_counted_and_cost_only_themselves(tmp_path: Path) -> None:
    image_hu = write_series_files(tmp_path / "in", size=64)
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    write_ct(tmp_path / "in" / "mr.dcm", np.zeros((8, 8), np.uint16), Modality="MR")
    compressed = write_ct(
        tmp_path / "in" / "deep" / "cut.dcm",
        np.random.default_rng(0).integers(0, 3000, (64, 64)).astype(np.uint16),
        transfer_syntax=JPEG2000Lossless,
        SOPInstanceUID="1.2.3.4.99",
        StudyInstanceUID="1.2.3.4.0",
        SeriesInstanceUID="1.2.3.4",
        PatientID="patient of 1.2.3.4",
        ImagePositionPatient=[-10.0, -10.0, 7.0],
    )
    compressed.write_bytes(compressed.read_bytes()[:-120])
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert len(frame) == prepared.num_files == 7
    assert prepared.num_slices == 4
    by_file = frame.set_index("source_file")
    assert by_file.loc["notes.txt", "status"] == "not_dicom"
    assert by_file.loc["mr.dcm", "status"] == "not_ct"
    assert by_file.loc["deep/cut.dcm", "status"] in ("truncated", "corrupt")
    assert by_file.loc["deep/cut.dcm", "rank"] == 2
    assert by_file.loc[["notes.txt", "mr.dcm", "deep/cut.dcm"], "store_index"].isna().all()
    assert by_file.loc[["notes.txt", "mr.dcm", "deep/cut.dcm"], "reason"].str.len().min() > 5
    assert "rejected 3 (" in prepared.line()
    table = SliceTable.load(tmp_path / "out")
    rows = table.rows_of(["1.2.3.4.1", "1.2.3.4.2"])
    assert table.neighbour_rows(int(rows[0]), [1]) == [rows[1]]
    np.testing.assert_array_equal(table.image_hu(int(rows[1])), image_hu[2])


def test_series_orientations_and_sizes_get_files_of_their_own(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in", "1.1")
    write_series_files(tmp_path / "in", "1.2")
    tilted = [1.0, 0.0, 0.0, 0.0, 0.9689, -0.2474]
    study = {"StudyInstanceUID": "1.1.0", "SeriesInstanceUID": "1.1", "PatientID": "p"}
    write_ct(tmp_path / "in" / "t.dcm", np.zeros((16, 16), np.uint16),
             ImageOrientationPatient=tilted, **study)  # fmt: skip
    write_ct(tmp_path / "in" / "s.dcm", np.zeros((16, 12), np.uint16), **study)
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert frame.groupby("store_file").size().tolist().count(4) == 2
    assert frame["store_file"].nunique() == 4
    assert (
        frame.groupby("store_file")["rank"].max() + 1 == frame.groupby("store_file").size()
    ).all()
    assert (frame["num_slices"] == frame.groupby("store_file")["rank"].transform("size")).all()


def test_frames_of_one_file_are_slices_in_order(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, (3, 8, 8)).astype(np.uint16)
    positions = [(0.0, 0.0, z) for z in (10.0, 0.0, 5.0)]
    write_enhanced_ct(tmp_path / "in" / "m.dcm", stored, positions, SOPInstanceUID="1.5")
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert (prepared.num_files, prepared.num_slices) == (1, 3)
    assert frame["image_id"].tolist() == ["1.5_1", "1.5_2", "1.5_0"]
    table = SliceTable.load(tmp_path / "out")
    for row, number in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(table.image_hu(row), stored[number].astype(int) - 1024)


def test_a_repeated_image_is_used_once(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "1.2.3.4-2.dcm", tmp_path / "in" / "copy.dcm")
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.rejected == {"duplicate": 1}
    assert frame["image_id"].dropna().is_unique
    copy = frame.set_index("source_file").loc["copy.dcm"]
    assert copy["reason"] == "same image as 1.2.3.4-2.dcm"


def test_an_undecodable_file_gives_way_to_its_duplicate(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3000, (16, 16)).astype(np.uint16)
    for name in ("a", "b"):
        file = tmp_path / "in" / f"{name}.dcm"
        write_ct(file, pixels, transfer_syntax=RLELossless, SOPInstanceUID="1.9")
    data = bytearray((tmp_path / "in" / "a.dcm").read_bytes())
    # The second item is the frame, which begins with its number of segments: 15 at the most.
    frame = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xfe\xff\x00\xe0") + 4) + 8
    data[frame] = 99
    (tmp_path / "in" / "a.dcm").write_bytes(data)
    for _ in range(2):
        prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
        good = frame[frame["status"] == "ok"]
        assert prepared.rejected == {"corrupt": 1}
        assert good["source_file"].tolist() == ["b.dcm"]
        assert good["image_id"].tolist() == ["1.9"]


def test_a_second_run_reads_no_pixels_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series_files(tmp_path / "in", "1.1")
    write_series_files(tmp_path / "in", "1.2")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")

    def forbidden(*args: object) -> None:
        raise AssertionError("a file was read again")

    monkeypatch.setattr("common.preparation.readers.read_headers", forbidden)
    monkeypatch.setattr("common.preparation.readers.read_hu", forbidden)
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_what_is_new_damaged_or_gone_is_made_up_for(tmp_path: Path) -> None:
    for series in ("1.1", "1.2", "1.3"):
        write_series_files(tmp_path / "in", series)
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")
    first, second, _ = sorted((tmp_path / "out" / "store").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path / "out") == before

    for file in (tmp_path / "in").glob("1.1-*"):
        file.unlink()
    write_series_files(tmp_path / "in", "1.4")
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out", remove=True)
    assert set(frame["series_id"]) == {"1.2", "1.3", "1.4"}
    stored = {path.name for path in (tmp_path / "out" / "store").iterdir()}
    assert stored == set(frame["store_file"])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    file = tmp_path / "in" / "1.2.3.4-4.dcm"
    data = bytearray(file.read_bytes())
    data[-2:] = (77 + 1024).to_bytes(2, "little")
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert SliceTable.load(tmp_path / "out").image_hu(0)[-1, -1] == 77


def test_folders_without_anything_usable_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no files"):
        prepare_dicom(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"nothing usable.*1 not_dicom"):
        prepare_dicom(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        DicomSource(tmp_path / "absent")


def test_a_dataset_of_other_data_is_not_overwritten(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in", "1.1")
    write_series_files(tmp_path / "other", "1.2")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="--data_dataset"):
        prepare_dicom(tmp_path / "other", tmp_path / "out")
    shutil.move(tmp_path / "in", tmp_path / "moved")
    prepare_dicom(tmp_path / "moved", tmp_path / "out")
    after = contents(tmp_path / "out")
    assert {k: v for k, v in after.items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }


def test_another_folder_with_files_of_the_same_names_sizes_and_times(tmp_path: Path) -> None:
    for folder, series in (("a", "1.1"), ("b", "1.2")):
        write_series_files(tmp_path / folder, series)
        for number, file in enumerate(sorted((tmp_path / folder).iterdir())):
            os.utime(file.rename(file.with_name(f"IM{number}")), (10**9, 10**9))
    prepare_dicom(tmp_path / "a", tmp_path / "out")
    _, frame = prepare_dicom(tmp_path / "b", tmp_path / "out")
    assert set(frame["series_id"]) == {"1.2"}
    assert set(frame["patient_id"]) == {"patient of 1.2"}


def test_a_dataset_inside_the_folder_of_the_files_is_not_read(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    for _ in range(2):
        prepared, _ = prepare_dicom(tmp_path / "in", tmp_path / "in" / "datasets" / "x")
        assert prepared.num_files == 4
    for folder in (tmp_path / "in", tmp_path):
        with pytest.raises(InputError, match="has the original files in it"):
            prepare_dicom(tmp_path / "in", folder)


@pytest.mark.parametrize("step", ["read_headers", "read_pixels"])
def test_a_file_that_could_not_be_opened_is_tried_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series_files(tmp_path / "in")
    whole = getattr(DicomReader, step)

    def failing(reader: DicomReader, source_file: str) -> object:
        if source_file == "1.2.3.4-2.dcm":
            raise RejectedFile("unreadable", "Input/output error")
        return whole(reader, source_file)

    with monkeypatch.context() as patch:
        patch.setattr(DicomReader, step, failing)
        prepared, _ = prepare_dicom(tmp_path / "in", tmp_path / "out")
        assert prepared.rejected == {"unreadable": 1}
    prepared, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert prepared.rejected == {}
    assert frame["rank"].tolist() == [0, 1, 2, 3]


def test_damaged_headers_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series_files(tmp_path / "in")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "index" / "headers.parquet").write_bytes(b"PAR1")
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert "headers.parquet can't be read" in caplog.text
    assert contents(tmp_path / "out") == before


def test_a_folder_that_can_not_be_made_is_an_input_error(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match="can't be written to"):
            prepare_dicom(tmp_path / "in", folder)


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError):
        prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    errors: list[BaseException] = []

    def second_run() -> None:
        try:
            prepare_dataset(DicomSource(tmp_path / "in"), tmp_path / "out", n_jobs=0)
        except InputError as error:
            errors.append(error)

    with common.preparation.engine._locked(tmp_path / "out"):
        thread = threading.Thread(target=second_run)
        thread.start()
        thread.join()
    assert "another process" in str(errors[0])


def test_real_series_with_tilt_equals_another_reader(test_data: Path, tmp_path: Path) -> None:
    import SimpleITK as simpleitk

    prepared, frame = prepare_dicom(test_data / "ge_head", tmp_path / "out")
    assert (prepared.num_slices, prepared.num_series) == (28, 1)
    steps = np.diff(frame["position_mm"])
    np.testing.assert_allclose(steps[:13], 4.0, atol=0.01)
    np.testing.assert_allclose(steps[13:], [1.08] + [7.0] * 13, atol=0.01)
    np.testing.assert_allclose(frame["tilt_deg"], 18.5, atol=0.01)
    table = SliceTable.load(tmp_path / "out")
    for row in (0, 13, 27):
        file = test_data / "ge_head" / frame["source_file"][row]
        expected = simpleitk.GetArrayFromImage(simpleitk.ReadImage(str(file)))[0]
        expected = np.where(expected == -1500, -1024, np.clip(expected, -1024, None))
        np.testing.assert_array_equal(table.image_hu(row), expected)


def test_every_odd_file_is_accounted_for(test_data: Path, tmp_path: Path) -> None:
    prepared, frame = prepare_dicom(test_data / "odd_dicom", tmp_path / "out")
    files = {
        path.relative_to(test_data / "odd_dicom").as_posix()
        for path in (test_data / "odd_dicom").rglob("*")
        if path.is_file()
    }
    assert set(frame["source_file"]) == files
    assert prepared.num_slices + sum(prepared.rejected.values()) == len(frame)
    rejected = frame[frame["status"] != "ok"]
    assert rejected["reason"].notna().all()
    assert rejected["store_index"].isna().all()
    table = SliceTable.load(tmp_path / "out")
    for row in np.flatnonzero(table.readable):
        assert table.image_hu(int(row)).min() >= -1024
