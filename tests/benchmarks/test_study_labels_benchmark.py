"""Labels of studies: the dataset keeps pixels and folds, and the whole at toy size."""

import argparse

import pandas as pd
import pytest
from tiny_dataset import make_tiny_dataset

from benchmarks.study_labels import keep_study_labels, run
from common.models.bag import POOLS
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


@pytest.mark.long
def test_the_whole_at_toy_size(tmp_path):
    for name in ("demo", "ct_ich"):
        folder = make_tiny_dataset(tmp_path / "input" / "datasets" / name, num_patients=12)
        table = SliceTable.load(folder)
        studies_table(table.frame, LABELS, None).to_parquet(folder / "studies.parquet")
        (folder / "manifest.json").write_text("{}")
    # The phantoms are others than the patients.
    slices, folds = folder.parent / "demo" / "slices.parquet", folder.parent / "demo" / "folds.csv"
    frame, ids = pd.read_parquet(slices), ["image_id", "patient_id", "study_id"]
    frame.assign(**{name: "demo" + frame[name] for name in ids}).to_parquet(slices)
    frame = pd.read_csv(folds)
    frame.assign(**{name: "demo" + frame[name] for name in frame.columns.intersection(ids)}).to_csv(
        folds, index=False
    )
    toy = {"net_model": "tf_efficientnet_lite0", "stored": 32, "size": 32, "start_iterations": 2}
    toy |= {"iterations": 2, "bags": 2, "bag_slices": 4, "work": tmp_path, "folder": tmp_path}
    found = run(argparse.Namespace(**toy, n_jobs=2))
    assert list(found) == ["slices", *POOLS]
    for scores in found.values():
        assert 0 <= scores["auc_slices"][0] <= 1 and scores["loss_to_prior"][0] > 0
        assert scores["num_slices"] == found["slices"]["num_slices"] > 0
