"""Doubts in labels and predictions, against plain loops and against planted errors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.scoring.doubts import label_doubts, neighbour_doubts


@given(st.integers(0, 2**32 - 1))
def test_the_least_self_confident_labels_come_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.001, 0.999, (40, 3))
    y = rng.choice([0.0, 1.0, np.nan], (40, 3))
    doubts = label_doubts(y, p)
    confidence = np.where(y == 1, p, 1 - p)
    np.testing.assert_array_equal(doubts > 0, ~np.isnan(y) & (confidence < 0.5))
    found = doubts[doubts > 0]
    np.testing.assert_allclose(np.exp(-found), confidence[doubts > 0], rtol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_neighbours_by_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(5), rng.integers(1, 6, 5))
    p = rng.random((len(groups), 2))
    expected = np.zeros(p.shape)
    for i, k in np.ndindex(p.shape):
        beside = [j for j in (i - 1, i + 1) if 0 <= j < len(p) and groups[j] == groups[i]]
        steps = [p[i, k] - p[j, k] for j in beside]
        if len(steps) == 2 and steps[0] * steps[1] > 0:
            expected[i, k] = min(map(abs, steps))
    np.testing.assert_array_equal(neighbour_doubts(p, groups), expected)


def test_a_lone_slice_stands_out_and_the_edge_of_a_bleed_does_not() -> None:
    lone, edge = [0.1, 0.1, 0.9, 0.2, 0.1], [0.1, 0.1, 0.9, 0.9, 0.9]
    p, groups = np.array([lone + edge]).T, np.repeat([0, 1], 5)
    np.testing.assert_allclose(neighbour_doubts(p, groups)[:, 0], [0, 0, 0.7, 0, 0] + 5 * [0])
    for n in (0, 1, 2):
        assert not neighbour_doubts(p[:n], groups[:n]).any()
