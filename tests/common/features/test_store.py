"""Features on disk: what is read is what was written, in any order, whole or not at all."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from feature_files import write_features
from small_disk import files_up_to

from common.errors import InputError
from common.features.store import FeatureTable, writing_features

MANIFEST = {"experiment": "0003", "dataset": "demo", "folds_sha256": "abc"}
DIM = 5


def image_ids(num: int, start: int = 0) -> list[str]:
    return [f"ID_{index}" for index in range(start, start + num)]


def values(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, DIM)).astype(np.float16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """150 images of two folds, in two views, written in uneven blocks; test images of both."""
    path = tmp_path_factory.mktemp("features")
    blocks = [
        (image_ids(70), values(70, 1), 0, "plain"),
        (image_ids(70), values(70, 2), 0, "flip_lr"),
        (image_ids(1, 70), values(1, 3), 0, "plain"),
        (image_ids(79, 71), values(79, 4), 1, "plain"),
        (image_ids(79, 71), values(79, 5), 1, "flip_lr"),
    ]
    write_features(path, "oof", blocks, MANIFEST)
    tests = [(image_ids(3, 500), values(3, 6 + fold), fold, "plain") for fold in (0, 1)]
    write_features(path, "test", tests, MANIFEST)
    return path


def test_rows_are_read_as_they_were_written_in_any_order(folder):
    table = FeatureTable.load(folder, "oof")
    assert (len(table), table.dim, table.folds) == (299, DIM, [0, 1])
    plain = np.concatenate([values(70, 1), values(1, 3), values(79, 4)])
    order = np.random.default_rng(0).permutation(150)
    rows = table.rows_of(np.array(image_ids(150))[order])
    found = table.read(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, plain[order].astype(np.float32))
    flipped = table.read(table.rows_of(["ID_149", "ID_3", "ID_3"], view="flip_lr"))
    expected = [values(79, 5)[-1], values(70, 2)[3], values(70, 2)[3]]
    np.testing.assert_array_equal(flipped, np.asarray(expected, np.float32))
    assert table.read([]).shape == (0, DIM)


def test_the_table_names_row_image_fold_and_view(folder):
    frame = pd.read_parquet(folder / "oof.parquet")
    assert list(frame.columns) == ["row", "image_id", "fold", "view"]
    assert frame["row"].tolist() == list(range(299))
    assert frame.loc[140, ["image_id", "fold", "view"]].tolist() == ["ID_70", 0, "plain"]


def test_a_test_image_has_a_row_of_each_fold(folder):
    table = FeatureTable.load(folder, "test")
    for fold in (0, 1):
        rows = table.rows_of(["ID_501"], fold=fold)
        np.testing.assert_array_equal(table.read(rows)[0], values(3, 6 + fold)[1])
    with pytest.raises(InputError, match="several folds"):
        table.rows_of(["ID_501"])


def test_the_manifest_says_where_features_come_from(folder):
    content = json.loads((folder / "manifest.json").read_text())
    assert content == {**MANIFEST, "dim": DIM, "views": ["plain"]}  # of the last one written
    assert FeatureTable.load(folder, "oof").manifest["experiment"] == "0003"


def test_images_and_views_that_are_not_there_are_refused(folder):
    table = FeatureTable.load(folder, "oof")
    with pytest.raises(InputError, match="1 of 2 images have no features in the view 'plain'"):
        table.rows_of(["ID_0", "ID_x"])
    with pytest.raises(InputError, match="view 'flip_lr'"):
        table.rows_of(["ID_70"], view="flip_lr")
    with pytest.raises(InputError, match="of fold 1"):
        table.rows_of(["ID_0"], fold=1)


def test_a_pickled_table_reads_the_same(folder):
    table = FeatureTable.load(folder, "oof")
    expected = table.read([5, 200])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).read([5, 200]), expected)


def test_an_interrupted_writing_leaves_no_features(tmp_path):
    def write(error: bool) -> None:
        with writing_features(tmp_path, "oof", MANIFEST) as writer:
            writer.append(image_ids(100), values(100), 0)
            if error:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(error=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no features at"):
        FeatureTable.load(tmp_path, "oof")
    write(error=False)
    assert len(FeatureTable.load(tmp_path, "oof")) == 100
    with pytest.raises(KeyboardInterrupt):
        write(error=True)
    # The old file may not be read with a table that is about to change.
    with pytest.raises(InputError, match="no features at"):
        FeatureTable.load(tmp_path, "oof")


def test_damage_is_found(tmp_path):
    write_features(tmp_path, "oof", [(image_ids(100), values(100), 0, "plain")], MANIFEST)
    path = tmp_path / "oof.b2nd"
    data = bytearray(path.read_bytes())
    for place in range(300, 340):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="restore"):
        FeatureTable.load(tmp_path, "oof").read(np.arange(100))


def test_a_table_of_another_writing_is_refused(tmp_path):
    write_features(tmp_path, "oof", [(image_ids(9), values(9), 0, "plain")], MANIFEST)
    pd.read_parquet(tmp_path / "oof.parquet").iloc[1:].to_parquet(tmp_path / "oof.parquet")
    with pytest.raises(InputError, match="9 rows of 5 features"):
        FeatureTable.load(tmp_path, "oof")


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_features_that_float16_can_not_hold_are_refused(tmp_path, bad):
    features = values(3).astype(np.float32)
    features[1, 2] = bad
    with pytest.raises(InputError, match="not finite"):
        write_features(tmp_path, "oof", [(image_ids(3), features, 0, "plain")], MANIFEST)


def test_an_image_twice_in_the_same_fold_and_view_is_our_fault(tmp_path):
    with pytest.raises(AssertionError, match="repeat"):
        write_features(tmp_path, "oof", [(["a", "a"], values(2), 0, "plain")], MANIFEST)


def test_a_full_disk_is_told_and_leaves_no_torn_file(tmp_path):
    def block(start):
        noise = np.random.default_rng(start).normal(size=(640, 32))
        return image_ids(640, start), noise, 0, "plain"

    with files_up_to(30_000), pytest.raises(InputError, match="free some space, and go on by"):
        write_features(tmp_path, "oof", map(block, range(0, 6400, 640)), MANIFEST)
    assert not list(tmp_path.iterdir())
