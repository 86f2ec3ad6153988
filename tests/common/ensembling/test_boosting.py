import numpy as np
import pytest
from scipy.special import expit, logit
from tiny_dataset import make_tiny_dataset

from common.ensembling import boosting
from common.ensembling.boosting import (
    BoostedTrees,
    BoostingSettings,
    fit_boosting,
    label_features,
)
from common.ensembling.sequences import LevelInputs, level_inputs
from common.errors import InputError
from common.slices.table import SliceTable
from rsna_task import LABELS

SETTINGS = BoostingSettings(num_neighbors=2, num_rounds=20, patience=0, min_leaf=5, num_leaves=4)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    folder = make_tiny_dataset(tmp_path_factory.mktemp("tiny"), 9, 20, size=8, num_folds=3)
    return SliceTable.load(folder)


@pytest.fixture(scope="module")
def inputs(table) -> LevelInputs:
    logits = np.random.default_rng(2).normal(size=(len(table), 2, 6))
    return level_inputs(table, np.arange(len(table)), logits)


def folds_of(inputs: LevelInputs) -> np.ndarray:
    return inputs.sequences.series % 3


def feature_names(
    label_names: tuple[str, ...], label: int, num_neighbors: int, num_experiments: int
) -> list[str]:
    own = label_names[label]
    others = [name for name in label_names if name != own]
    names = []
    for number in range(num_experiments):
        around = range(-num_neighbors, num_neighbors + 1)
        names += [f"{number}.{own}.{offset:+d}" for offset in around]
        names += [f"{number}.{name}" for name in others]
        names += [f"{number}.{name}.series_mean" for name in (own, *others)]
        names += [f"{number}.{own}.series_max", f"{number}.{own}.series_std"]
    return [*names, "rank", "relative_rank", "num_slices", "brain_fraction"]


def test_features_are_what_their_names_say(inputs):
    names = feature_names(LABELS, 1, 2, 2)
    values = label_features(inputs, 1, 2)
    assert values.shape == (len(inputs), len(names)) and len(set(names)) == len(names)
    column = dict(zip(names, values.T))
    logits = inputs.logits
    np.testing.assert_array_equal(column["1.intraparenchymal.+0"], logits[:, 1, 1])
    np.testing.assert_array_equal(column["0.any"], logits[:, 0, 5])
    middle = np.flatnonzero(inputs.sequences.places == 7)
    np.testing.assert_array_equal(column["0.intraparenchymal.-2"][middle], logits[middle - 2, 0, 1])
    assert np.isnan(column["0.intraparenchymal.+1"][inputs.sequences.places == 19]).all()
    first = inputs.sequences.series == 0
    # appian's mean was of one label for all of them
    for label, name in enumerate(LABELS):
        expected = expit(logits[first, 1, label]).mean()
        np.testing.assert_allclose(column[f"1.{name}.series_mean"][first], expected, rtol=1e-5)
    assert column["relative_rank"].max() == 1 and set(column["num_slices"]) == {20}


def test_trees_see_the_neighbours_and_not_the_fold_they_score(inputs):
    """The label of a slice is told by its neighbour alone."""
    folds = folds_of(inputs)
    labels = np.full((len(inputs), 6), np.nan)
    before = inputs.sequences.shifted(inputs.logits[:, 0, 0], -1)
    labels[:, 0] = np.where(np.isnan(before), 0, before > 0)
    levels = fit_boosting(inputs, labels, folds, SETTINGS)
    correct = (levels[0].predict(inputs)[:, 0] > 0) == (labels[:, 0] == 1)
    assert correct[folds == 0].mean() > 0.85
    # what is unknown everywhere, or of one class, has a constant
    assert levels[0].boosters[1:] == [None] * 5
    changed = labels.copy()
    changed[folds == 0, 0] = 1 - changed[folds == 0, 0]
    for settings in (SETTINGS, BoostingSettings(2, 12, 3, min_leaf=5, num_leaves=4)):
        one = fit_boosting(inputs, labels, folds, settings)
        other = fit_boosting(inputs, changed, folds, settings)
        texts = [model[0].boosters[0].model_to_string() for model in (one, other)]
        assert texts[0] == texts[1]
        assert one[1].boosters[0].model_to_string() != other[1].boosters[0].model_to_string()


def test_rounds_end_where_inner_folds_stop_improving(inputs):
    labels = np.full((len(inputs), 6), np.nan)
    labels[:, 0] = np.random.default_rng(0).integers(0, 2, len(inputs))  # nothing to learn
    settings = BoostingSettings(2, 40, 3, learning_rate=0.3, min_leaf=5)
    levels = fit_boosting(inputs, labels, folds_of(inputs), settings)
    assert max(level.boosters[0].num_trees() for level in levels.values()) < 20


def test_boosters_are_text_files(inputs, tmp_path):
    labels = (inputs.logits[:, 0] > 0).astype(float)
    labels[:, 3] = 0
    level = fit_boosting(inputs, labels, folds_of(inputs), SETTINGS)[0]
    content = level.save(tmp_path)
    again = BoostedTrees.load(tmp_path, content)
    np.testing.assert_array_equal(again.predict(inputs), level.predict(inputs))
    assert (tmp_path / "label_0.txt").read_text().startswith("tree")
    assert not (tmp_path / "label_3.txt").exists()
    (tmp_path / "label_0.txt").unlink()
    with pytest.raises(InputError, match=r"label_0\.txt can't be read as a booster"):
        BoostedTrees.load(tmp_path, content)


def test_two_folds_cannot_stop_early(inputs):
    labels = np.zeros((len(inputs), 6))
    settings = BoostingSettings(patience=3)
    with pytest.raises(InputError, match=r"--sl_patience 3: .*give --sl_patience 0"):
        fit_boosting(inputs, labels, folds_of(inputs) % 2, settings)


def test_missing_package_is_named(monkeypatch, inputs):
    monkeypatch.setattr(boosting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements/boosting\.txt"):
        fit_boosting(inputs, np.zeros((len(inputs), 6)), folds_of(inputs), SETTINGS)


def test_a_label_of_one_class_is_a_constant_half_a_slice_off(inputs):
    labels = np.zeros((len(inputs), 6))
    labels[:, 1] = 1.0
    model = fit_boosting(inputs, labels, folds_of(inputs), SETTINGS)[0]
    num = int((folds_of(inputs) != 0).sum())
    assert model.boosters == [None] * 6
    rates = [1 / (2 * num), 1 - 1 / (2 * num)] + [1 / (2 * num)] * 4
    assert model.constants == pytest.approx([logit(rate) for rate in rates])


def test_a_label_known_in_one_training_fold_alone_has_all_its_trees(inputs, caplog):
    folds = folds_of(inputs)
    labels = (np.random.default_rng(3).random((len(inputs), 6)) < 0.4).astype(float)
    labels[folds == 2, 0] = np.nan
    settings = BoostingSettings(num_neighbors=1, num_rounds=3, patience=2, min_leaf=5)
    models = fit_boosting(inputs, labels, folds, settings)
    assert models[0].boosters[0].num_trees() == 3
    assert "known in one training fold alone" in caplog.text
