"""Calls and triage of studies: scored as flags ask, kept in a predictor, written by predict.py."""

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from common.slices.leakage import id_digests
from common.slices.table import SliceTable
from common.statistics.decisions import (
    PARTIAL,
    WHOLE,
    Called,
    ScoredStudies,
    Studies,
    Triaged,
    cross_fit_calls,
    cross_fit_triage,
    safe_calls,
    safe_decisions,
    triage_from_json,
)
from common.statistics.operating_points import Rule
from common.statistics.study_tables import (
    decision_table,
    point_table,
    reliability_table,
    score_table,
    triage_table,
)
from common.words import count, shown, spread
from flags.evaluation import EvaluationConfig
from rsna.evaluation.unseen import fitted_ids

POINTS, TRIAGE = "operating_points", "conformal"
"""Keys of predictor.json."""

EXACT = "holds for new patients like these, whatever the network"
NEARLY = (
    "close, not exact: the probabilities of these patients come from fits without them, those of "
    "new ones from the fit to all"
)
STOPPED = "close, not exact: the scores of these patients ended the training"


@dataclass(frozen=True)
class Deciding:
    """How studies that are scored are called and triaged.

    Attributes:
        rule, prevalence, error_rate: as the flags say.
        kept: POINTS and TRIAGE of the predictor, where they are scored.
        refused: why they are not, by key.
    """

    rule: Rule | None = None
    prevalence: float | None = None
    error_rate: float = 0.0
    kept: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_flags(cls, flags: EvaluationConfig, **kept: Any) -> "Deciding":
        """Return what --ev_rule, --ev_prevalence and --ev_error ask for."""
        return cls(flags.rule, flags.ev_prevalence, flags.ev_error, **kept)


AS_KEPT = Deciding()


def call_studies(
    studies: ScoredStudies, label_names: Sequence[str], how: Deciding
) -> ScoredStudies:
    """Return studies with the calls of each label, where there are a rule or kept thresholds.

    Studies of unknown labels, or without a probability of their own, have no call that counts.
    """
    record = how.kept.get(POINTS)
    if how.rule is None and record is None:
        return studies
    found = {}
    for name, each in studies.columns(label_names).items():
        chosen = ~np.isnan(each.labels) & each.is_seen
        called = _called(each.of(chosen), name, how)
        calls = np.full(len(chosen), np.nan)
        calls[chosen] = called.calls
        found[name] = replace(called, calls=calls)
    return replace(studies, called=found)


def decided_metrics(
    studies: ScoredStudies, label_names: Sequence[str], how: Deciding
) -> dict[str, Any]:
    """Return what `study` of metrics.json says with intervals, by label.

    Args:
        studies: of `call_studies`; the last label is triaged.
    """
    columns = studies.columns(label_names)
    known = {name: each.of(~np.isnan(each.labels)) for name, each in columns.items()}
    scores = {name: score_table(each) for name, each in known.items()}
    curves = {name: decision_table(each, how.prevalence) for name, each in known.items()}
    names = next(iter(scores.values()))
    return {
        "scores": {name: {label: scores[label][name] for label in known} for name in names},
        "reliability": {name: reliability_table(each) for name, each in known.items()},
        "decision_curve": curves,
        POINTS: _points(known, studies.called, how),
        "triage": _triage(known, how),
    }


def _points(
    columns: Mapping[str, Studies], called: Mapping[str, Called], how: Deciding
) -> dict[str, Any] | None:
    """Return the rates of the calls of each label; None where there are neither rule nor points."""
    if not called:
        return None
    record = how.kept.get(POINTS)
    found = {}
    for name, studies in columns.items():
        seen = studies.of(studies.is_seen)
        rule = how.rule or Rule(**(record or {})["rule"])
        where = _on_others(seen) if how.rule is not None else _fitted_on(record or {})
        found[name] = {
            **point_table(seen, called[name], rule, how.prevalence),
            "chosen_on": "no data" if rule.kind == "fixed" else where,
            "num_without_call": int((~studies.is_seen).sum()),
        }
    return found


def _called(studies: Studies, label: str, how: Deciding) -> Called:
    """Return which studies are called, by --ev_rule or as the predictor does."""
    if how.rule is not None:
        return cross_fit_calls(studies, how.rule)
    threshold, refused = how.kept[POINTS]["thresholds"].get(label), how.refused.get(POINTS)
    if refused or threshold is None:
        return Called.none(studies, refused or "the predictor has no threshold of it")
    return Called(safe_calls(studies.probabilities, threshold, studies.is_whole), threshold)


def _triage(columns: Mapping[str, Studies], how: Deciding) -> dict[str, Any] | None:
    """Return the rates of the triage of the last label; None where none is asked for or kept."""
    record = how.kept.get(TRIAGE)
    if not how.error_rate and (record is None or record["label"] not in columns):
        return None
    label = list(columns)[-1] if how.error_rate else str(record and record["label"])
    studies = columns[label]
    if how.error_rate:
        error_rate, where = how.error_rate, _on_others(studies)
        triaged = cross_fit_triage(studies, error_rate)
    else:
        assert record is not None
        error_rate, where = record["error_rate"], _fitted_on(record)
        triage, refused = triage_from_json(record), how.refused.get(TRIAGE)
        decisions = safe_decisions(studies.probabilities, triage, studies.is_whole)
        triaged = Triaged(decisions, None if refused else triage, refused)
    return {
        "label": label,
        **triage_table(studies, triaged, error_rate),
        "calibrated_on": where,
    }


def _on_others(studies: Studies) -> str:
    return "other folds" if studies.has_folds else "other patients of the same data"


def _fitted_on(record: Mapping[str, Any]) -> str:
    fitted = record["fitted_on"] or {"dataset": "no data", "num_patients": 0}
    return f"{fitted['dataset']}: {count(fitted['num_patients'], 'patient')}"


def fitted_record(
    table: SliceTable, rows: np.ndarray, dataset: str, salt: str = ""
) -> dict[str, Any]:
    """Return what is recorded of the patients and studies of rows that something is fitted on.

    Args:
        salt: of the digests; a new one by default.
    """
    # Patient ids may be short enough to be guessed from plain digests.
    salt = salt or secrets.token_hex(16)
    ids = fitted_ids(table, rows)
    return {
        "dataset": dataset,
        "num_patients": len(ids["patient", "id"]),
        "num_studies": len(ids["study", "id"]),
        "salt": salt,
        "digests": id_digests(itertools.chain.from_iterable(ids.values()), salt),
    }


def kept_records(
    study: Mapping[str, Any], how: Deciding, fitted: Mapping[str, Any], guarantee: str
) -> dict[str, Any]:
    """Return POINTS and TRIAGE for predictor.json, of those that were asked for.

    Args:
        study: `decided_metrics`.
        fitted: `fitted_record` of the rows.
        guarantee: of the triage, in words.
    """
    found: dict[str, Any] = {}
    if how.rule is not None:
        points = {name: each for name, each in study[POINTS].items() if each}
        found[POINTS] = {
            "rule": asdict(how.rule),
            "thresholds": {name: each["threshold"] for name, each in points.items()},
            **{
                rate: {name: each.get(rate) for name, each in points.items()}
                for rate in ("sensitivity", "specificity")
            },
            "fitted_on": None if how.rule.kind == "fixed" else fitted,
        }
        if not any(threshold is not None for threshold in found[POINTS]["thresholds"].values()):
            found[POINTS] = None
    if how.error_rate:
        triage = study["triage"]
        kept = {name: triage[name] for name in ("label", "error_rate", "rule_out", "rule_in")}
        kept |= {"guarantee": guarantee, "fitted_on": fitted}
        found[TRIAGE] = None if triage["reason"] else kept
    return found


def with_decisions(
    studies: pd.DataFrame,
    label_names: Sequence[str],
    points: Mapping[str, Any] | None,
    triage: Mapping[str, Any] | None,
) -> pd.DataFrame:
    """Return studies.csv with `call`, `call_<label>` and `decision`, where a predictor has them.

    Args:
        studies: `common.slices.series.list_studies`.
        points, triage: POINTS and TRIAGE of the predictor.
    """
    status, last = studies["status"].to_numpy(dtype=object), label_names[-1]
    is_whole = status == WHOLE
    is_seen = is_whole | (status == PARTIAL)
    thresholds = (points or {}).get("thresholds", {})
    columns: dict[str, Any] = {}
    for name in (last, *label_names[:-1]):
        if thresholds.get(name) is not None:
            calls = safe_calls(studies[name].where(is_seen), thresholds[name], is_whole)
            column = "call" if name == last else f"call_{name}"
            columns[column] = pd.Series(calls, studies.index).astype("Int64")
    if triage is not None:
        p = studies[triage["label"]]
        columns["decision"] = safe_decisions(p, triage_from_json(triage), is_whole)
    return studies.assign(**columns)


def decision_lines(study: Mapping[str, Any], label_names: Sequence[str]) -> Iterator[str]:
    """Yield the rates at the operating point and of the triage as a short table."""
    points = study.get(POINTS)
    if points:
        known = [(name, points[name]) for name in label_names if points.get(name)]
        last = known[-1][1]
        yield f"studies at {last['rule']}, thresholds chosen on {last['chosen_on']}:"
        for name, point in known:
            if point["reason"]:
                yield f"{name:<18} no threshold: {point['reason']}"
                continue
            both = (f"{rate} {_spread(point[rate])}" for rate in ("sensitivity", "specificity"))
            alarms = _spread(point["alarms_per_100"], 1)
            yield f"{name:<18} {', '.join(both)}, {alarms} alarms per 100 studies"
        if not known[-1][1]["reason"]:
            for rate, text in known[-1][1]["statement"].items():
                yield f"{known[-1][0]}, {rate}: {text}"
    triage = study.get("triage")
    if triage:
        if triage["reason"]:
            yield f"no triage: {triage['reason']}"
            return
        names = ("decided", "missed", "false_alarms")
        rates = ", ".join(f"{name.replace('_', ' ')} {_spread(triage[name])}" for name in names)
        yield f"triage of {triage['label']} at an error rate of {triage['error_rate']:g}: {rates}"
        for side in ("rule_out", "rule_in"):
            if triage[side]["reason"]:
                yield f"no {side}: {triage[side]['reason']}"


def _spread(estimate: Mapping[str, Any], digits: int = 2) -> str:
    return shown(estimate["value"], digits) + spread(estimate["interval"], digits)
