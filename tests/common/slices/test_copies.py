"""The same pixels under other ids, in two folds or in training and test, are found and refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import make_tiny_dataset

from common.errors import InputError
from common.preparation.checks.check_folds import check_folds
from common.preparation.splits import log_fold_copies
from common.slices.copies import (
    identical_pixels,
    leaking_copies,
    pixel_names,
    require_unseen_pixels,
)
from common.slices.folds import read_folds, split_rows
from common.slices.store import write_series
from common.slices.table import SliceTable
from rsna_task import LABELS


def dataset(folder: Path, *, copies: bool, blank: bool = False) -> SliceTable:
    """Two folds; slice 1 of patient 3 (fold 1) has the pixels of slice 2 of patient 0 (fold 0)."""
    table = SliceTable.load(make_tiny_dataset(folder / "tiny"))
    frame = table.frame.copy()
    for name, rows in frame.groupby("store_file").groups.items():
        image_hu = np.stack([table.image_hu(row) for row in rows])
        if copies and name == "series3.b2nd":
            image_hu[1] = table.image_hu(int(np.flatnonzero(frame["image_id"] == "ID_0_2")[0]))
        if blank:
            image_hu[0] = -1024
        write_series(folder / "tiny" / "store" / str(name), image_hu)
        for column, values in (
            ("hu_min", image_hu.min(axis=(1, 2))),
            ("hu_max", image_hu.max(axis=(1, 2))),
            ("hu_mean", image_hu.mean(axis=(1, 2))),
        ):
            frame.loc[rows, column] = values
    frame["brain_fraction"] = 1.0
    return SliceTable(frame, folder / "tiny")


def sides(table: SliceTable, fold: int) -> tuple[np.ndarray, np.ndarray]:
    return split_rows(table, read_folds(table.folder / "folds.csv"), fold, LABELS)


@pytest.mark.parametrize("fold", [0, 1])
def test_copies_in_two_folds_are_refused_before_training(tmp_path: Path, fold: int) -> None:
    table = dataset(tmp_path, copies=True)
    with pytest.raises(InputError, match=r"1 training slice with the pixels .* --pre_drop"):
        require_unseen_pixels(table, *sides(table, fold), fold)


@pytest.mark.parametrize("blank", [False, True])
def test_other_slices_and_blank_ones_are_no_copies(tmp_path: Path, blank: bool) -> None:
    table = dataset(tmp_path, copies=False, blank=blank)
    require_unseen_pixels(table, *sides(table, 0), 0)
    assert not log_fold_copies(
        table.frame, identical_pixels(table.frame, table.store), table.folder, False
    ).any()


def test_copies_in_training_and_test_are_refused(tmp_path: Path) -> None:
    table = dataset(tmp_path, copies=True)
    is_copy = table.frame["patient_id"] == "patient3"
    table.frame.loc[is_copy, "split"] = "test"
    with pytest.raises(InputError, match="or of the test"):
        require_unseen_pixels(table, *sides(table, 1), 1)
    # Patient 0 is validated in fold 0: nothing that is trained on is in the test.
    require_unseen_pixels(table, *sides(table, 0), 0)


def test_patients_with_copies_are_dropped_where_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = dataset(tmp_path, copies=True)
    dropped = log_fold_copies(
        table.frame, identical_pixels(table.frame, table.store), table.folder, True
    )
    assert set(table.frame.loc[dropped, "patient_id"]) == {"patient0", "patient3"}
    assert dropped.sum() == 8
    assert "2 training slices with the pixels" in caplog.text
    table.frame["keep_for_training"] &= ~dropped
    for fold in (0, 1):
        train, valid = sides(table, fold)
        require_unseen_pixels(table, train, valid, fold)
        assert len(valid) == 12
        assert len(train) == 8


def test_a_check_finds_them_in_folds_and_in_a_given_split(tmp_path: Path) -> None:
    table = dataset(tmp_path, copies=True)
    given = table.frame[["image_id"]].assign(sample_type="train")
    given.loc[table.frame["patient_id"] == "patient0", "sample_type"] = "valid"
    given.to_csv(table.folder / "dataset_tiny_fold_0.csv", index=False)
    groups = identical_pixels(table.frame, table.store)
    found, _ = check_folds(table.frame, table.folder, {"num_folds": 2}, groups)
    assert [(f.kind, f.count, f.examples) for f in found] == [
        ("fold_pixels", 2, ("ID_0_2", "ID_3_1")),
        ("fold_pixels", 1, ("ID_3_1",)),
    ]
    kept = table.frame.assign(keep_for_training=False)
    assert check_folds(kept, table.folder, {"num_folds": 2}, groups)[0] == []


@pytest.mark.parametrize(
    ("folds", "leaks"),
    [
        ([0, 0], [False, False]),
        ([0, 1], [True, True]),
        ([0, -1], [False, True]),
        ([-1, -1], [False, False]),
        ([0, np.nan], [False, False]),
    ],
)
def test_what_leaks(folds: list[float], leaks: list[bool]) -> None:
    groups, trained = pd.Series([7.0, 7.0]), np.ones(2, dtype=bool)
    assert leaking_copies(groups, pd.Series(folds), trained).tolist() == leaks
    assert not leaking_copies(pd.Series([7.0, np.nan]), pd.Series(folds), trained).any()


def test_copies_are_found_behind_an_unreadable_store(tmp_path: Path) -> None:
    table = dataset(tmp_path, copies=True)
    table.frame[["hu_min", "hu_max", "hu_mean"]] = [0, 80, 40]  # Only checksums tell them apart.
    unreadable = table.frame["store_file"] == "series1.b2nd"
    (table.folder / "store" / "series1.b2nd").write_bytes(b"")
    groups = identical_pixels(table.frame, table.store)
    assert set(table.frame.loc[groups.notna(), "image_id"]) == {"ID_0_2", "ID_3_1"}
    names = pixel_names(table, table.frame["study_id"])
    assert len(set(names)) == table.frame.loc[~unreadable, "study_id"].nunique()
