"""The dataset of the benchmark keeps pixels and folds, and the labels of studies alone."""

import pandas as pd
from tiny_dataset import make_tiny_dataset

from benchmarks.study_labels import keep_study_labels
from common.preparation.tables import studies_table
from common.slices.table import SliceTable
from rsna_task import LABELS


def test_labels_of_slices_are_gone_and_those_of_studies_are_their_largest(tmp_path):
    folder, target = make_tiny_dataset(tmp_path / "own"), tmp_path / "studies"
    table = SliceTable.load(folder)
    studies_table(table.frame, LABELS, None).to_parquet(folder / "studies.parquet")
    (folder / "manifest.json").write_text("{}")
    keep_study_labels(folder, target)
    made = SliceTable.load(target)
    assert made.frame[list(LABELS)].isna().all(axis=None)
    assert (made.image_hu(3) == table.image_hu(3)).all()
    assert (target / "folds.csv").read_text() == (folder / "folds.csv").read_text()
    studies = pd.read_parquet(target / "studies.parquet").set_index("study_id")
    assert set(studies["label_source"]) == {"study"}
    largest = table.frame.groupby("study_id")[list(LABELS)].max()
    pd.testing.assert_frame_equal(studies.loc[largest.index, list(LABELS)], largest)
