"""The audit of labels finds planted errors of each kind, and nothing in a clean dataset."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from slice_frames import slice_frame

from common.preparation.checks.check import check_dataset
from common.preparation.checks.label_audit import CONTRADICTING, audit_labels, log_audit
from common.report.dataset import DatasetReport
from common.report.exploration.dataset import ExploredDataset
from common.slices.copies import identical_pixels
from common.slices.store import SliceStore, write_series
from rsna_task import LABELS, SUBTYPES

NUM_STUDIES, NUM_SLICES = 12, 12
NO_COPIES = pd.Series(np.nan, index=range(NUM_STUDIES * NUM_SLICES))


def clean() -> pd.DataFrame:
    """Studies of 12 slices, of which 3 to 6 in the middle show a subdural; brain but at the top."""
    number = np.arange(NUM_STUDIES * NUM_SLICES)
    study, rank = number // NUM_SLICES, number % NUM_SLICES
    is_positive = (rank >= 3) & (rank < 6 + study % 4)
    labels = dict.fromkeys(LABELS, np.zeros(len(number)))
    return slice_frame(
        image_id=[f"i{n}" for n in number],
        patient_id=[f"p{n}" for n in study],
        study_id=[f"s{n}" for n in study],
        series_id=[f"s{n}" for n in study],
        source_file=[f"{n}.dcm" for n in number],
        split="train",
        status="ok",
        store_file=[f"{n}.b2nd" for n in study],
        store_index=rank,
        rank=rank,
        num_slices=NUM_SLICES,
        brain_fraction=np.where(rank == NUM_SLICES - 1, 0.001, 0.4),
        keep_for_training=True,
        **(labels | {"subdural": is_positive.astype(float), "any": is_positive.astype(float)}),
    )


def kinds(frame: pd.DataFrame, copies: pd.Series = NO_COPIES) -> dict[str, list[int]]:
    return {f.kind: f.rows.tolist() for f in audit_labels(frame, SUBTYPES, "any", copies)}


def test_a_clean_dataset_gives_no_finding() -> None:
    assert kinds(clean()) == {}
    # Neither do slices without labels, rejected ones, or labels by a model.
    for change in ({"label_source": "pseudo:0003"}, {"status": "corrupt"}):
        frame = clean().assign(**change)
        frame.loc[5, list(LABELS)] = 1.0
        assert kinds(frame) == {}
    assert kinds(clean().assign(**dict.fromkeys(LABELS, np.nan))) == {}


def set_labels(row: int, *names: str) -> Callable[[pd.DataFrame], None]:
    def plant(frame: pd.DataFrame) -> None:
        frame.loc[row, list(LABELS)] = 0.0
        frame.loc[row, list(names)] = 1.0

    return plant


def all_positive(study: int) -> Callable[[pd.DataFrame], None]:
    def plant(frame: pd.DataFrame) -> None:
        frame.loc[frame["study_id"] == f"s{study}", ["subdural", "any"]] = 1.0

    return plant


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        # The positive slices of study 0 are 3, 4, 5; its top, 11, has hardly any brain.
        (set_labels(9, "subdural", "any"), {"lonely": [9]}),
        (set_labels(0, "subdural", "any"), {"lonely": [0]}),
        (set_labels(2, "subdural", "any"), {}),
        (set_labels(11, "subdural", "any"), {"lonely": [11], "hardly_brain": [11]}),
        (set_labels(4, *LABELS), {"all_labels": [4]}),
        (set_labels(4, "any"), {"union_alone": [4]}),
        (set_labels(5, "epidural"), {"union_missing": [5]}),
        (all_positive(2), {"hardly_brain": [35], "unlike_studies": [24]}),
    ],
)
def test_each_planted_error_is_found(
    plant: Callable[[pd.DataFrame], None], expected: dict[str, list[int]]
) -> None:
    frame = clean()
    plant(frame)
    assert kinds(frame) == expected


def test_the_shares_of_few_studies_are_not_judged() -> None:
    frame = clean().iloc[: 9 * NUM_SLICES]
    all_positive(2)(frame)
    assert "unlike_studies" not in kinds(frame, NO_COPIES[: len(frame)])


def test_copies_whose_labels_contradict_are_found() -> None:
    copies = NO_COPIES.copy()
    copies[[4, 16]] = 1.0  # both positive
    copies[[0, 5, 17]] = 2.0
    copies[[7, 20]] = 3.0
    frame = clean()
    frame.loc[20, list(LABELS)] = np.nan
    assert kinds(frame, copies) == {CONTRADICTING: [0, 5, 17]}


def test_unknown_neighbours_and_labels_are_no_evidence() -> None:
    frame = clean()
    frame.loc[[3, 5], list(LABELS)] = np.nan
    frame.loc[[4, 17], "epidural"] = np.nan
    frame.loc[17, "subdural"] = 0.0
    assert kinds(frame) == {}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset with pixels: all six labels in row 4, and rows 0 and 17 show the same."""
    frame, rng = clean(), np.random.default_rng(0)
    frame.loc[4, list(LABELS)] = 1.0
    image_hu = rng.integers(0, 80, (len(frame), 16, 16)).astype(np.int16)
    image_hu[17] = image_hu[0]
    for study in range(NUM_STUDIES):
        start = study * NUM_SLICES
        path = tmp_path / "a" / "store" / f"{study}.b2nd"
        write_series(path, image_hu[start : start + NUM_SLICES])
    frame["hu_min"] = pd.array(image_hu.min(axis=(1, 2)), dtype="Int32")
    frame["hu_max"] = pd.array(image_hu.max(axis=(1, 2)), dtype="Int32")
    frame["hu_mean"] = image_hu.mean(axis=(1, 2)).round(3)
    frame["rows"] = frame["columns"] = pd.array([16] * len(frame), dtype="Int32")
    frame.loc[17, "brain_fraction"] = frame.loc[0, "brain_fraction"]
    frame.to_parquet(tmp_path / "a" / "slices.parquet")
    return tmp_path / "a"


def test_log_check_and_report_show_the_audit(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_parquet(dataset / "slices.parquet")
    counts = log_audit(frame, LABELS, identical_pixels(frame, SliceStore(dataset / "store")))
    assert counts == {"all_labels": 1, CONTRADICTING: 2}
    assert len(caplog.records) == 1
    assert "\n  slices with all 6 labels: 1 (row 4)" in caplog.text
    checked = check_dataset(dataset, subtypes=SUBTYPES, union="any", n_jobs=0)
    assert checked.notes == ["slices with all 6 labels: 1 (row 4)"]
    by_kind = {found.kind: found for found in checked.findings}
    assert "all_labels" not in by_kind
    assert by_kind[CONTRADICTING].examples == ("i0", "i17")
    page = DatasetReport(ExploredDataset.load(dataset, LABELS, overall="any")).html()
    section = page.partition("Labels that are worth a look")[2].partition("<section>")[0]
    assert "Slices with all 6 labels: 1 (rows of slices.parquet: 4)" in section
    assert section.count("<img") == 3
    assert "<code>row 4</code>" in section
    text = re.sub(r'src="data:[^"]*"', "", section)
    assert not any(name in text for name in ("i4", "i17", "p0", "s0"))


def test_contradicting_copies_stand_beside_each_other() -> None:
    copies = NO_COPIES.copy()
    copies[[0, 17]] = 1.0
    copies[[1, 5]] = 2.0
    assert kinds(clean(), copies) == {CONTRADICTING: [0, 17, 1, 5]}
