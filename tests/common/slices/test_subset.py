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
