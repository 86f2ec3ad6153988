"""Calibration of a predictor to the labels of another place, and its gain there.

Slices and studies are calibrated on top of what the predictor has: first one slope and bias for all
labels, as a few studies say little of a rare one, then each label by itself. All of it is shrunk,
and kept only where it helps patients that it was not fitted on (`common.scoring.shrinkage`): labels
that say little leave a predictor as it was. What it gains is measured across groups of patients:
those that are scored are in no fit, nor in the choice of what is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from common.errors import InputError
from common.scoring.calibration import ConsistentCalibration, composed, fit_calibration
from common.scoring.metrics import Floats, constant_log_loss, training_prior, weighted_log_loss
from common.scoring.predictions import Calibration, Calibrator, probabilities_of
from common.scoring.study_calibration import (
    StudyCalibration,
    StudyFeatures,
    fit_study_calibration,
    study_features,
)
from common.statistics.intervals import paired_interval, patient_intervals

NUM_GROUPS = 10


@dataclass(frozen=True)
class LocalData:
    """Predictions of n slices of s studies, and the labels known of them.

    Attributes:
        logits: (n, k), not calibrated.
        labels: (n, k) 0, 1 or NaN; all NaN where studies alone have labels.
        patients: (n,).
        codes: (n,) the study of each slice, from 0.
        used: (n,) of the volume that stands for its study; one of each study at least.
        study_labels: (s, k) 0, 1 or NaN.
        study_patients: (s,).
        series_logits: (n, k) of the series of each slice, where the predictor has its own.
        calibration, study_calibration: what the predictor has before.
    """

    logits: Floats
    labels: Floats
    patients: NDArray[Any]
    codes: NDArray[np.int64]
    used: NDArray[np.bool_]
    study_labels: Floats
    study_patients: NDArray[Any]
    series_logits: Floats | None = None
    calibration: Calibrator | None = None
    study_calibration: StudyCalibration | None = None

    @property
    def labels_slices(self) -> bool:
        return not bool(np.isnan(self.labels).all())

    def features(self, slices: Calibrator | None) -> StudyFeatures:
        """Return the features of the studies, from slices as they are calibrated."""
        series = None if self.series_logits is None else expit(self.series_logits[self.used])
        p, codes = probabilities_of(self.logits[self.used], slices), self.codes[self.used]
        return study_features(p, codes, len(self.study_labels), series)

    @property
    def before(self) -> tuple[Floats, Floats]:
        """Probabilities of slices (n, k) and of studies (s, k) as the predictor has them."""
        features, rule = self.features(self.calibration), self.study_calibration
        studies = features.largest if rule is None else rule.apply(features)
        return probabilities_of(self.logits, self.calibration), studies


@dataclass(frozen=True)
class LocalCalibration:
    """Calibrators: of slices, as it was where none has a label, and of studies."""

    slices: Calibrator | None
    studies: StudyCalibration


def fit_local(
    data: LocalData, fitted_on: NDArray[Any] | None = None, label_names: Sequence[str] = ()
) -> LocalCalibration:
    """Return calibrators fitted to the labels of some patients.

    Args:
        fitted_on: ids of the patients; None for all.
        label_names: (k,) for a warning of each label that stays as it is; without them none.
    """
    rows, studies = (
        np.ones(len(ids), dtype=bool) if fitted_on is None else np.isin(ids, fitted_on)
        for ids in (data.patients, data.study_patients)
    )
    slices, old = data.calibration, data.study_calibration
    consistent, inner = isinstance(slices, ConsistentCalibration), slices
    if isinstance(slices, ConsistentCalibration):
        inner = slices.inner
    if data.labels_slices:
        known = rows & ~np.isnan(data.labels).all(axis=1)
        logits = data.logits[known]
        line = fit_calibration(
            "temperature",
            data.labels[known],
            logits if inner is None else inner.apply(logits),
            data.patients[known],
            label_names,
            shared=True,
        )
        assert isinstance(line, Calibration)
        slices = composed(slices, line)
    of_studies = fit_study_calibration(
        data.features(slices).of(studies),
        data.study_labels[studies],
        data.study_patients[studies],
        label_names,
        old.consistent if old else consistent,
        shared=True,
        before=old,
    )
    return LocalCalibration(slices, of_studies)


def cross_fit_local(data: LocalData, seed: int) -> tuple[Floats, Floats]:
    """Return probabilities of slices (n, k) and of studies (s, k), fitted on other patients.

    Raises:
        InputError: all are of one patient, or hardly any has, or lacks, any of the labels.
    """
    patients = pd.unique(np.concatenate([data.patients, data.study_patients]))
    if len(patients) < 2:
        raise InputError("all that has a label is of one patient: nothing can be fitted and scored")
    for value, what in ((1, "positive"), (0, "negative")):
        num = len(_patients_with(data, value))
        if num < 2:
            raise InputError(
                f"{num} of {len(patients)} patients with a {what} label: a calibration needs two "
                "patients with a finding and two without"
            )
    order = np.random.default_rng(seed).permutation(np.sort(patients.astype(str)))
    slices = np.full(data.logits.shape, np.nan)
    studies = np.full(data.study_labels.shape, np.nan)
    for scored in np.array_split(order, min(NUM_GROUPS, len(order))):
        fitted = fit_local(data, np.setdiff1d(order, scored))
        rows = np.isin(data.patients, scored)
        slices[rows] = probabilities_of(data.logits[rows], fitted.slices)
        chosen = np.isin(data.study_patients, scored)
        studies[chosen] = fitted.studies.apply(data.features(fitted.slices).of(chosen))
    return slices, studies


def _patients_with(data: LocalData, value: int) -> set[str]:
    """Return the patients with this value of any label, of a slice or of a study."""
    parts = ((data.labels, data.patients), (data.study_labels, data.study_patients))
    return {str(one) for labels, ids in parts for one in ids[(labels == value).any(axis=1)]}


def score_local(
    data: LocalData,
    fitted: tuple[Floats, Floats],
    label_names: Sequence[str],
    weights: Sequence[float],
) -> dict[str, Any]:
    """Return the scores of probabilities of `slices` and `studies`, before and cross-fitted.

    Each has before and calibrated, with weighted_log_loss, its ratio to_scored_prior and intervals,
    and gain, what calibration takes off the loss (`paired_interval`).

    Args:
        fitted: `cross_fit_local`.
    """
    slices, studies = fitted
    before, before_of_studies = data.before
    parts = {"studies": (data.study_labels, before_of_studies, studies)}
    ids = {"studies": data.study_patients, "slices": data.patients}
    if data.labels_slices:
        parts = {"slices": (data.labels, before, slices), **parts}
    found: dict[str, Any] = {}
    for name, (y, before, calibrated) in parts.items():
        prior = training_prior(y)
        own: dict[str, Any] = {
            "scored_prior_weighted_log_loss": constant_log_loss(y, prior, weights)
        }
        for stage, p in (("before", before), ("calibrated", calibrated)):
            intervals = patient_intervals(
                y, p, ids[name], label_names=label_names, weights=weights, prior=prior
            )
            own[stage] = {
                "weighted_log_loss": weighted_log_loss(y, p, weights),
                "interval": intervals["weighted_log_loss"],
                "to_scored_prior": intervals["weighted_log_loss_to_scored_prior"],
            }
        own["gain"] = paired_interval(y, calibrated, before, ids[name], weights)
        found[name] = own
    return found
