import numpy as np
import pytest
from scipy.special import expit, logit

from common.ensembling.blending import BlendOptions
from common.ensembling.cross_fitting import (
    BlendPlan,
    BlendRows,
    cross_fit,
    fit_blend,
    id_digests,
    patient_groups,
)
from common.errors import InputError
from common.scoring.metrics import weighted_log_loss
from common.scoring.study_calibration import (
    StudyCalibration,
    fit_study_calibration,
    study_features,
)
from common.statistics.intervals import paired_interval

PLAN = BlendPlan(BlendOptions("stacking"), "isotonic", consistent=True)


def drawn(num_patients: int = 60, per_patient: int = 10, seed: int = 0):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(num_patients), per_patient)
    truth = rng.normal(-1, 1.5, (len(patient), 2))
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    labels[:, 1] = labels.max(axis=1)
    members = expit(2 * truth + rng.normal(0, 1, (2, *truth.shape)))
    names = np.array([f"p{number}" for number in patient], dtype=object)
    return members, BlendRows(labels, patient % 3, names, names)


def test_labels_of_a_fold_change_nothing_of_what_is_said_of_it():
    members, rows = drawn()
    found = cross_fit(PLAN, members, rows)
    labels = rows.labels.copy()
    labels[rows.groups == 1] = 1 - labels[rows.groups == 1]
    other = BlendRows(labels, rows.groups, rows.patient_ids, rows.study_ids)
    again = cross_fit(PLAN, members, other)
    same = rows.groups == 1
    np.testing.assert_array_equal(found.logits[same], again.logits[same])
    assert not np.allclose(found.logits[~same], again.logits[~same])
    of_fold = np.isin(found.study_ids, rows.study_ids[same])
    np.testing.assert_array_equal(found.study_calibrated[of_fold], again.study_calibrated[of_fold])


def test_each_fold_is_told_by_what_was_fitted_on_the_others():
    members, rows = drawn()
    found = cross_fit(PLAN, members, rows)
    scored = rows.groups == 2
    part = fit_blend(PLAN, members[:, ~scored], rows.of(~scored))
    raw = part.blender.apply(members[:, scored])
    np.testing.assert_array_equal(found.raw_logits[scored], raw)
    np.testing.assert_array_equal(found.calibrated_logits[scored], part.calibration.apply(raw))
    assert (found.logits[:, 1] >= found.logits[:, 0]).all()
    assert set(found.parts) == {0, 1, 2}


def test_other_members_are_fitted_on_where_they_are_given():
    members, rows = drawn()
    rng = np.random.default_rng(3)
    others = {group: rng.random(members.shape) for group in range(3)}
    found = cross_fit(PLAN, members, rows, others)
    scored = rows.groups == 0
    part = fit_blend(PLAN, others[0][:, ~scored], rows.of(~scored))
    np.testing.assert_array_equal(found.raw_logits[scored], part.blender.apply(members[:, scored]))


def test_a_patient_in_two_folds_is_refused():
    members, rows = drawn()
    groups = rows.groups.copy()
    groups[0] = (groups[0] + 1) % 3
    leaking = BlendRows(rows.labels, groups, rows.patient_ids, rows.study_ids)
    with pytest.raises(InputError, match="1 patient "):
        cross_fit(PLAN, members, leaking)


def test_groups_keep_patients_whole():
    _, rows = drawn()
    groups = patient_groups(rows.patient_ids, 5, seed=1)
    assert all(len(set(groups[rows.patient_ids == name])) == 1 for name in rows.patient_ids)
    assert np.bincount(groups).tolist() == [120] * 5


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
    told = again.apply(features.of(~half))
    np.testing.assert_array_equal(told, found.apply(features.of(~half)))
    raw = weighted_log_loss(labels[~half], features.largest[~half], [1])
    assert weighted_log_loss(labels[~half], told, [1]) < 0.8 * raw
    unknown = fit_study_calibration(features, np.full((num_studies, 1), np.nan))
    np.testing.assert_allclose(unknown.apply(features), features.largest, rtol=1e-6)


def test_a_paired_interval_holds_the_difference_of_the_losses():
    members, rows = drawn()
    weights = [1.0, 2.0]
    worse = expit(logit(members[0]) + 1)
    found = paired_interval(rows.labels, members[0], worse, rows.patient_ids, weights)
    losses = [weighted_log_loss(rows.labels, p, weights) for p in (members[0], worse)]
    assert found["difference"] == pytest.approx(losses[1] - losses[0], abs=1e-12)
    low, high = found["interval"]
    assert low < found["difference"] < high
    same = paired_interval(rows.labels, worse, worse, rows.patient_ids, weights)
    assert same["difference"] == 0 and same["interval"] == [0, 0]


def test_digests_tell_equal_ids_and_name_none():
    assert id_digests(["a", "b", "a"]) == sorted({*id_digests(["a"]), *id_digests(["b"])})
    assert "patient" not in id_digests(["patient"])[0]
