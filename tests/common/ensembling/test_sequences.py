import numpy as np
import pytest
from tiny_dataset import make_tiny_dataset

from common.ensembling.sequences import SliceSequences, level_inputs
from common.slices.table import SliceTable


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    folder = make_tiny_dataset(tmp_path_factory.mktemp("tiny"), num_patients=3, num_slices=5)
    return SliceTable.load(folder)


def test_neighbours_are_those_of_the_table(table):
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(table))
    values = rng.normal(size=(len(rows), 2))
    sequences = SliceSequences(table, rows)
    value_of = dict(zip(rows.tolist(), values))
    for offset in range(-6, 7):
        shifted = sequences.shifted(values, offset)
        for place, row in enumerate(rows):
            group = table.group_rows(int(row)).tolist()
            at = group.index(row) + offset
            expected = value_of[group[at]] if 0 <= at < len(group) else [np.nan, np.nan]
            np.testing.assert_array_equal(shifted[place], expected)


def test_a_slice_that_is_not_among_the_rows_keeps_its_place(table):
    rows = table.group_rows(0)[[0, 1, 3, 4]]
    sequences = SliceSequences(table, rows)
    shifted = sequences.shifted(np.array([0.0, 1.0, 3.0, 4.0]), 1)
    np.testing.assert_array_equal(shifted, [1.0, np.nan, 4.0, np.nan])
    np.testing.assert_array_equal(sequences.gaps_mm(-1), [np.nan, 5.0, np.nan, 5.0])
    assert sequences.sizes.tolist() == [5] * 4 and sequences.places.tolist() == [0, 1, 3, 4]


def test_statistics_are_of_each_series(table):
    rows = np.arange(len(table))
    values = np.random.default_rng(1).normal(size=(len(rows), 3))
    sequences = SliceSequences(table, rows)
    for name in ("mean", "max", "std"):
        found = sequences.series_statistic(values, name)
        for series in range(3):
            chosen = sequences.series == series
            expected = getattr(values[chosen], name)(axis=0)
            np.testing.assert_allclose(found[chosen], np.tile(expected, (chosen.sum(), 1)))


def test_no_rows_make_no_sequences(table):
    sequences = SliceSequences(table, np.empty(0, dtype=np.int64))
    assert len(sequences) == 0 and sequences.shifted(np.empty((0, 2)), 1).shape == (0, 2)


def test_a_spread_that_is_small_beside_the_mean_is_kept_in_float32(table):
    rows = np.arange(len(table))
    values = (1 + 1e-6 * np.random.default_rng(1).normal(size=(len(rows), 2))).astype(np.float32)
    sequences = SliceSequences(table, rows)
    found = sequences.series_statistic(values, "std")
    for series in range(3):
        chosen = sequences.series == series
        expected = values[chosen].astype(np.float64).std(axis=0)
        np.testing.assert_allclose(found[chosen][0], expected, rtol=1e-9)
        assert (expected > 0).all()


def test_nan_logits_are_no_missing_slices(table):
    logits = np.zeros((len(table), 1, 2))
    logits[3, 0, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of .* logit that is NaN"):
        level_inputs(table, np.arange(len(table)), logits)
