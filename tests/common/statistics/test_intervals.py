import numpy as np
import pytest

from common.scoring import metrics
from common.statistics import intervals as intervals_module
from common.statistics.intervals import _WeightedAuc, patient_intervals

NAMES = ("a", "any")
WEIGHTS = (1.0, 2.0)


def correlated_set(seed: int, num_patients: int = 40, num_slices: int = 10):
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), num_slices)
    tendency = rng.random((num_patients, 2))[patients]
    labels = (rng.random((len(patients), 2)) < tendency).astype(float)
    probabilities = np.clip(
        np.round(0.5 * tendency + 0.5 * rng.random(labels.shape), 2), 0.01, 0.99
    )
    return labels, probabilities, patients


def intervals(labels, probabilities, patients, **options):
    return patient_intervals(
        labels,
        probabilities,
        patients,
        label_names=NAMES,
        weights=WEIGHTS,
        prior=metrics.training_prior(labels),
        **options,
    )


def test_each_resample_equals_the_metric_of_the_repeated_rows():
    labels, probabilities, patients = correlated_set(0)
    labels[5:9, 0] = np.nan
    draws = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40))
    rows = np.concatenate(
        [np.flatnonzero(patients == p) for p in range(40) for _ in range(draws[p])]
    )
    area = _WeightedAuc(labels[:, 0], probabilities[:, 0], patients)(draws)
    assert area == pytest.approx(metrics.auc(labels[rows, 0], probabilities[rows, 0]), abs=1e-12)


def test_intervals_equal_those_of_a_plain_loop():
    labels, probabilities, patients = correlated_set(2)
    result = intervals(labels, probabilities, patients, num_resamples=120, seed=9)
    rng = np.random.default_rng(9)
    prior = metrics.training_prior(labels)
    losses, ratios, areas = [], [], []
    for size in (50, 50, 20):
        for draws in rng.multinomial(40, np.full(40, 1 / 40), size=size):
            rows = np.concatenate(
                [np.tile(np.flatnonzero(patients == p), n) for p, n in enumerate(draws)]
            )
            y, p = labels[rows], probabilities[rows]
            losses.append(metrics.weighted_log_loss(y, p, WEIGHTS))
            constant = np.broadcast_to(prior, y.shape)
            ratios.append(losses[-1] / metrics.weighted_log_loss(y, constant, WEIGHTS))
            areas.append(metrics.auc(y[:, 1], p[:, 1]))
    for key, values in (("weighted_log_loss", losses), ("weighted_log_loss_to_prior", ratios)):
        np.testing.assert_allclose(result[key], np.percentile(values, [2.5, 97.5]), atol=1e-12)
    np.testing.assert_allclose(result["auc"]["any"], np.percentile(areas, [2.5, 97.5]), atol=1e-12)
    assert result["num_patients"] == 40


def test_more_slices_of_the_same_patients_do_not_narrow_the_interval():
    labels, probabilities, patients = correlated_set(3)
    once = intervals(labels, probabilities, patients, num_resamples=200)
    thrice = intervals(
        np.tile(labels, (3, 1)), np.tile(probabilities, (3, 1)), np.tile(patients, 3),
        num_resamples=200,
    )  # fmt: skip
    np.testing.assert_allclose(thrice["weighted_log_loss"], once["weighted_log_loss"])
    np.testing.assert_allclose(thrice["auc"]["any"], once["auc"]["any"])
    low, high = once["weighted_log_loss"]
    assert low < metrics.weighted_log_loss(labels, probabilities, WEIGHTS) < high


def test_what_is_undefined_has_no_interval():
    labels, probabilities, patients = correlated_set(4)
    labels[:, 0] = 0
    result = intervals(labels, probabilities, patients, num_resamples=60)
    assert result["auc"]["a"] is None
    assert result["auc"]["any"] is not None
    one = intervals(labels, probabilities, np.zeros(len(labels)))
    assert one["weighted_log_loss"] is None
    unknown = intervals(np.full_like(labels, np.nan), probabilities, patients, num_resamples=60)
    assert unknown["weighted_log_loss"] is None
    assert unknown["weighted_log_loss_to_prior"] is None


def test_areas_of_many_rows_are_of_fewer_resamples(monkeypatch):
    rows = correlated_set(5)
    whole, few = (intervals(*rows, num_resamples=num) for num in (130, 60))
    assert whole["num_resamples_auc"] == 130
    monkeypatch.setattr(intervals_module, "_AREA_ROWS", 60 * len(rows[0]))
    monkeypatch.setattr(intervals_module, "_FEWEST_AREAS", 20)
    found = intervals(*rows, num_resamples=130)
    assert (found["num_resamples"], found["num_resamples_auc"]) == (130, 60)
    assert found["auc"] == few["auc"] != whole["auc"]
    assert found["weighted_log_loss"] == whole["weighted_log_loss"]
    monkeypatch.setattr(intervals_module, "_FEWEST_AREAS", 70)
    assert intervals(*rows, num_resamples=130)["num_resamples_auc"] == 70
