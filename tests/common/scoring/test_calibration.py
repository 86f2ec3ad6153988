import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from common.scoring import calibration, shrinkage
from common.scoring.calibration import (
    ConsistentCalibration,
    IsotonicCalibration,
    calibrator_from_json,
    calibrator_to_json,
    fit_calibration,
)
from common.scoring.metrics import expected_calibration_error, log_loss
from common.scoring.predictions import Calibration
from common.scoring.shrinkage import LabelRows, _gain


def drawn(num_rows: int = 4000, num_labels: int = 2, seed: int = 0):
    """Labels, and logits twice as far from 0 as they should be, and too high."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.5, (num_rows, num_labels))
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    return labels, 2 * truth + 1


def test_with_plenty_of_data_temperature_is_logistic_regression_without_a_penalty():
    labels, logits = drawn(40_000)
    labels[::7, 1] = np.nan
    found = fit_calibration("temperature", labels, logits)
    for column in range(2):
        known = ~np.isnan(labels[:, column])
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            logits[known, column : column + 1], labels[known, column]
        )
        assert 1 / found.temperature[column] == pytest.approx(reference.coef_[0, 0], rel=1e-3)
        assert found.bias[column] == pytest.approx(reference.intercept_[0], rel=2e-3)
    assert found.temperature[0] == pytest.approx(2, rel=0.05)


def clustered(num_patients: int, seed: int, slices: int = 12):
    """Labels, logits that are too high and too far from 0, and patients; some have no positive."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), slices)
    truth = rng.normal(-1, 1, (len(patients), 1)) + rng.normal(0, 2, num_patients)[patients, None]
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    return labels, 2 * truth + 1.5, patients


def test_a_temperature_is_the_mode_of_its_posterior_on_a_grid():
    """Rows count as the patients of the rarer class do; the prior is around no change."""
    labels, logits, patients = clustered(40, seed=3)
    found = fit_calibration("temperature", labels, logits, patients)
    y, z = labels[:, 0], logits[:, 0]
    assert y.mean() < 0.5
    share = len(set(patients[y == 1])) / y.sum()

    def posterior(slope, bias):
        u = slope * z + bias
        loss = share * np.sum(np.log(1 + np.exp(-np.where(y == 1, u, -u))))
        return loss + ((slope - 1) / 0.5) ** 2 / 2 + bias**2 / 2

    slope, bias = 1 / found.temperature[0], found.bias[0]
    best = posterior(slope, bias)
    for step in (1e-3, 1e-2, 0.1):
        for ds, db in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            assert posterior(slope + ds * step, bias + db * step) > best
    assert slope < 0.8 and bias < -0.2


def test_a_fit_to_the_common_class_mirrors_that_to_the_rare_one():
    labels, logits, patients = clustered(40, seed=3)
    found = fit_calibration("temperature", labels, logits, patients)
    mirrored = fit_calibration("temperature", 1 - labels, -logits, patients)
    assert mirrored.temperature[0] == pytest.approx(found.temperature[0], rel=1e-4)
    assert mirrored.bias[0] == pytest.approx(-found.bias[0], rel=1e-3)


def test_the_gain_on_other_patients_and_its_error_are_those_of_a_plain_loop():
    """The fit is the share of positives; each patient is scored without its fold."""
    labels, logits, patients = clustered(23, seed=1)
    rows = LabelRows(labels[:, 0], logits[:, 0], patients)
    folds = rows.folds()
    assert all(len(set(folds[patients == patient])) == 1 for patient in set(patients))
    assert np.ptp([len(set(patients[folds == fold])) for fold in range(5)]) == 1
    gains = np.zeros(len(patients))
    for row in range(len(patients)):
        p = rows.labels[folds != folds[row]].mean()
        y, raw = rows.labels[row], expit(logits[row, 0])
        gains[row] = np.log(p if y else 1 - p) - np.log(raw if y else 1 - raw)
    total = [gains[patients == patient].sum() for patient in range(23)]
    mean = sum(total) / len(gains)
    squares = sum((own - 12 * mean) ** 2 for own in total)
    error = np.sqrt(squares * 23 / 22) / len(gains)
    found = _gain(rows, lambda own: logit(own.labels.mean()), lambda u, own: 0 * own.logits + u)
    np.testing.assert_allclose(found, (mean, error), rtol=1e-9)


@pytest.mark.parametrize("num_rarer", [2, 5, 200])
def test_a_fit_is_kept_where_it_gains_with_confidence(monkeypatch, num_rarer):
    labels = np.r_[np.ones(num_rarer), np.zeros(300)]
    rows = LabelRows(labels, 0 * labels, np.arange(len(labels)))
    assert rows.num_rarer == num_rarer
    least = stats.t.ppf(0.95, num_rarer - 1)
    for gain, is_kept in ((1.01 * least, True), (0.99 * least, False)):
        monkeypatch.setattr(shrinkage, "_gain", lambda *given, gain=gain: (0.1 * gain, 0.1))
        fitted, reason = shrinkage.fit_if_it_helps(rows, lambda own: "fitted", lambda *given: None)
        assert (fitted, reason) == ("fitted", "") if is_kept else "0.1000" in reason


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_a_label_that_few_patients_separate_stays_as_it_is(kind, caplog):
    """A fit without a prior made the logit -2 one of -38 here."""
    labels = np.repeat([[1.0], [0.0], [0.0], [0.0]], 10, axis=0)
    logits = np.where(labels == 1, 2.0, -2.0)
    patients = np.repeat(np.arange(4), 10)
    found = fit_calibration(kind, labels, logits, patients, ["epidural"])
    np.testing.assert_allclose(found.apply(logits), logits, atol=1e-9)
    assert "epidural" in caplog.text and "fewer than two patients" in caplog.text
    many = fit_calibration(kind, np.tile(labels, (2, 1)), np.tile(logits, (2, 1)), None)
    assert np.abs(many.apply(logits)).max() < 8


def small_cohorts(num: int, low: int, high: int, seed: int):
    """Cohorts of few patients, each with 400 others of the same kind; networks of any quality."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        separation, spread = rng.uniform(1, 4), rng.uniform(0, 1)
        scale = np.exp(rng.normal(0, 0.6)) if rng.random() < 0.7 else 1.0
        shift = rng.normal() if rng.random() < 0.7 else 0.0
        rate = np.exp(rng.uniform(np.log(0.1), np.log(0.6)))
        sides = []
        for size in (int(rng.integers(low, high)), 400):
            patients = np.repeat(np.arange(size), 15)
            has_it = rng.random(size)[patients] < rate
            y = ((rng.random(len(patients)) < 0.3) & has_it).astype(float)
            latent = separation * (y - 0.5) + rng.normal(0, 1, len(y))
            latent += spread * rng.normal(0, 1, size)[patients]
            exact = separation * latent / (1 + spread**2) + logit(0.3 * rate)
            sides.append((y[:, None], (scale * exact + shift)[:, None], patients))
        yield sides


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_few_patients_never_make_it_worse_and_many_gain_almost_all(kind):
    ratios = []
    for (y, z, patients), (others, other_logits, _) in small_cohorts(100, 4, 40, seed=5):
        found = fit_calibration(kind, y, z, patients)
        before = log_loss(others[:, 0], expit(other_logits)[:, 0])
        ratios.append(log_loss(others[:, 0], expit(found.apply(other_logits))[:, 0]) / before)
    assert np.mean(ratios) < 0.97 and max(ratios) < 1.15 and np.mean(np.array(ratios) > 1.02) < 0.04
    losses = np.zeros(3)
    for (y, z, patients), (others, other_logits, _) in small_cohorts(6, 2000, 2500, seed=6):
        found = fit_calibration(kind, y, z, patients)
        best = LogisticRegression(C=np.inf, tol=1e-8).fit(other_logits, others[:, 0])
        of_best = best.predict_proba(other_logits)[:, 1]
        for place, p in enumerate(
            (expit(other_logits)[:, 0], expit(found.apply(other_logits))[:, 0], of_best)
        ):
            losses[place] += log_loss(others[:, 0], p)
    raw, calibrated, best_possible = losses
    assert raw - calibrated > 0.95 * (raw - best_possible)


def test_isotonic_is_that_of_sklearn_on_labels_mixed_with_a_temperature():
    labels, logits, patients = clustered(60, seed=4)
    logits += 2
    found = fit_calibration("isotonic", labels, logits, patients)
    y, z = labels[:, 0], np.round(logits[:, 0], 9)
    line = fit_calibration("temperature", labels, logits, patients)
    rarer = min(len(set(patients[y == 1])), len(set(patients[y == 0])))
    weight = 10 / (10 + rarer)
    mixed = (1 - weight) * y + weight * expit(z / line.temperature[0] + line.bias[0])
    # Half a made-up row of the other class at either end: a positive one below, a negative above.
    x = [*z, z.min(), z.max()]
    reference = IsotonicRegression(out_of_bounds="clip").fit(
        x, [*mixed, 1, 0], sample_weight=[*np.ones(len(z)), 0.5, 0.5]
    )
    np.testing.assert_allclose(expit(found.apply(logits))[:, 0], reference.predict(z), atol=1e-6)
    ends = expit(found.apply([[-99.0], [99.0]]))[:, 0]
    np.testing.assert_allclose(ends, reference.predict([-99, 99]), rtol=1e-3)
    assert ends[0] < 0.1 and ends[1] > 0.8


def test_with_plenty_of_data_isotonic_is_that_of_sklearn():
    labels, logits = drawn(40_000, num_labels=1)
    found = expit(fit_calibration("isotonic", labels, logits).apply(logits))[:, 0]
    reference = IsotonicRegression().fit(logits[:, 0], labels[:, 0]).predict(logits[:, 0])
    inside = (reference > 0.02) & (reference < 0.98)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], reference[inside], atol=0.01)
    assert np.abs(found - reference)[inside].mean() < 1e-3
    assert reference.min() == 0 and found.min() > 0 and found.max() < 1


def test_isotonic_falls_back_to_the_line_of_a_temperature(caplog):
    """Steps are too rough for these patients; slope and bias help."""
    labels, logits, patients = clustered(30, seed=2, slices=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_apply_steps", lambda steps, rows: rows.logits * 9)
        found = fit_calibration("isotonic", labels, logits, patients, ["any"])
    line = fit_calibration("temperature", labels, logits, patients)
    assert line.temperature[0] > 1.1
    np.testing.assert_allclose(found.apply(logits), line.apply(logits), rtol=1e-9)
    assert "isotonic calibration of any: a temperature and a bias in its place" in caplog.text


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_the_order_of_the_rows_changes_nothing(kind):
    labels, logits, patients = clustered(30, seed=2)
    order = np.random.default_rng(0).permutation(len(labels))
    names = np.array([f"p{number}" for number in patients], dtype=object)
    one = fit_calibration(kind, labels, logits, names)
    other = fit_calibration(kind, labels[order], logits[order], names[order])
    np.testing.assert_allclose(one.apply(logits), other.apply(logits), rtol=1e-6)


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_other_rows_gain_and_what_is_kept_does_the_same(kind):
    labels, logits = drawn()
    others, other_logits = drawn(seed=1)
    found = fit_calibration(kind, labels, logits)
    after = expit(found.apply(other_logits))
    for column in range(2):
        y, before = others[:, column], expit(other_logits[:, column])
        assert log_loss(y, after[:, column]) < 0.9 * log_loss(y, before)
        assert expected_calibration_error(y, after[:, column]) < 0.03
    again = calibrator_from_json(json.loads(json.dumps(calibrator_to_json(found))))
    np.testing.assert_array_equal(again.apply(other_logits), found.apply(other_logits))


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_label_of_one_class_stays_as_it_is(kind, value):
    _, logits = drawn(50)
    found = fit_calibration(kind, np.full((50, 2), value), logits)
    np.testing.assert_allclose(found.apply(logits), logits, atol=0.01)


@given(st.integers(0, 10_000))
def test_isotonic_never_falls_and_is_inverted_where_it_rises(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (40, 1)).round(1)
    labels = (rng.random((40, 1)) < 0.4).astype(float)
    found = fit_calibration("isotonic", labels, logits)
    line = np.linspace(-9, 9, 200)[:, None]
    calibrated = found.apply(line)
    assert (np.diff(calibrated[:, 0]) >= -1e-12).all() and np.isfinite(calibrated).all()
    np.testing.assert_allclose(found.apply(found.invert(calibrated)), calibrated, atol=1e-6)


def test_the_union_is_never_below_the_others():
    inner = Calibration((2.0, 1.0, 1.0), (0.0, 0.0, -1.0))
    logits = np.array([[4.0, 1.0, 2.0], [-4.0, -1.0, 2.0]])
    found = ConsistentCalibration(inner).apply(logits)
    np.testing.assert_array_equal(found, [[2.0, 1.0, 2.0], [-2.0, -1.0, 1.0]])
    kept = ConsistentCalibration(IsotonicCalibration(((-1.0, 1.0),), ((-1.0, 1.0),)))
    again = calibrator_from_json(json.loads(json.dumps(calibrator_to_json(kept))))
    assert again == kept
    assert calibrator_to_json(None) is None and calibrator_from_json(None) is None


def test_an_isotonic_line_interpolates_logits():
    line = IsotonicCalibration(((0.0, 2.0),), ((float(logit(0.2)), float(logit(0.6))),))
    middle = float(expit((logit(0.2) + logit(0.6)) / 2))
    np.testing.assert_allclose(expit(line.apply([[-5.0], [1.0], [9.0]]))[:, 0], [0.2, middle, 0.6])


@pytest.mark.parametrize(
    ("logits", "calibrated", "is_sound"),
    [
        ([(0.0,)], [(1.0,)], True),
        ([(0.0, 1.0)], [(1.0, 1.0)], True),
        ([(0.0, 1.0)], [(1.0, 0.999)], False),  # falls
        ([(1.0, 1.0)], [(0.0, 1.0)], False),  # two values at one place
        ([(1.0, 0.0)], [(0.0, 1.0)], False),
        ([(0.0, 1.0)], [(0.0, 1.0, 2.0)], False),
        ([()], [()], False),
        ([(0.0, 1.0)], [(0.0, 1.0)] * 2, False),
    ],
)
def test_points_rise_and_never_fall(logits, calibrated, is_sound):
    if is_sound:
        IsotonicCalibration(tuple(logits), tuple(calibrated))
    else:
        with pytest.raises(AssertionError):
            IsotonicCalibration(tuple(logits), tuple(calibrated))


def test_labels_and_logits_of_other_shapes_and_unknown_kinds_are_refused():
    labels, logits = drawn(50)
    for wrong in (
        ("temperature", labels, logits[:, :1]),
        ("temperature", labels[:-1], logits),
        ("platt", labels, logits),
    ):
        with pytest.raises(AssertionError):
            fit_calibration(*wrong)


def test_a_kind_that_is_read_from_a_file_is_the_same():
    labels, logits = drawn(300)
    for kind in ("temperature", "isotonic"):
        found = fit_calibration(json.loads(f'"{kind}"'), labels, logits)
        assert found == fit_calibration(kind, labels, logits)
        assert found != Calibration((1.0,) * 2, (0.0,) * 2)


@pytest.mark.parametrize("dtype", [object, str, int])
def test_patients_have_the_same_numbers_whatever_the_order_of_rows(dtype):
    ids = np.array([30, 7, 30, 12, 7, 30]).astype(dtype)
    order = np.array([3, 0, 5, 4, 1, 2])
    numbers = shrinkage.number_patients(ids, 6)
    np.testing.assert_array_equal(shrinkage.number_patients(ids[order], 6), numbers[order])
    assert sorted(set(numbers)) == [0, 1, 2]
    for one in range(6):
        assert (numbers == numbers[one]).tolist() == (ids == ids[one]).tolist()
    assert shrinkage.number_patients(None, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_positive", [2, 3, 5, 12])
def test_each_fold_of_a_fit_has_whole_patients_of_either_class(num_positive):
    patients = np.repeat(np.random.default_rng(1).permutation(20), np.arange(1, 21))
    labels = (patients < num_positive).astype(float)
    folds = LabelRows(labels, labels, patients).folds()
    num_folds = min(5, num_positive, 20 - num_positive)
    assert set(folds) == set(range(num_folds))
    for patient in range(20):
        assert len(set(folds[patients == patient])) == 1
    order = np.random.default_rng(2).permutation(len(labels))
    shuffled = LabelRows(labels[order], labels[order], patients[order])
    np.testing.assert_array_equal(shuffled.folds(), folds[order])
    for value in (0, 1):
        sizes = [len(set(patients[(folds == f) & (labels == value)])) for f in range(num_folds)]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_each_fold_has_patients_of_either_class_also_where_patients_have_both(seed):
    """Patients of positive rows alone used to come between the few that have negative ones."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(3, 12, p=[0.2, 0.3, 0.5])  # negative rows, both, positive rows alone
    kinds[:3] = 1, 2, 1
    sizes = rng.integers(2, 6, 12)
    patients = np.repeat(np.arange(12), sizes)
    labels = np.concatenate([np.arange(n) < (0, n - 1, n)[k] for k, n in zip(kinds, sizes)])
    rows = LabelRows(labels.astype(float), rng.normal(0, 2, len(labels)), patients)
    folds = rows.folds()
    for value in (0, 1):
        assert set(folds[labels == value]) == set(range(min(5, rows.num_rarer)))
    for kind in calibration.CALIBRATORS:
        fitted = fit_calibration(kind, labels[:, None], rows.logits[:, None], patients)
        assert np.isfinite(fitted.apply(rows.logits[:, None])).all()
