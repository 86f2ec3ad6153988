import hashlib

import numpy as np
import pytest
from scipy.special import expit, logit

from common.ensembling import cross_fitting
from common.ensembling.blending import BlendOptions
from common.ensembling.cross_fitting import (
    BlendPlan,
    BlendRows,
    cross_fit,
    fit_blend,
    patient_groups,
)
from common.errors import InputError
from common.scoring.calibration import fit_calibration
from common.scoring.metrics import training_prior, weighted_log_loss
from common.scoring.study_calibration import (
    fit_study_calibration,
    study_features,
)
from common.slices.leakage import id_digests
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


def test_the_prior_of_studies_counts_studies():
    labels = np.array([[0, 1.0], [1, 0], [0, 0], [np.nan, 0], [0, np.nan], [1, 1]])
    ids = np.array(["a", "a", "b", "c", "d", None], dtype=object)
    rows = BlendRows(labels, np.zeros(6, dtype=np.int64), ids, ids)
    # a has both; b has neither; c is unknown for the first label, d for the second.
    found, of_studies = rows.labels_by_study()
    assert found.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(training_prior(of_studies), [1 / 3, 1 / 3])
    of_one = rows.of([2]).labels_by_study()[1]
    np.testing.assert_allclose(training_prior(of_one), [0.5, 0.5])
    given = BlendRows(labels, rows.groups, ids, ids, study_labels=1 - labels[[0, 0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(
        given.labels_by_study()[1], [[1, 0], [1, 1], [np.nan, 1], [1, np.nan]]
    )


def test_labels_of_a_fold_do_not_change_its_predictions():
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


def test_each_fold_is_predicted_by_what_was_fitted_on_the_others():
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


def with_second_series(rows: BlendRows) -> BlendRows:
    """The last three slices of each patient are of a series that is not used."""
    used = np.arange(len(rows.labels)) % 10 < 7
    return BlendRows(rows.labels, rows.groups, rows.patient_ids, rows.study_ids, used)


def test_studies_are_fitted_and_scored_on_the_used_series_alone():
    members, rows = drawn()
    rows = with_second_series(rows)
    found = cross_fit(PLAN, members, rows)
    p = expit(found.logits)
    for number, study in enumerate(found.study_ids):
        own = rows.study_ids == study
        np.testing.assert_array_equal(found.study_raw[number], p[own & rows.used].max(axis=0))
        # A study's label is that of all its slices.
        np.testing.assert_array_equal(found.study_labels[number], rows.labels[own].max(axis=0))
    part = fit_blend(PLAN, members, rows)
    final = expit(part.finish.apply(part.blender.apply(members)))
    codes = np.repeat(np.arange(60), 7)
    labels = rows.labels.reshape(60, 10, 2).max(axis=1)
    expected = fit_study_calibration(
        study_features(final[rows.used], codes, 60), labels, np.unique(rows.patient_ids),
        consistent=True,
    )  # fmt: skip
    assert part.studies == expected
    # A slice of the other series changes no study.
    members[:, ~rows.used] = 0.999
    again = cross_fit(PLAN, members, rows, {group: drawn()[0] for group in range(3)})
    before = cross_fit(PLAN, drawn()[0], rows)
    np.testing.assert_allclose(again.study_calibrated, before.study_calibrated)


def test_calibrators_of_a_blend_count_patients(monkeypatch):
    """Ten patients have all studies: what 60 patients would be enough for is left out or shrunk."""
    members, rows = drawn()
    patients = np.array([f"p{int(name[1:]) % 10}" for name in rows.patient_ids], dtype=object)
    codes = np.repeat(np.arange(60), 10)
    labels = np.where(codes[:, None] % 20 < 8, rows.labels, 0)
    rows = BlendRows(labels, rows.groups, patients, rows.study_ids)
    part = fit_blend(BlendPlan(BlendOptions("mean"), "temperature"), members, rows)
    raw = part.blender.apply(members)
    expected = fit_calibration("temperature", rows.labels, raw, patients)
    assert part.calibration == expected != fit_calibration("temperature", rows.labels, raw)
    given = []
    monkeypatch.setattr(
        cross_fitting, "fit_study_calibration", lambda *arguments: given.append(arguments)
    )
    fit_blend(BlendPlan(BlendOptions("mean")), members, rows)
    assert given[0][2].tolist() == patients[::10].tolist()
    np.testing.assert_array_equal(given[0][1], labels.reshape(60, 10, 2).max(axis=1))


def test_any_is_at_least_each_subtype_of_calibrated_studies_too():
    members, rows = drawn(200)
    for consistent in (False, True):
        plan = BlendPlan(BlendOptions("mean"), consistent=consistent)
        found = cross_fit(plan, members, rows).study_calibrated
        kept = fit_blend(plan, members, rows).studies
        assert kept.consistent == consistent
        assert (found[:, 1] >= found[:, 0]).all() == consistent


def test_what_is_not_calibrated_is_named_once_and_not_for_each_fold(caplog):
    members, rows = drawn()
    labels = rows.labels.copy()
    labels[:, 0] = 0
    rows = BlendRows(labels, rows.groups, rows.patient_ids, rows.study_ids)
    cross_fit(PLAN, members, rows)
    assert "calibration of" not in caplog.text
    fit_blend(PLAN, members, rows, ("epidural", "any"))
    assert caplog.text.count("isotonic calibration of epidural") == 1
    assert caplog.text.count("study calibration of epidural") == 1


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


def test_digests_of_equal_ids_are_equal_under_one_salt_and_name_none():
    assert id_digests(["a", "b", "a"]) == sorted({*id_digests(["a"]), *id_digests(["b"])})
    assert "patient" not in id_digests(["patient"])[0]
    # Plain digests are those of studies that earlier versions wrote.
    assert id_digests(["a"]) == [hashlib.sha256(b"a").hexdigest()[:16]]
    salted = [id_digests(["a", "b", "a"], salt) for salt in ("00ff", "00fe", "")]
    assert len(salted[0]) == 2 and len({*salted[0], *salted[1], *salted[2]}) == 6
    slow = hashlib.pbkdf2_hmac("sha256", b"a", bytes.fromhex("00ff"), 2000)
    assert id_digests(["a"], "00ff") == [slow[:8].hex()]
