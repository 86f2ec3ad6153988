"""However a tree of files is named, ordered, packed and encoded: it makes the same dataset."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exports import tree, write_export
from prepared import contents, prepare_dicom
from pydicom.dataset import Dataset

from common.preparation.identity import SAME_IMAGE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset | bytes]:
    return tree(tmp_path_factory.mktemp("tree"))


def dataset_of(
    seed: int, files: list[Dataset | bytes], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """The tables, but for the names of files, and the hashes of the store, of one export."""
    (folder / "work").mkdir(parents=True)
    write_export(folder / "in", files, np.random.default_rng(seed), folder / "work")
    prepare_dicom(folder / "in", folder / "out")
    frame = pd.read_parquet(folder / "out" / "slices.parquet").drop(columns="source_file")
    frame["reason"] = frame["reason"].str.replace(f"{SAME_IMAGE}.*", SAME_IMAGE, regex=True)
    # Rows without an image come in the order of their files.
    order = frame.apply(lambda row: repr(row.tolist()), axis=1).sort_values().index
    order = frame.index[frame["status"] == "ok"].append(order[frame["status"][order] != "ok"])
    studies = pd.read_parquet(folder / "out" / "studies.parquet")
    return frame.loc[order].reset_index(drop=True), studies, contents(folder / "out" / "store")


def assert_same(seeds: range, files: list[Dataset | bytes], folder: Path) -> None:
    slices, studies, store = dataset_of(0, files, folder / "first")
    assert slices["status"].value_counts()["ok"] > 50
    for seed in seeds:
        other = dataset_of(seed, files, folder / str(seed))
        pd.testing.assert_frame_equal(other[0], slices, obj=f"slices of export {seed}")
        pd.testing.assert_frame_equal(other[1], studies)
        assert other[2] == store


def test_a_few_exports(files: list[Dataset | bytes], tmp_path: Path) -> None:
    assert_same(range(1, 3), files, tmp_path)


@pytest.mark.long
def test_many_exports(files: list[Dataset | bytes], tmp_path: Path) -> None:
    assert_same(range(3, 60), files, tmp_path)
