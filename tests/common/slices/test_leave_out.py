import numpy as np
import pytest
from tiny_dataset import make_tiny_dataset

from common.errors import InputError
from common.slices.folds import read_folds, split_rows, without_fold
from common.slices.table import SliceTable
from config import Config, parse_config
from rsna.data import load_data
from rsna.training.folds import RSNAFoldsTraining
from rsna_task import LABELS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    make_tiny_dataset(root / "datasets" / "tiny", num_patients=9, num_folds=3)
    return root


def test_a_fold_that_is_left_out_is_on_neither_side(root):
    table = SliceTable.load(root / "datasets" / "tiny")
    folds = read_folds(table.folder / "folds.csv")
    train, valid = split_rows(table, without_fold(folds, 2), 1, LABELS)
    fold_of = folds.set_index("image_id")["fold"].loc[table.frame["image_id"]].to_numpy()
    assert set(fold_of[train]) == {0} and set(fold_of[valid]) == {1}
    both = split_rows(table, folds, 1, LABELS)
    np.testing.assert_array_equal(valid, both[1])
    with pytest.raises(InputError, match="no such fold"):
        without_fold(folds, 3)


def test_a_training_reads_the_folds_that_are_left(root):
    flags = {"data_dataset": "tiny", "data_input_folder": str(root), "data_img_size": 32}
    config = Config().with_flags(**flags, data_fold=0, data_leave_out_fold=1)
    data = load_data(config, (0.5,) * 3, (0.5,) * 3)
    assert len(data.train) == len(data.valid) == 12
    more = {"net_model": "test_efficientnet", "net_pretrained": 0, "mlflow_enabled": 0}
    both = config.with_flags(data_fold="all", output_dir=str(root / "output"), **more)
    assert RSNAFoldsTraining(both).folds == [0, 2]


def test_a_fold_is_not_both_validated_and_left_out():
    groups = ("general", "data", "network", "training")
    with pytest.raises(InputError, match="another fold than"):
        parse_config("", groups, ["--data_fold", "1", "--data_leave_out_fold", "1"])
    flags = ["--data_leave_out_fold", "1", "--net_model", "study-gru"]
    with pytest.raises(InputError, match="of slice models"):
        parse_config("", groups, flags)
