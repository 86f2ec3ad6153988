"""What training and test share is found, counted and, where asked for, not trained on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_factory import write_rsna
from prepared import contents, write_rsna_folder
from slice_frames import slice_frame

from common.errors import InputError
from common.preparation import Preparation, prepare_dataset
from common.preparation.checks.check import check_dataset
from common.preparation.overlap import find_overlap
from common.slices.copies import identical_pixels
from common.slices.folds import read_folds, split_rows
from common.slices.store import SliceStore, write_series
from common.slices.table import SliceTable
from rsna.sources.rsna import RSNASource
from rsna_task import LABELS, SUBTYPES


def two_splits(folder: Path, **changes: object) -> tuple[pd.DataFrame, SliceStore]:
    """Training patients p and q of two slices each, test patient r of two; nothing is shared."""
    rng = np.random.default_rng(3)
    image_hu = rng.integers(-1000, 1000, (6, 4, 4)).astype(np.int16)
    frame = slice_frame(
        image_id=list("abcdef"),
        patient_id=list("ppqqrr"),
        study_id=list("uuvvww"),
        source_file=list("ABCDEF"),
        split=["train"] * 4 + ["test"] * 2,
        status="ok",
        store_file=["1", "1", "2", "2", "3", "3"],
        store_index=[0, 1] * 3,
        keep_for_training=True,
        rows=4,
        columns=4,
    ).assign(**changes)
    same = frame.get("same_as", pd.Series(range(6)))
    image_hu = image_hu[same.to_numpy()]
    if "blank" in frame:
        image_hu[frame["blank"].to_numpy(dtype=bool)] = -1024
    for number in range(3):
        write_series(folder / str(number + 1), image_hu[2 * number : 2 * number + 2])
    frame["hu_min"] = pd.array(image_hu.min(axis=(1, 2)), dtype="Int32")
    frame["hu_max"] = pd.array(image_hu.max(axis=(1, 2)), dtype="Int32")
    frame["hu_mean"] = image_hu.mean(axis=(1, 2))
    frame["brain_fraction"] = 0.5
    return frame, SliceStore(folder)


@pytest.mark.parametrize(
    ("changes", "counts", "concerned"),
    [
        ({}, (0, 0, 0, 0), ""),
        ({"patient_id": list("ppqqpr")}, (1, 0, 0, 0), "ab"),
        ({"study_id": list("uuvvwv")}, (0, 1, 0, 0), "cd"),
        # Without a patient id only the rows themselves are known to be concerned.
        ({"study_id": list("uuvvwv"), "patient_id": None}, (0, 1, 0, 0), "cd"),
        ({"same_as": [0, 1, 2, 3, 4, 2]}, (0, 0, 0, 1), "cd"),
        ({"same_as": [0, 1, 2, 2, 4, 4]}, (0, 0, 0, 0), ""),
        ({"blank": [1, 0, 0, 0, 1, 0]}, (0, 0, 0, 0), ""),
        ({"patient_id": list("ppqqpr"), "study_id": list("uuvvvv")}, (1, 1, 0, 0), "abcd"),
        ({"split": "train"}, (0, 0, 0, 0), ""),
    ],
)
def test_each_kind_of_overlap(
    changes: dict, counts: tuple[int, ...], concerned: str, tmp_path: Path
) -> None:
    frame, store = two_splits(tmp_path, **changes)
    overlap, rows = find_overlap(frame, identical_pixels(frame, store))
    found = (overlap.num_patients, overlap.num_studies, overlap.num_images, overlap.num_identical)
    assert found == counts
    assert "".join(frame["image_id"][rows]) == concerned
    assert overlap.num_training == overlap.num_kept == len(concerned)


def test_equal_measures_are_not_equal_pixels(tmp_path: Path) -> None:
    frame, store = two_splits(tmp_path)
    for name in ("hu_min", "hu_max", "hu_mean"):
        frame[name] = frame[name].iloc[0]
    assert identical_pixels(frame, store).isna().all()


def write_shared_folder(folder: Path) -> None:
    """The test has a further slice of patient 1 and an image of patient 2 in another study."""
    write_rsna_folder(folder)
    pixels = np.random.default_rng(8).integers(0, 2000, (16, 16)).astype(np.int16)
    copied = pydicom.dcmread(folder / "stage_2_train" / "ID_200000001.dcm").pixel_array
    for image_id, patient, image in (
        ("ID_999999999", 1, pixels),
        ("ID_200000001", 2, copied.astype(np.int16)),
    ):
        write_rsna(
            folder / "stage_2_test" / f"{image_id}.dcm",
            image,
            image_id,
            PatientID=f"ID_{patient}",
            StudyInstanceUID=f"ID_study{patient}0",
            SeriesInstanceUID=f"ID_series{patient}0",
            ImagePositionPatient=[0.0, 0.0, 0.0],
        )


def prepare(tmp_path: Path, name: str, **options: object) -> Preparation:
    source = RSNASource(tmp_path / "in")
    return prepare_dataset(source, tmp_path / name, n_jobs=0, num_folds=2, **options)


def test_overlap_is_told_and_left_out_of_training_where_asked_for(tmp_path: Path) -> None:
    write_shared_folder(tmp_path / "in")
    told = prepare(tmp_path, "x").overlap
    assert (told.num_patients, told.num_studies, told.num_images) == (2, 0, 1)
    assert told.num_training == told.num_kept == 6
    assert "training and test share 2 patients, 0 studies, 1 image id and 0" in told.line()
    before = pd.read_parquet(tmp_path / "x" / "slices.parquet")
    assert before["keep_for_training"].all()
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["counts"]["overlap"]["num_patients"] == 2
    checked = check_dataset(tmp_path / "x", subtypes=SUBTYPES, union="any", n_jobs=0)
    assert [found.kind for found in checked.findings] == ["overlap"]
    assert "--pre_drop_overlap 1" in checked.findings[0].line()

    dropped = prepare(tmp_path, "x", drop_overlap=True).overlap
    assert (dropped.num_training, dropped.num_kept) == (6, 0)
    after = pd.read_parquet(tmp_path / "x" / "slices.parquet")
    pd.testing.assert_frame_equal(
        before.drop(columns="keep_for_training"), after.drop(columns="keep_for_training")
    )
    left_out = after[~after["keep_for_training"]]
    assert set(left_out["patient_id"]) == {"ID_1", "ID_2"}
    assert set(left_out["split"]) == {"train"} and len(left_out) == 6
    table = SliceTable.load(tmp_path / "x")
    folds = read_folds(tmp_path / "x" / "folds.csv")
    with pytest.raises(InputError, match=r"fold 1 .* has no training slices"):
        split_rows(table, folds, 1, LABELS)  # the two other patients validate in it
    train_rows, _ = split_rows(table, folds, 0, LABELS)
    assert not set(after["patient_id"].iloc[train_rows]) & {"ID_1", "ID_2"}
    checked = check_dataset(tmp_path / "x", subtypes=SUBTYPES, union="any", n_jobs=0)
    assert checked.findings == []

    prepare(tmp_path, "y", drop_overlap=True)
    assert contents(tmp_path / "y") == contents(tmp_path / "x")


def test_splits_of_a_preparation(tmp_path: Path) -> None:
    write_rsna_folder(tmp_path / "in")
    prepared = prepare(tmp_path, "split", valid_fraction=0.25)
    assert prepared.folds is not None
    assert prepared.folds["num_patients"].to_dict() == {"training": 3, "0": 1, "all": 4}
    manifest = json.loads((tmp_path / "split" / "manifest.json").read_text())
    assert manifest["parameters"]["valid_fraction"] == 0.25
    checked = check_dataset(tmp_path / "split", subtypes=SUBTYPES, union="any", n_jobs=0)
    assert checked.findings == [] and checked.num_folds == 1
