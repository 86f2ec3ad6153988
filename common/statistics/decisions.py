"""Calls and triage of the studies of one label, chosen on other patients than those decided on.

New studies are decided on safely: one without a probability of its own is neither called nor
passed; one that was seen in part is called where it is positive, and never passed. Both are read.
So thresholds are chosen on studies seen whole, and rates are of these (`Studies.counted`): were
those seen in part left out only where they are not called, every one that is left would be found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.scoring.metrics import Floats
from common.scoring.shrinkage import LabelRows, Rows, number_patients
from common.statistics.conformal import READ, Bound, Triage, fit_triage
from common.statistics.operating_points import (
    NoThreshold,
    Rule,
    choose_threshold,
    cross_fitted_thresholds,
)
from common.words import count

Groups = NDArray[np.int64]

# Words of studies.csv (`common.slices.series.list_studies`): seen whole, or in part.
WHOLE, PARTIAL = "ok", "partial"


@dataclass(frozen=True)
class Studies(Rows):
    """One label of s studies.

    Attributes:
        labels: (s,) 0, 1 or NaN.
        probabilities: (s,).
        patient_ids: (s,).
        folds: (s,) the fold that predicted each; None where there are none.
        statuses: (s,) as in studies.csv; None where all were seen whole.
        calls: (s,) 1, 0, or NaN where none counts; None where there is no operating point.
    """

    labels: Floats
    probabilities: Floats
    patient_ids: NDArray[Any]
    folds: NDArray[Any] | None = None
    statuses: NDArray[Any] | None = None
    calls: Floats | None = None

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """(s,) whether the study was seen whole."""
        if self.statuses is None:
            return np.ones(len(self.labels), dtype=bool)
        return np.asarray(self.statuses == WHOLE)

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """(s,) whether the probability is of the study's own slices, not a prior."""
        return self.is_whole if self.statuses is None else np.isin(self.statuses, (WHOLE, PARTIAL))

    @property
    def counted(self) -> "Studies":
        """The studies that rates of calls are of: those seen whole."""
        return self.of(self.is_whole)

    @property
    def has_folds(self) -> bool:
        """Whether the folds are of whole patients, and several."""
        if self.folds is None or not len(self.folds):
            return False
        codes = number_patients(self.patient_ids, len(self.labels))
        folds = pd.factorize(self.folds)[0]
        num_pairs = len(np.unique(np.stack([codes, folds]), axis=1).T)
        return folds.min() == 0 < folds.max() and num_pairs == codes.max() + 1

    def groups(self) -> Groups:
        """Return groups (s,) of whole patients: the folds, or where those are no use, dealt ones.

        Dealt ones are the same whatever the order of the rows, and each has patients of either
        class, as far as there are.
        """
        if self.has_folds:
            return np.asarray(self.folds).astype(np.int64)
        codes = number_patients(self.patient_ids, len(self.labels))
        rows = LabelRows(self.labels, np.zeros(len(codes)), codes)
        return rows.folds() if rows.num_rarer > 1 else np.zeros(len(codes), dtype=np.int64)


@dataclass(frozen=True)
class Called:
    """Which studies are called.

    Attributes:
        calls: (s,) 1, 0, or NaN where a study is neither called nor passed (`safe_calls`).
        threshold: chosen on all of them, or a given one; None where there is none.
        thresholds: by group, each chosen on the other groups; empty where it was given.
        reason: why there is no threshold.
    """

    calls: Floats
    threshold: float | None = None
    thresholds: Mapping[int, float] = field(default_factory=dict)
    reason: str | None = None

    @classmethod
    def none(cls, studies: Studies, reason: str) -> "Called":
        """Return no call of any study, and why."""
        return cls(np.full(len(studies.labels), np.nan), reason=reason)


def cross_fit_calls(studies: Studies, rule: Rule) -> Called:
    """Return the calls of studies of known labels, each by a threshold chosen on other patients."""
    p, is_whole = studies.probabilities, studies.is_whole
    if rule.kind == "fixed":
        return Called(safe_calls(p, rule.value, is_whole), rule.value)
    y = np.where(is_whole, studies.labels, np.nan)
    try:
        groups = _several(studies)
        chosen, _ = cross_fitted_thresholds(y, p, groups, studies.patient_ids, rule)
        own = np.array([chosen[group] for group in groups.tolist()])
        return Called(safe_calls(p, own, is_whole), choose_threshold(y, p, rule), chosen)
    except NoThreshold as reason:
        return Called.none(studies, str(reason))


@dataclass(frozen=True)
class ScoredStudies:
    """Studies that are scored: of tables, calls, groups and pages.

    Attributes:
        labels, probabilities: (s, k).
        patient_ids, study_ids, folds, statuses: (s,), as of `Studies`.
        rule: how the probabilities come from those of slices.
        prior: (k,) share of positive studies in training; None where it is not recorded.
        rows: of the table, the slices that the probabilities come from.
        called: of each label, by thresholds that were not chosen on the studies; empty without.
    """

    labels: Floats = field(default_factory=lambda: np.empty((0, 0)))
    probabilities: Floats = field(default_factory=lambda: np.empty((0, 0)))
    patient_ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))
    study_ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))
    rule: str = ""
    prior: Floats | None = None
    folds: NDArray[Any] | None = None
    statuses: NDArray[Any] | None = None
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    called: Mapping[str, Called] = field(default_factory=dict)

    def columns(self, label_names: Sequence[str]) -> dict[str, Studies]:
        """Return the studies by label."""
        rest = self.patient_ids, self.folds, self.statuses
        found = {}
        for k, name in enumerate(label_names):
            called = self.called.get(name)
            calls = None if called is None or called.reason else called.calls
            found[name] = Studies(self.labels[:, k], self.probabilities[:, k], *rest, calls)
        return found


@dataclass(frozen=True)
class Triaged:
    """The studies as a triage decides on them.

    Attributes:
        decisions: (s,) words.
        triage: calibrated on all of them, or a given one; None where there is none.
        reason: why there is none.
    """

    decisions: NDArray[np.str_]
    triage: Triage | None = None
    reason: str | None = None


def cross_fit_triage(studies: Studies, error_rate: float) -> Triaged:
    """Return decisions on studies of known labels, each by a triage calibrated on other patients.

    Where others are too few for the error rate, studies are left to a person. So are those that
    were not seen whole; without a probability of their own they calibrate nothing.
    """
    decisions = np.full(len(studies.labels), READ, dtype="<U8")
    try:
        groups = _several(studies)
    except NoThreshold as reason:
        return Triaged(decisions, reason=str(reason))
    for group in np.unique(groups):
        scored = groups == group
        triage = triage_of(studies.of(~scored & studies.is_seen), error_rate)
        own = studies.of(scored)
        decisions[scored] = safe_decisions(own.probabilities, triage, own.is_whole)
    triage = triage_of(studies.of(studies.is_seen), error_rate)
    if triage.rule_out.value is None and triage.rule_in.value is None:
        reasons = f"{triage.rule_out.reason}; {triage.rule_in.reason}"
        return Triaged(decisions, reason=f"too few for an error rate of {error_rate:g}: {reasons}")
    return Triaged(decisions, triage)


def triage_of(studies: Studies, error_rate: float) -> Triage:
    """Return the triage with the same error rate on both sides."""
    of = (studies.labels, studies.probabilities, studies.patient_ids)
    return fit_triage(*of, rule_out_error=error_rate, rule_in_error=error_rate)


def triage_from_json(content: Mapping[str, Any]) -> Triage:
    """Return the triage of a `conformal` of predictor.json."""
    return Triage(Bound(**content["rule_out"]), Bound(**content["rule_in"]))


def safe_calls(probabilities: ArrayLike, threshold: float | Floats, is_whole: ArrayLike) -> Floats:
    """Return (s,): 1 for a call, 0 for none where the study was seen whole, else NaN.

    Args:
        probabilities: (s,), NaN where the study has none of its own.
        threshold: of all, or (s,).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    passed = np.where(np.asarray(is_whole) & ~np.isnan(p), 0.0, np.nan)
    return np.where(p >= threshold, 1.0, passed)


def safe_decisions(
    probabilities: ArrayLike, triage: Triage, is_whole: ArrayLike
) -> NDArray[np.str_]:
    """Return the decisions (s,) on studies that were seen whole; all others are read."""
    p = np.asarray(probabilities, dtype=np.float64)
    known = np.asarray(is_whole) & ~np.isnan(p)
    decisions = np.full(len(p), READ, dtype="<U8")
    decisions[known] = triage.decide(p[known])
    return decisions


def _several(studies: Studies) -> Groups:
    """Return the groups; NoThreshold where there is one only."""
    groups = studies.groups() if len(studies.labels) else np.zeros(0, dtype=np.int64)
    if len(np.unique(groups)) > 1:
        return groups
    parts = []
    for value, noun in ((1, "positive"), (0, "negative")):
        number = len(pd.unique(studies.patient_ids[studies.labels == value]))
        parts += [count(number, f"{noun} patient")] if number < 2 else []
    raise NoThreshold(f"{', '.join(parts)}: at least 2 needed, to choose on others")
