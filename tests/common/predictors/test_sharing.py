"""Processes that predict together give the tables of one."""

import numpy as np
import pytest
import shared_prediction
import warm
from predictor_factory import make_dataset, make_predictor

from common.predictors.base import PredictOptions
from common.predictors.folds import FoldsPredictor
from common.predictors.sharing import owners_of
from common.slices.table import SliceTable


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    """Six series, of 3 to 6 slices; one slice has no pixels."""
    return make_dataset(tmp_path_factory.mktemp("dataset"))


PROGRAM = warm.ROOT / "tests" / "helpers" / "shared_prediction.py"


def test_two_processes_find_what_one_finds(table, tmp_path) -> None:
    for done in warm.run_together(2, [PROGRAM, table.folder, tmp_path, "all"]):
        assert done.returncode == 0, done.stderr
    predictors, alone = shared_prediction.make_all(), tmp_path / "alone"
    each = shared_prediction.predict_each(predictors, table, alone, PredictOptions(batch_size=8))
    expected = shared_prediction.arrays({name: find() for name, find in each.items()}, alone)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_a_process_that_fails_ends_all_with_its_reason(table, tmp_path) -> None:
    first, last = warm.run_together(2, [PROGRAM, table.folder, tmp_path, "fail"])
    assert first.returncode != 0 and last.returncode == 2
    assert "error: model.pt is missing here" in last.stderr
    reason = "stopped by the failure of another process: process 1: model.pt is missing here"
    assert reason in first.stderr
    assert "a fault of the program" not in first.stderr + last.stderr
    assert not (tmp_path / "found.npz").exists()


@pytest.mark.parametrize("num", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("whole", [False, True])
def test_each_row_has_one_owner_and_parts_are_even(table, num, whole):
    predictor = make_predictor()
    if whole:
        predictor = shared_prediction.make_all()["study"]
    rows = np.random.default_rng(1).permutation(len(table))[:-4]
    owners = owners_of(predictor, table, rows, num)
    assert owners.shape == rows.shape and owners.min() >= 0 and owners.max() < num
    readable = table.readable[rows]
    sizes = np.bincount(owners[readable], minlength=num)
    if whole:
        series = table.frame["store_file"].iloc[rows]
        of_series = series[readable].groupby(series[readable]).agg(lambda g: 0).index
        for name in of_series:
            assert len(set(owners[(series == name).to_numpy(dtype=bool)])) == 1
        # A cut is at the series nearest to it.
        assert sizes.max() <= np.ceil(table.readable.sum() / num) + 6
    else:
        assert sizes.max() - sizes.min() <= 1
    # Rows without pixels need a process that has some with pixels.
    assert (sizes[owners[~readable]] > 0).all()


def test_only_what_is_made_of_slices_alone_may_cut_a_series():
    slices = make_predictor()
    assert not slices.sees_whole_series
    assert not FoldsPredictor({0: slices, 1: slices}).sees_whole_series
    kinds = shared_prediction.make_all()
    assert kinds["study"].sees_whole_series and kinds["second"].sees_whole_series
    assert FoldsPredictor({0: kinds["study"]}).sees_whole_series


def test_no_row_with_pixels(table):
    rows = np.flatnonzero(~table.readable)
    assert not owners_of(make_predictor(), table, rows, 3).any()
