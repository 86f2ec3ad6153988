import json

import numpy as np
import pytest
from scipy.special import expit, logit

from common.scoring import shrinkage
from common.scoring.metrics import log_loss, weighted_log_loss
from common.scoring.study_calibration import (
    StudyCalibration,
    fit_study_calibration,
    study_features,
    study_probabilities,
    study_rule,
)


def test_study_features_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 9, 20]))
    p = rng.random((len(codes), 2)).round(1)
    found = study_features(p, codes, 6)
    for study in range(6):
        own = np.sort(p[codes == study], axis=0)[::-1]
        np.testing.assert_array_equal(found.largest[study], own[0])
        np.testing.assert_allclose(found.mean_top[study], own[:3].mean(axis=0))
        assert found.num_slices[study] == len(own)


def test_study_calibration_mends_the_largest_of_many_slices():
    rng = np.random.default_rng(1)
    num_studies, sizes = 600, rng.integers(5, 60, 600)
    codes = np.repeat(np.arange(num_studies), sizes)
    has_it = rng.random(num_studies) < 0.3
    positive = (rng.random(len(codes)) < 0.3) & has_it[codes]
    p = expit(rng.normal(-2.5, 1.2, len(codes)) + 2.5 * positive)[:, None]
    labels = np.zeros((num_studies, 1))
    np.maximum.at(labels[:, 0], codes, positive.astype(float))
    features = study_features(p, codes, num_studies)
    half = np.arange(num_studies) % 2 == 0
    found = fit_study_calibration(features.of(half), labels[half])
    again = StudyCalibration.from_json(found.to_json())
    calibrated = again.apply(features.of(~half))
    np.testing.assert_array_equal(calibrated, found.apply(features.of(~half)))
    raw = weighted_log_loss(labels[~half], features.largest[~half], [1])
    assert weighted_log_loss(labels[~half], calibrated, [1]) < 0.8 * raw
    assert "calibrated" in study_rule(again)
    unknown = fit_study_calibration(features, np.full((num_studies, 1), np.nan))
    np.testing.assert_allclose(unknown.apply(features), features.largest, rtol=1e-6)


def studies(num: int, seed: int, level: float = 0.0):
    """Features and labels of studies whose slices err upward; `level` is added to all logits."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(num), rng.integers(5, 40, num))
    has_it = rng.random(num) < 0.3
    positive = (rng.random(len(codes)) < 0.3) & has_it[codes]
    p = expit(rng.normal(-2.5 + level, 1.2, len(codes)) + 2.5 * positive)[:, None]
    labels = np.zeros((num, 1))
    np.maximum.at(labels[:, 0], codes, positive.astype(float))
    return study_features(p, codes, num), labels


def test_coefficients_are_the_mode_of_their_posterior_around_the_largest_slice():
    features, labels = studies(160, seed=2)
    patients = np.arange(160) // 4
    found = fit_study_calibration(features, labels, patients)
    x, y = features.matrix(0), labels[:, 0]
    center, scale = x.mean(axis=0), x.std(axis=0)
    assert y.mean() < 0.5
    share = len(set(patients[y == 1])) / y.sum()

    def posterior(weights, bias):
        u = x @ weights + bias
        standard = (weights - [1, 0, 0]) * scale
        level = bias + (weights - [1, 0, 0]) @ center
        prior = np.sum((standard / 0.5) ** 2) / 2 + (level / 2) ** 2 / 2
        return share * np.sum(np.log(1 + np.exp(-np.where(y == 1, u, -u)))) + prior

    weights, bias = np.array(found.coefficients[0]), found.bias[0]
    assert share < 0.9 and not np.allclose(weights, [1, 0, 0])
    best = posterior(weights, bias)
    for step in (1e-3, 1e-2, 0.1):
        for place in range(4):
            for sign in (1, -1):
                moved = np.zeros(4)
                moved[place] = sign * step
                assert posterior(weights + moved[:3], bias + moved[3]) > best


def test_few_studies_keep_the_largest_slice_and_say_so(caplog):
    features, labels = studies(12, seed=4)
    labels[:] = 0
    labels[3] = 1
    found = fit_study_calibration(features, labels, label_names=["epidural"])
    np.testing.assert_allclose(found.apply(features), features.largest, rtol=1e-6)
    assert "study calibration of epidural: the largest slice is kept" in caplog.text
    fit_study_calibration(features, labels, label_names=["subdural"], shared=True)
    assert "of subdural: the largest slice is kept" in caplog.text  # No line was fitted.
    # Studies of one patient are one patient's.
    features, labels = studies(200, seed=1)
    one = fit_study_calibration(features, labels, np.where(labels[:, 0] == 1, 0, 1))
    np.testing.assert_allclose(one.apply(features), features.largest, rtol=1e-6)
    own = fit_study_calibration(features, labels)
    assert log_loss(labels[:, 0], own.apply(features)[:, 0]) < 0.8 * log_loss(
        labels[:, 0], features.largest[:, 0]
    )


def test_other_studies_never_get_much_worse():
    ratios = []
    for seed in range(60):
        level = float(np.random.default_rng(seed).normal(0, 1))
        features, labels = studies(int(6 + seed / 2), seed, level)
        others, other_labels = studies(400, 1000 + seed, level)
        found = fit_study_calibration(features, labels)
        before = log_loss(other_labels[:, 0], others.largest[:, 0])
        ratios.append(log_loss(other_labels[:, 0], found.apply(others)[:, 0]) / before)
    assert max(ratios) < 1.05 and np.mean(ratios) < 0.95


def test_a_consistent_calibrator_raises_the_last_label_and_old_ones_do_not():
    features = study_features(np.array([[0.9, 0.1], [0.2, 0.5]]), [0, 1], 2)
    same = ((1.0, 0.0, 0.0),) * 2
    plain = StudyCalibration(same, (0.0, 0.0))
    np.testing.assert_allclose(plain.apply(features), [[0.9, 0.1], [0.2, 0.5]])
    union = StudyCalibration(same, (0.0, 0.0), consistent=True)
    np.testing.assert_allclose(union.apply(features), [[0.9, 0.9], [0.2, 0.5]])
    again = StudyCalibration.from_json(json.loads(json.dumps(union.to_json())))
    assert again == union and StudyCalibration.from_json(None) is None
    old = {"coefficients": [[1, 0, 0]] * 2, "bias": [0, 0]}
    assert StudyCalibration.from_json(old).consistent is False
    assert len({study_rule(None), study_rule(plain), study_rule(union)}) == 3


def test_study_probabilities_are_the_largest_or_the_calibrated():
    p, codes = np.array([[0.2], [0.7], [0.1]]), [0, 0, 1]
    np.testing.assert_array_equal(study_probabilities(p, codes, 2), [[0.7], [0.1]])
    calibration = StudyCalibration(((0.5, 0.25, 0.1),), (0.3,))
    u = [0.5 * logit(0.7) + 0.25 * logit(0.45) + 0.1 * np.log(2) + 0.3, 0.75 * logit(0.1) + 0.3]
    np.testing.assert_allclose(
        study_probabilities(p, codes, 2, calibration)[:, 0], expit(u), rtol=1e-12
    )


@pytest.mark.parametrize("num_rarer", [2, 40])
def test_patients_count_whatever_their_number_of_rows(num_rarer):
    y = np.r_[np.ones(4 * num_rarer), np.zeros(600)]
    patients = np.r_[np.arange(4 * num_rarer) // 4, 1000 + np.arange(600) // 3]
    rows = shrinkage.LabelRows(y, 0 * y, patients)
    assert rows.num_rarer == num_rarer and rows.share == pytest.approx(1 / 4)
    mirrored = shrinkage.LabelRows(1 - y, 0 * y, patients)
    assert mirrored.num_rarer == num_rarer and mirrored.share == pytest.approx(1 / 4)
    folds = rows.folds()
    for fold in np.unique(folds):
        assert set(y[folds == fold]) == {0, 1} == set(y[folds != fold])
    assert len(np.unique(folds)) == min(5, num_rarer)
