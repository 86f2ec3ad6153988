import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.slices.folds import draw_studies


def make(num_studies, num_labels, share, seed):
    rng = np.random.default_rng(seed)
    studies = np.repeat([f"study{i}" for i in range(num_studies)], 3)
    labels = (rng.random((len(studies), num_labels)) < share).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    return studies, labels


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    st.integers(0, 99),
    st.integers(1, 45),
)
def test_whole_studies_with_a_positive_of_each_label(num_studies, num_labels, share, seed, size):
    studies, labels = make(num_studies, num_labels, share, seed)
    chosen = draw_studies(studies, labels, size, seed)
    inside = set(studies[chosen])
    assert len(inside) == min(size, num_studies)
    assert not inside & set(studies[~chosen])
    if size >= num_labels:
        has_positive = (np.nan_to_num(labels) == 1).any(axis=0)
        assert np.array_equal((np.nan_to_num(labels[chosen]) == 1).any(axis=0), has_positive)


def test_rows_decide_and_not_their_order():
    studies, labels = make(30, 3, 0.05, 1)
    chosen = draw_studies(studies, labels, 9, 7)
    shuffled = np.random.default_rng(0).permutation(len(studies))
    assert np.array_equal(draw_studies(studies[shuffled], labels[shuffled], 9, 7), chosen[shuffled])
    assert not np.array_equal(draw_studies(studies, labels, 9, 8), chosen)


@pytest.mark.parametrize("num_positive", [5, 20, 35])
def test_positives_have_their_share(num_positive):
    studies = np.array([f"s{i}" for i in range(40)])
    labels = (np.arange(40) < num_positive).astype(float)[:, None]
    chosen = draw_studies(studies, labels, 8, 3)
    assert labels[chosen].sum() == num_positive / 5


@settings(max_examples=100)
@given(st.lists(st.booleans(), min_size=2, max_size=30), st.data())
def test_the_share_of_positive_studies_is_that_of_the_whole_but_one_always_comes(kinds, data):
    size = data.draw(st.integers(1, len(kinds)))
    studies = np.repeat([f"s{i}" for i in range(len(kinds))], 2)
    labels = np.repeat(kinds, 2).astype(float)[:, None]
    labels[::2] = np.nan  # one positive slice makes a positive study
    chosen = draw_studies(studies, labels, size, data.draw(st.integers(0, 9)))
    assert chosen.sum() == 2 * size and np.array_equal(chosen[::2], chosen[1::2])
    expected = max(round(size * sum(kinds) / len(kinds)), int(any(kinds)))
    assert sum(np.array(kinds)[chosen[::2]]) == expected


def test_the_rarest_label_comes_first_where_not_all_fit():
    studies = np.array([f"s{i}" for i in range(20)])
    labels = np.zeros((20, 3))
    labels[3:9, 0], labels[12, 1], labels[[14, 15], 2] = 1, 1, 1
    for seed in range(20):
        assert np.flatnonzero(draw_studies(studies, labels, 1, seed)).tolist() == [12]
        two = np.flatnonzero(draw_studies(studies, labels, 2, seed))
        assert two[0] == 12 and two[1] in (14, 15)


def test_one_study_with_all_labels_needs_no_other():
    studies = np.array([f"s{i}" for i in range(20)])
    labels = np.zeros((20, 2))
    labels[5], labels[6:9, 1] = 1, 1  # the only one with the first label has the second too
    for seed in range(20):
        chosen = draw_studies(studies, labels, 4, seed)
        # 4 of 20 have any: 0.8 of 4 studies are one.
        assert np.flatnonzero(chosen & labels.any(axis=1)).tolist() == [5]


def test_as_many_studies_as_there_are_or_more_are_all():
    studies, labels = make(5, 2, 0.3, 0)
    for size in (5, 6):
        assert draw_studies(studies, labels, size, 0).all()
    assert not draw_studies(studies, labels, 4, 0).all()
