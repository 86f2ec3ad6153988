"""The histogram detector finds brightness where there is some, and nothing where there is none."""

import numpy as np
import pytest

from benchmarks.demo_difficulty import NUM_BINS, histogram_features, measure


def make_slices(bright: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and folds of slices whose blood is bright, or is like brain."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (120, 6))
    features = []
    for any_label in labels[:, -1]:
        image = rng.normal(35, 4, (32, 32))
        if any_label and bright:
            image[4:14, 4:14] += 28
        features.append(histogram_features(image.astype(np.int16)))
    return np.stack(features), labels, np.arange(120) % 4


def test_features_are_shares_of_the_window_and_its_center() -> None:
    image = np.full((10, 20), -1000, np.int16)
    image[2, 5] = 40
    features = histogram_features(image)
    assert features[:NUM_BINS].sum() == pytest.approx(1 / 200)
    assert features[NUM_BINS // 2] == pytest.approx(1 / 200)
    assert features[NUM_BINS] == pytest.approx(0.5 / 200 * 200)
    np.testing.assert_allclose(features[NUM_BINS + 1 :], [2 / 10, 5 / 20])


def test_brightness_is_found_and_its_absence_too() -> None:
    assert measure(*make_slices(bright=True))["ratio_by_label"]["any"] < 0.3
    assert measure(*make_slices(bright=False))["ratio"] > 0.95
