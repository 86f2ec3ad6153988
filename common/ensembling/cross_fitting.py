"""Blends fitted on other folds than they are scored on.

Everything that is fitted on labels (weights, slice calibrator, study calibrator) is fitted anew for
each fold, on the rows of all others. What is kept for new data is fitted on all rows, and scored on
none of them.

What this does not remove: out-of-fold rows of the other folds come from members that were trained
on the scored fold, so its labels reach the weights by that way. `fitting_members` is where members
come in that saw neither fold.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from common.ensembling.blending import Blender, BlendOptions, Floats, fit_blender
from common.scoring.calibration import ConsistentCalibration, fit_calibration
from common.scoring.metrics import max_by_study
from common.scoring.predictions import Calibrator
from common.scoring.shrinkage import Rows
from common.scoring.study_calibration import (
    StudyCalibration,
    StudyFeatures,
    fit_study_calibration,
    study_features,
)
from common.slices.leakage import require_fitted_elsewhere

logger = logging.getLogger(__name__)

NO_CALIBRATION = "none"


@dataclass(frozen=True)
class BlendPlan:
    """What is to be fitted.

    Attributes:
        calibration: `none`, or a kind of `fit_calibration`.
        consistent: raise the last label to the largest of the others, after calibrating.
    """

    options: BlendOptions
    calibration: str = NO_CALIBRATION
    consistent: bool = False
    studies: bool = True


@dataclass(frozen=True)
class FittedBlend:
    """What was fitted on some rows: logits of members in, calibrated probabilities out."""

    blender: Blender
    calibration: Calibrator | None
    consistent: bool
    studies: StudyCalibration | None

    @property
    def finish(self) -> Calibrator | None:
        """Calibration and consistency in one."""
        return ConsistentCalibration(self.calibration) if self.consistent else self.calibration


@dataclass(frozen=True)
class BlendRows(Rows):
    """The n rows that a blend is fitted and scored on.

    Attributes:
        labels: (n, k) 0, 1 or NaN.
        groups: (n,) the fold of each row.
        patient_ids: (n,); a patient is in one group.
        study_ids: (n,).
        used: (n,) rows of the volume that stands for its study, one of each study at least; None
            for all rows.
        study_labels: (n, k) of the study of each row; None for the largest of its rows'.
    """

    labels: Floats
    groups: NDArray[np.int64]
    patient_ids: NDArray[np.object_]
    study_ids: NDArray[np.object_]
    used: NDArray[np.bool_] | None = None
    study_labels: Floats | None = None

    def labels_by_study(self) -> tuple[NDArray[Any], Floats]:
        """Return the ids of known studies, in order of appearance, and their labels (s, k)."""
        known = pd.notna(self.study_ids)
        labels = (self.labels if self.study_labels is None else self.study_labels)[known]
        ids, of_studies, _ = max_by_study(labels, np.zeros(labels.shape), self.study_ids[known])
        return ids, of_studies


@dataclass(frozen=True)
class CrossFitted:
    """Predictions of the blend for each row, fitted without its fold.

    Attributes:
        raw_logits: (n, k) before calibration.
        calibrated_logits: (n, k); the raw ones where nothing is calibrated; not made consistent.
        logits: (n, k) in the end.
        parts: by fold, what was fitted on the other folds.
        study_labels: (s, k), those given to the studies, or the largest of all slices'.
        study_raw: (s, k), the largest probability of the slices of the used volume.
        study_calibrated: (s, k), None where no study calibrator was asked for.
    """

    raw_logits: Floats
    calibrated_logits: Floats
    logits: Floats
    parts: Mapping[int, FittedBlend]
    study_ids: NDArray[Any]
    study_labels: Floats
    study_patients: NDArray[np.object_]
    study_raw: Floats
    study_calibrated: Floats | None


def fit_blend(
    plan: BlendPlan, members: Floats, rows: BlendRows, label_names: Sequence[str] = ()
) -> FittedBlend:
    """Return all parts of `plan`, fitted on all `rows`.

    Args:
        members: (m, n, k) probabilities.
        label_names: (k,) for warnings of what is not calibrated.
    """
    blender = fit_blender(plan.options, members, rows.labels)
    calibration, studies = None, None
    if plan.calibration != NO_CALIBRATION or plan.studies:
        raw = blender.apply(members)
        if plan.calibration != NO_CALIBRATION:
            calibration = fit_calibration(
                plan.calibration, rows.labels, raw, rows.patient_ids, label_names
            )
        fitted = FittedBlend(blender, calibration, plan.consistent, None)
        if plan.studies:
            final = raw if fitted.finish is None else fitted.finish.apply(raw)
            of = _studies(rows, expit(final))
            studies = fit_study_calibration(
                of.features, of.labels, of.patients, label_names, plan.consistent
            )
    return FittedBlend(blender, calibration, plan.consistent, studies)


def cross_fit(
    plan: BlendPlan,
    members: Floats,
    rows: BlendRows,
    fitting_members: Mapping[int, Floats] | None = None,
) -> CrossFitted:
    """Return the blend's predictions of each row, each fold's by what was fitted on the others.

    Args:
        members: (m, n, k) out-of-fold probabilities.
        fitting_members: by scored fold, other probabilities (m, n, k) to fit on; its own rows in
            them are not looked at.

    Raises:
        InputError: a patient is in two folds.
    """
    stages = [np.full(rows.labels.shape, np.nan) for _ in range(3)]
    parts: dict[int, FittedBlend] = {}
    study_ids = pd.unique(rows.study_ids[pd.notna(rows.study_ids)])
    study_calibrated = np.full((len(study_ids), rows.labels.shape[1]), np.nan)
    for group in np.unique(rows.groups):
        scored = rows.groups == group
        inner, outer = rows.of(~scored), rows.of(scored)
        require_fitted_elsewhere(inner.patient_ids, outer.patient_ids)
        fitting = members if fitting_members is None else fitting_members[int(group)]
        part = parts[int(group)] = fit_blend(plan, fitting[:, ~scored], inner)
        raw = part.blender.apply(members[:, scored])
        calibrated = raw if part.calibration is None else part.calibration.apply(raw)
        final = raw if part.finish is None else part.finish.apply(raw)
        for stage, values in zip(stages, (raw, calibrated, final), strict=True):
            stage[scored] = values
        if part.studies is not None:
            of = _studies(outer, expit(final))
            places = pd.Index(study_ids).get_indexer(pd.Index(of.ids))
            study_calibrated[places] = part.studies.apply(of.features)
    assert np.isfinite(stages[2]).all(), "every row has a fold"
    studies = _studies(rows, expit(stages[2]))
    return CrossFitted(
        raw_logits=stages[0],
        calibrated_logits=stages[1],
        logits=stages[2],
        parts=parts,
        study_ids=studies.ids,
        study_labels=studies.labels,
        study_patients=studies.patients,
        study_raw=studies.features.largest,
        study_calibrated=study_calibrated if plan.studies else None,
    )


def patient_groups(patient_ids: NDArray[np.object_], num_groups: int, seed: int) -> Any:
    """Return (n,) groups of whole patients, for rows that are all of one fold."""
    codes, patients = pd.factorize(patient_ids)
    order = np.random.default_rng(seed).permutation(len(patients))
    group_of = np.empty(len(patients), dtype=np.int64)
    group_of[order] = np.arange(len(patients)) % num_groups
    return group_of[codes]


class _Studies(NamedTuple):
    """Studies in the order of their first rows: ids (s,), labels (s, k), patients (s,)."""

    ids: NDArray[Any]
    labels: Floats
    patients: NDArray[np.object_]
    features: StudyFeatures


def _studies(rows: BlendRows, probabilities: Floats) -> _Studies:
    """Return the studies of rows, their features from the rows of the used volumes."""
    ids, labels = rows.labels_by_study()
    known = pd.notna(rows.study_ids)
    rows, probabilities = rows.of(known), probabilities[known]
    codes = pd.factorize(rows.study_ids)[0]
    patients = np.empty(len(ids), dtype=object)
    patients[codes] = rows.patient_ids
    used = np.ones(len(codes), dtype=bool) if rows.used is None else rows.used
    features = study_features(probabilities[used], codes[used], len(ids))
    return _Studies(ids, labels, patients, features)
