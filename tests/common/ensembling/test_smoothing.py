import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.special import expit
from tiny_dataset import make_tiny_dataset

from common.ensembling.sequences import SliceSequences, level_inputs
from common.ensembling.smoothing import Smoothing, choose_smoothings, smooth
from common.slices.table import SliceTable


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    folder = make_tiny_dataset(tmp_path_factory.mktemp("tiny"), 6, 30, size=8, num_folds=3)
    return SliceTable.load(folder)


@pytest.fixture(scope="module")
def inputs(table):
    logits = np.random.default_rng(2).normal(size=(len(table), 1, 6))
    return level_inputs(table, np.arange(len(table)), logits)


@pytest.mark.parametrize("unit", ["slices", "mm"])
def test_middle_of_a_series_is_that_of_scipy(table, unit):
    scale = 5.0 if unit == "mm" else 1.0  # slices are 5 mm apart
    rows = table.group_rows(0)
    values = np.random.default_rng(0).random((len(rows), 2))
    sequences = SliceSequences(table, rows)
    middle = slice(6, -6)
    found = smooth(sequences, values, "uniform", 2 * scale, unit)
    expected = uniform_filter1d(values, 5, axis=0)
    np.testing.assert_allclose(found[middle], expected[middle], rtol=1e-12)
    found = smooth(sequences, values, "gaussian", 1.5 * scale, unit)
    expected = gaussian_filter1d(values, 1.5, axis=0, radius=5)  # 3.5 widths are 5.25 slices
    np.testing.assert_allclose(found[middle], expected[middle], rtol=1e-12)


def test_ends_of_a_series_have_only_what_is_there(table):
    rows = table.group_rows(0)
    sequences = SliceSequences(table, rows)
    values = np.arange(30.0)[:, None]
    found = smooth(sequences, values, "exponential", 1.0, "slices")[0, 0]
    weights = np.exp(-np.arange(7.0))
    assert found == pytest.approx((weights * np.arange(7)).sum() / weights.sum(), rel=1e-12)


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_a_constant_stays_and_series_do_not_mix(table, space):
    rows = np.arange(len(table))
    series = SliceSequences(table, rows).series
    logits = np.repeat((series - 2.0)[:, None, None], 6, axis=2)
    level = Smoothing("gaussian", "slices", space, (2.0,) * 6)
    found = level.predict(level_inputs(table, rows, logits))
    np.testing.assert_allclose(found, logits[:, 0], atol=1e-5)


def test_width_zero_changes_nothing_and_labels_have_their_own(inputs):
    level = Smoothing("gaussian", "slices", "logits", (0.0, 1.0, 0.0, 2.0, 0.0, 0.0))
    found = level.predict(inputs)
    np.testing.assert_array_equal(found[:, [0, 2, 4, 5]], inputs.logits[:, 0][:, [0, 2, 4, 5]])
    for column, width in ((1, 1.0), (3, 2.0)):
        alone = Smoothing("gaussian", "slices", "logits", (width,) * 6).predict(inputs)
        np.testing.assert_array_equal(found[:, column], alone[:, column])


def test_slices_without_position_are_not_smoothed_in_mm(table):
    frame = table.frame.copy()
    frame.loc[frame["store_file"] == "series0.b2nd", "position_mm"] = np.nan
    blind = SliceTable(frame, table.folder)
    rows = np.arange(len(blind))
    values = np.random.default_rng(0).random((len(rows), 1))
    found = smooth(SliceSequences(blind, rows), values, "gaussian", 5.0, "mm")
    unknown = frame["position_mm"].isna().to_numpy()
    np.testing.assert_array_equal(found[unknown], values[unknown])
    assert (found[~unknown] != values[~unknown]).all()


def test_width_of_a_fold_is_chosen_on_the_others(inputs):
    """Fold 0 is best without smoothing, the others are blocks seen through noise."""
    rng = np.random.default_rng(3)
    num = len(inputs)
    folds = inputs.sequences.series % 3
    blocks = np.where((inputs.sequences.places // 10) % 2 == 1, 1.0, 0.0)
    labels = np.repeat(blocks[:, None], 6, axis=1)
    logits = 4 * labels - 2 + rng.normal(0, 3, labels.shape)
    alternating = inputs.sequences.places % 2
    is_first = folds == 0
    labels[is_first] = alternating[is_first, None]
    logits[is_first] = 6 * labels[is_first] - 3
    given = type(inputs)(inputs.sequences, logits[:, None].astype(np.float32), np.zeros(num))
    options = ([1.0, 2.0], "gaussian", "slices", "probabilities")
    chosen = choose_smoothings(given, labels, folds, *options)
    assert min(chosen[0].widths) > 0  # by the folds 1 and 2, which it would rather not follow
    changed = labels.copy()
    changed[is_first] = 1 - changed[is_first]
    assert choose_smoothings(given, changed, folds, *options)[0] == chosen[0]
    noisy, smoothed = expit(logits), expit(chosen[0].predict(given))
    others = ~is_first
    assert (abs(smoothed - labels)[others] ** 2).mean() < (abs(noisy - labels)[others] ** 2).mean()


def test_smoothing_is_kept_as_json():
    level = Smoothing("uniform", "mm", "logits", (1.0, 0.0))
    assert Smoothing.from_dict(level.to_dict()) == level
