from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import make_tiny_dataset

from common.report.exploration import figures, images
from common.report.exploration.dataset import ExploredDataset
from common.slices.table import STORE_FOLDER
from rsna_task import LABELS, SUBTYPES


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ExploredDataset:
    folder = make_tiny_dataset(tmp_path_factory.mktemp("tiny"), num_patients=30, num_slices=5)
    return ExploredDataset.load(folder, LABELS, "any")


def without_slice_labels(dataset: ExploredDataset, study: str) -> ExploredDataset:
    """Only studies are labelled: one has a subdural hemorrhage, the others have nothing."""
    frame = dataset.frame.assign(**dict.fromkeys(LABELS, np.float32("nan")))
    studies = pd.DataFrame({"study_id": frame["study_id"].unique()})
    studies = studies.assign(**dict.fromkeys(LABELS, 0.0))
    studies.loc[studies["study_id"] == study, ["subdural", "any"]] = 1.0
    table = type(dataset.table)(frame, dataset.table.folder)
    return ExploredDataset("x", "dicom", table, studies, None, LABELS, "any")


def test_each_label_is_shown_on_slices_that_have_it(dataset):
    chosen = images.choose_slices(dataset.table, dataset.studies, SUBTYPES, per_label=2)
    rows = [choice.row for choice in chosen]
    assert len(rows) == len(set(rows)) == 2 * (len(SUBTYPES) + 1)
    for name in SUBTYPES:
        for choice in images.of_label(chosen, name):
            assert dataset.frame[name].iat[choice.row] == 1
            assert dataset.frame[list(SUBTYPES)].iloc[choice.row].sum() == 1
    for choice in images.of_label(chosen, images.NO_LABEL):
        assert dataset.frame["any"].iat[choice.row] == 0
    patients = dataset.frame["patient_id"].iloc[rows]
    assert patients.is_unique


def test_the_choice_is_a_function_of_the_seed(dataset):
    def choose(seed: int) -> list[images.ChosenSlice]:
        return images.choose_slices(dataset.table, dataset.studies, SUBTYPES, seed=seed)

    assert choose(1) == choose(1)
    assert choose(1) != choose(2)


def test_where_studies_are_labelled_it_is_the_middle_slice_of_a_positive_one(dataset):
    others = without_slice_labels(dataset, "study7")
    chosen = images.choose_slices(others.table, others.studies, SUBTYPES, per_label=1)
    assert [choice.label for choice in chosen] == ["subdural", images.NO_LABEL]
    assert all(choice.of_study for choice in chosen)
    shown = others.frame.iloc[chosen[0].row]
    assert (shown["study_id"], shown["rank"]) == ("study7", 2)
    row = images.choose_series(others.table, others.studies, SUBTYPES)
    assert others.frame["study_id"].iat[row] == "study7"


def test_without_labels_any_slices_are_shown(dataset):
    others = without_slice_labels(dataset, "none")
    empty = others.studies.iloc[:0]
    chosen = images.choose_slices(others.table, empty, SUBTYPES, per_label=3)
    assert [choice.label for choice in chosen] == [images.NO_LABEL] * 3
    assert images.labels_of(others.table, chosen[0].row, LABELS) == "labels unknown"
    assert images.choose_series(others.table, empty, SUBTYPES) is not None


def test_a_montage_has_the_whole_series_in_order(dataset):
    picture, shown = images.montage(dataset.table, 3)
    assert dataset.frame["rank"].iloc[shown].tolist() == [0, 1, 2, 3, 4]
    assert dataset.frame["series_id"].iloc[shown].nunique() == 1
    for place, row in enumerate(shown):
        tile = picture[:, 128 * place : 128 * (place + 1)]
        grey = np.clip(dataset.table.image_hu(row) / 80.0, 0, 1).mean() * 255
        assert tile.mean() == pytest.approx(grey, abs=6)


def test_what_is_damaged_is_crossed_out(tmp_path: Path):
    folder = make_tiny_dataset(tmp_path, num_patients=1)
    dataset = ExploredDataset.load(folder, LABELS, "any")
    (folder / STORE_FOLDER / "series0.b2nd").write_bytes(b"damaged")
    picture, shown = images.montage(dataset.table, 0)
    assert len(shown) == 4
    assert (picture[:20] == 60).mean() > 0.5
    choice = images.ChosenSlice(0, "any")
    assert figures.windows_figure(dataset.table, [choice], LABELS).axes


def test_figures_become_small_pictures(dataset):
    chosen = images.choose_slices(dataset.table, dataset.studies, SUBTYPES)
    for choices in (images.of_label(chosen, "epidural"), []):
        drawing = figures.windows_figure(dataset.table, choices, LABELS)
        data = figures.Picture(drawing, dpi=40)._repr_png_()
        assert data.startswith(b"\x89PNG")
        assert b"Matplotlib" not in data
