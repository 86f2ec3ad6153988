"""The labels that series are trained on as a whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import make_tiny_dataset

from common.slices.folds import PSEUDO
from common.slices.study_labels import LABELS_OF_STUDY, labels_by_study, labels_of_volumes
from common.slices.table import SliceTable
from rsna_task import LABELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five studies of four slices, the first with a label of its own, and no other known."""
    folder = make_tiny_dataset(tmp_path / "data", num_patients=5)
    studies = pd.DataFrame({"study_id": [f"study{number}" for number in range(5)]})
    studies = studies.assign(label_source=None, **dict.fromkeys(LABELS, np.nan))
    studies.loc[0, ["any", "label_source"]] = [0.25, LABELS_OF_STUDY]
    studies.to_parquet(folder / "studies.parquet")
    return folder


def labels_with(folder: Path, row: int, **values: object) -> pd.Series:
    """Return `any` by store file, where a slice is changed."""
    slices = pd.read_parquet(folder / "slices.parquet")
    slices["any"] = np.repeat([1, 0, 1, 0.75, 0], 4).astype("float32")
    for name, value in values.items():
        slices.loc[row, name] = value
    slices.to_parquet(folder / "slices.parquet")
    return labels_of_volumes(SliceTable.load(folder), LABELS)["any"]


def test_the_given_label_comes_first_and_others_are_the_largest_of_the_slices(folder):
    files = [f"series{number}.b2nd" for number in range(5)]
    assert labels_with(folder, 0)[files].tolist() == [0.25, 0, 1, 0.75, 0]


@pytest.mark.parametrize("study", [1, 2])
def test_a_slice_without_a_label_leaves_its_study_unknown_positive_or_not(folder, study):
    assert labels_with(folder, 4 * study, any=np.nan).isna().to_numpy().nonzero()[0] == [study]


@pytest.mark.parametrize("study", [1, 2])
def test_a_file_that_is_no_slice_needs_no_label(folder, study):
    row = {"any": np.nan, "status": "localizer", "store_index": pd.NA}
    assert labels_with(folder, 4 * study, **row)[f"series{study}.b2nd"] == study - 1


def test_labels_by_a_model_are_none_of_the_study(folder):
    found = labels_with(folder, 4, label_source=f"{PSEUDO}0001")
    assert "series1.b2nd" not in found.dropna() and found.notna().sum() == 4


def test_studies_are_scored_by_their_own_label_where_they_have_one(folder):
    studies = pd.read_parquet(folder / "studies.parquet")
    studies.loc[1, ["any", "label_source"]] = [1.0, LABELS_OF_STUDY]  # though no slice has it
    studies.to_parquet(folder / "studies.parquet")
    table = SliceTable.load(folder)
    study_ids = [*np.repeat([f"study{number}" for number in (3, 1, 0)], 2), None]
    slices = np.zeros((7, len(LABELS)))
    slices[[0, 6], -1] = 1.0
    ids, labels = labels_by_study(table, LABELS, slices, study_ids)
    assert ids.tolist() == ["study3", "study1", "study0"]
    assert labels[:, -1].tolist() == [1.0, 1.0, 0.0]  # raters of study0: a quarter, so no
    assert not labels[:, :-1].any()
    (folder / "studies.parquet").unlink()
    _, labels = labels_by_study(table, LABELS, slices, study_ids)
    assert labels[:, -1].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("of_table", "expected"),
    [
        ([0.0, 0.0, np.nan, 0.0], np.nan),  # nothing is known of one: it may bleed
        ([1.0, 0.0, np.nan, 0.0], 1.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
        ([np.nan] * 4, 0.0),  # a volume of which nothing is known says nothing
    ],
)
def test_a_study_is_negative_where_all_of_a_labelled_volume_is(folder, of_table, expected):
    slices = pd.read_parquet(folder / "slices.parquet")
    slices.loc[slices["study_id"] == "study2", list(LABELS)] = 0.0
    slices.loc[slices["study_id"] == "study2", "any"] = of_table
    slices.to_parquet(folder / "slices.parquet")
    table = SliceTable.load(folder)
    scored = np.zeros((2, len(LABELS)))
    scored[0, -1] = np.nanmax([0.0, *of_table])
    _, labels = labels_by_study(table, LABELS, scored, ["study2", "study2"])
    np.testing.assert_array_equal(labels[0], [0.0] * 5 + [expected])
