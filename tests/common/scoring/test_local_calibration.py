from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from common.errors import InputError
from common.scoring.calibration import (
    ConsistentCalibration,
    calibrator_from_json,
    calibrator_to_json,
    composed,
    fit_calibration,
)
from common.scoring.local_calibration import (
    LocalData,
    cross_fit_local,
    fit_local,
    score_local,
)
from common.scoring.metrics import weighted_log_loss
from common.scoring.predictions import Calibration
from common.scoring.study_calibration import LARGEST, study_rule

NAMES = ("rare", "common", "any")
WEIGHTS = (1.0, 1.0, 2.0)
# Of the labels, in the share of patients that have them and of their slices.
PATIENTS, SLICES = np.array([0.08, 0.3]), 0.25


def drawn(seed: int, num: int, slope: float, bias: float, num_slices: int = 30) -> LocalData:
    """Studies of a patient each, whose true logits are `slope * logits + bias`."""
    rng = np.random.default_rng(seed)
    of_patient = rng.random((num, 2)) < PATIENTS
    codes = np.repeat(np.arange(num), num_slices)
    own = np.where(of_patient[codes], SLICES, 0.003)
    # Logits say more than the shares do: noise around them that the labels are drawn with.
    true = np.log(own / (1 - own)) + rng.normal(0, 1.0, own.shape)
    labels = (rng.random(own.shape) < expit(true)).astype(float)
    labels = np.column_stack([labels, labels.max(axis=1)])
    of_any = 1 - np.prod(1 - expit(true), axis=1)
    true = np.column_stack([true, np.log(of_any / (1 - of_any))])
    studies = labels.reshape(num, num_slices, 3).max(axis=1)
    ids = np.array([f"p{n}" for n in range(num)])
    used = np.ones(len(codes), dtype=bool)
    return LocalData((true - bias) / slope, labels, ids[codes], codes, used, studies, ids)


def losses(data: LocalData, fitted) -> np.ndarray:
    """The weighted log loss of slices and of studies, not calibrated and calibrated."""
    slices = expit(fitted.slices.apply(data.logits))
    studies = fitted.studies.apply(data.features(fitted.slices))
    pairs = (
        (data.labels, expit(data.logits), slices),
        (data.study_labels, data.features(None).largest, studies),
    )
    return np.array([[weighted_log_loss(y, p, WEIGHTS) for p in both] for y, *both in pairs])


def test_thirty_studies_mend_a_network_that_is_too_sure_and_spoil_none():
    """Scored on 300 studies of others, over 20 draws of 30."""
    for slope, bias, most in ((0.4, -1.5, 0.8), (1.0, 0.0, 1.03)):
        others = drawn(999, 300, slope, bias)
        found = np.array([losses(others, fit_local(drawn(n, 30, slope, bias))) for n in range(20)])
        ratios = found[:, :, 1] / found[:, :, 0]
        assert ratios[:, 0].mean() < most, (slope, ratios[:, 0])
        # Of studies the largest slice is always too high, so that both gain.
        assert ratios[:, 1].mean() < 0.95, (slope, ratios[:, 1])
        assert ratios.max() < (1.1 if most > 1 else 1.0), (slope, ratios.max(axis=0))


def test_a_rare_label_learns_from_the_others_what_all_share():
    """Two patients have it: alone it would stay as it is."""
    data = drawn(3, 40, 0.4, -1.5)
    alone = fit_calibration("temperature", data.labels, data.logits, data.patients)
    both = fit_local(data).slices
    assert alone.temperature[0] == 1 and alone.bias[0] == 0
    assert 1 / both.temperature[0] == pytest.approx(0.4, abs=0.2)
    assert both.bias[0] == pytest.approx(-1.5, abs=0.7)


def test_no_patient_is_scored_by_a_fit_to_its_own_labels():
    data = drawn(5, 40, 0.4, -1.5)
    slices, studies = cross_fit_local(data, seed=1)
    turned = data.patients == "p7"
    labels = np.where(turned[:, None], 1 - data.labels, data.labels)
    of_studies = data.study_labels.copy()
    of_studies[7] = 1 - of_studies[7]
    other = LocalData(
        data.logits, labels, data.patients, data.codes, data.used, of_studies, data.study_patients
    )
    again = cross_fit_local(other, seed=1)
    np.testing.assert_array_equal(again[0][turned], slices[turned])
    np.testing.assert_array_equal(again[1][7], studies[7])
    assert not np.array_equal(again[0], slices)
    # And as a plain loop over one group would have it.
    fitted = fit_local(data, np.setdiff1d(data.study_patients, _group_of(data, "p7", 1)))
    np.testing.assert_allclose(expit(fitted.slices.apply(data.logits[turned])), slices[turned])


def _group_of(data: LocalData, patient: str, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(np.sort(data.study_patients))
    return next(group for group in np.array_split(order, 10) if patient in group)


def test_the_scores_are_those_of_the_tables():
    data = drawn(5, 60, 0.4, -1.5)
    slices, studies = fitted = cross_fit_local(data, seed=1)
    scores = score_local(data, fitted, NAMES, WEIGHTS)
    raw = weighted_log_loss(data.labels, expit(data.logits), WEIGHTS)
    own = weighted_log_loss(data.labels, slices, WEIGHTS)
    assert scores["slices"]["before"]["weighted_log_loss"] == pytest.approx(raw)
    assert scores["slices"]["calibrated"]["weighted_log_loss"] == pytest.approx(own)
    assert scores["slices"]["gain"]["difference"] == pytest.approx(raw - own)
    low, high = scores["slices"]["gain"]["interval"]
    assert 0 < low < raw - own < high
    assert scores["studies"]["calibrated"]["weighted_log_loss"] == pytest.approx(
        weighted_log_loss(data.study_labels, studies, WEIGHTS)
    )


def test_labels_of_studies_alone_calibrate_studies_alone():
    data = drawn(6, 60, 0.4, -1.5)
    unknown = np.full_like(data.labels, np.nan)
    of_studies = LocalData(
        data.logits, unknown, data.patients, data.codes, data.used, data.study_labels,
        data.study_patients,
    )  # fmt: skip
    fitted = fit_local(of_studies)
    assert fitted.slices is None
    assert study_rule(fitted.studies) != LARGEST
    scores = score_local(of_studies, cross_fit_local(of_studies, seed=0), NAMES, WEIGHTS)
    assert list(scores) == ["studies"] and scores["studies"]["gain"]["difference"] > 0.02


def test_a_series_of_a_network_that_has_its_own_stands_for_the_largest_slice():
    data = drawn(7, 60, 1.0, 0.0)
    true = np.where(data.study_labels == 1, 2.0, -2.0)
    own = LocalData(
        data.logits, data.labels, data.patients, data.codes, data.used, data.study_labels,
        data.study_patients, series_logits=true[data.codes],
        calibration=ConsistentCalibration(None),
    )  # fmt: skip
    np.testing.assert_allclose(own.features(None).largest, expit(true))
    fitted = fit_local(own)
    assert isinstance(fitted.slices, ConsistentCalibration) and fitted.studies.consistent
    found = fitted.studies.apply(own.features(fitted.slices))
    assert weighted_log_loss(own.study_labels, found, WEIGHTS) < 0.1


def test_labels_that_say_little_keep_what_a_predictor_has_and_others_better_it():
    """What the labels of a hundred patients taught is not lost by a calibration to five more."""
    others, first = drawn(999, 200, 0.4, -1.5), fit_local(drawn(1, 100, 0.4, -1.5))
    known = {"calibration": first.slices, "study_calibration": first.studies}
    raw, before = losses(others, first).T
    few = [fit_local(replace(drawn(seed, 5, 0.4, -1.5), **known)) for seed in range(2, 8)]
    after = np.mean([losses(others, fitted)[:, 1] for fitted in few], axis=0)
    assert (after < 1.05 * before).all() and (after < 0.8 * raw).all(), (raw, before, after)
    elsewhere = replace(drawn(3, 60, 0.8, 0.5), **known)
    others = drawn(998, 200, 0.8, 0.5)
    before, after = (losses(others, one)[:, 1] for one in (first, fit_local(elsewhere)))
    assert (after < 0.97 * before).all(), (before, after)
    scores = score_local(elsewhere, cross_fit_local(elsewhere, seed=1), NAMES, WEIGHTS)
    labels = elsewhere.labels, elsewhere.study_labels
    for part, y, p in zip(("slices", "studies"), labels, elsewhere.before, strict=True):
        expected = pytest.approx(weighted_log_loss(y, p, WEIGHTS))
        assert scores[part]["before"]["weighted_log_loss"] == expected


@pytest.mark.parametrize("kind", ["none", "temperature", "isotonic", "consistent"])
def test_one_calibrator_does_what_two_do(kind):
    data = drawn(4, 60, 0.4, -1.5)
    first = None
    if kind in ("temperature", "isotonic"):
        first = fit_calibration(kind, data.labels, data.logits, data.patients)
    second = Calibration((0.7, 2.0, 1.5), (-1.0, 0.3, 0.0))
    logits = np.clip(data.logits, -30, 30)
    expected = second.apply(logits if first is None else first.apply(logits))
    if kind == "consistent":
        first = ConsistentCalibration(None)
        expected[:, -1] = expected.max(axis=1)
    both = composed(first, second)
    np.testing.assert_allclose(both.apply(logits), expected, atol=1e-9)
    again = calibrator_from_json(calibrator_to_json(both))
    np.testing.assert_allclose(again.apply(logits), expected, atol=1e-9)


def test_one_patient_is_too_few():
    data = drawn(0, 1, 1.0, 0.0)
    with pytest.raises(InputError, match="of one patient"):
        cross_fit_local(data, seed=0)
