"""What a blend scored: members, weights, what each member adds, raw and calibrated; its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from common.ensembling.blending import Floats, correlations
from common.ensembling.cross_fitting import (
    BlendPlan,
    CrossFitted,
    FittedBlend,
    cross_fit,
)
from common.errors import InputError
from common.experiment import Experiment
from common.files import write_json
from common.report import EvaluationReport
from common.report.blend import StageSet, blend_sections
from common.scoring.calibration import ConsistentCalibration
from common.scoring.metrics import label_scores
from common.scoring.metrics import weighted_log_loss as weighted
from common.scoring.study_calibration import study_rule
from common.slices.folds import owners
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from common.statistics.intervals import paired_interval
from common.tables import read_parquet
from rsna.ensembling.members import EnsembleData
from rsna.evaluation.deciding import AS_KEPT, Deciding
from rsna.evaluation.failures import analyse_studies
from rsna.evaluation.flow import write_flow
from rsna.evaluation.model_card import weights_digest, write_card
from rsna.evaluation.scoring import (
    folds_of_studies,
    predictor_info,
    read_experiment,
    score_predictions,
    study_prior_of,
    task_of,
    used_of,
    with_all_labels,
)
from rsna_task import Task

RAW, CALIBRATED = "raw", "calibrated"
CONSISTENT = "any at least its subtypes"


def describe_members(
    data: EnsembleData,
    plan: BlendPlan,
    fitted: CrossFitted,
    kept: FittedBlend,
    nested: Mapping[int, Floats] | None = None,
) -> dict[str, Any]:
    """Return the content of blend.json: members, weights, correlations, what each member adds.

    Args:
        fitted: across folds.
        kept: on all rows, for new data.
        nested: what was fitted on in place of the members' out-of-fold rows, by scored fold.
    """
    names = [member.name for member in data.members]
    members, rows, task = data.tables.probabilities, data.rows, data.task
    weights = task.label_weights
    blended = expit(fitted.logits)
    of_members: dict[str, Any] = {}
    for name, p in zip(names, members, strict=True):
        gain = paired_interval(rows.labels, blended, p, rows.patient_ids, weights)
        scores = label_scores(rows.labels, p, task.label_names, weights)
        of_members[name] = scores | {"blend_gains": gain}
    leave_one_out: dict[str, Any] = {}
    for number, name in enumerate(names if len(names) > 1 else []):
        others = np.delete(members, number, axis=0)
        inner = nested and {fold: np.delete(p, number, axis=0) for fold, p in nested.items()}
        of_slices = replace(plan, studies=False)
        without = expit(cross_fit(of_slices, others, rows, inner).logits)
        adds = paired_interval(rows.labels, blended, without, rows.patient_ids, weights)
        leave_one_out[name] = {
            "weighted_log_loss": weighted(rows.labels, without, weights),
            "adds": adds,
        }
    return {
        "member_names": names,
        "plan": {
            **asdict(plan.options),
            "calibration": plan.calibration,
            "consistency": plan.consistent,
            "studies": plan.studies,
            "study_rule": study_rule(kept.studies),
            "groups": "patients" if data.by_patients else "folds",
            "nested": nested is not None,
        },
        "num_left_out": data.tables.num_left_out,
        "members": of_members,
        "weights": _weights(task.label_names, fitted, kept),
        "correlation": _matrices(members, task),
        "error_correlation": _matrices(members - rows.labels, task),
        "leave_one_out": leave_one_out,
    }


def write_evaluation(
    experiment: Experiment, table: SliceTable, how: Deciding = AS_KEPT
) -> dict[str, Any]:
    """Score the tables of a blend, and write metrics.json and report.html."""
    info = predictor_info(experiment)
    task = task_of(info)
    content = _read_blend(experiment.blend_file)
    frame, prior = read_experiment(experiment.folder, "oof")
    studies = study_sets(experiment, task)
    # Blends of earlier versions used the slices of all series of a study.
    rule = content["plan"].get("study_rule", f"{studies[-1].name}, of the slices of all series")
    last, rows = studies[-1], table.rows_of(frame["image_id"])
    fold_of = frame.drop_duplicates("study_id").set_index("study_id")["fold"]
    of_studies = ScoredStudies(
        last.labels,
        last.probabilities,
        last.patient_ids,
        last.study_ids,
        rule,
        study_prior_of(info),
        folds_of_studies(fold_of.reindex(last.study_ids).to_numpy(), last.study_ids),
        rows=rows[used_of(table, rows)],
    )
    main = score_predictions(
        "blend", frame, table, prior, info["threshold"], task=task, studies=of_studies, how=how
    )
    labels, patients = main.labels, owners(frame).to_numpy(dtype=object)
    raw = expit(frame[[f"logit_{name}" for name in task.label_names]].to_numpy(np.float64))
    stages = _stages(content, raw, main.probabilities, experiment, task)
    metrics = dict(main.metrics)
    weights = task.label_weights
    metrics["stages"] = {name: _scores(labels, p, task) for name, p in stages.items()}
    gains = paired_interval(labels, main.probabilities, raw, patients, weights)
    metrics["calibration_gains"] = gains
    metrics["study"] = metrics["study"] | _study_metrics(studies, task)
    for key in ("members", "weights", "correlation", "error_correlation", "leave_one_out", "plan"):
        metrics[key] = content[key]
    why_not = "not predicted out of fold by every member"
    metrics["flow"], flow = write_flow(experiment, main, table, task, why_not)
    metrics["weights_sha256"] = weights_digest(experiment.predictor)
    of_groups, sections = analyse_studies(main, frame, table, experiment, task.label_names)
    metrics |= of_groups
    write_json(experiment.metrics_file, metrics)
    slice_sets = [StageSet(name, labels, p) for name, p in stages.items()]
    num = content["num_left_out"]
    EvaluationReport(
        title=f"Blend {experiment.folder.name}",
        subtitle=f"{info['model']['name']}; out-of-fold rows of {info['training'].get('dataset')}",
        label_names=task.label_names,
        main=replace(main, metrics=metrics),
        facts=_facts(info, content["plan"]),
        num_skipped={"rows that not all members predict": num} if num else {},
        flow=flow,
        study_sections=sections,
        sections=blend_sections(metrics, task.label_names, slice_sets, studies),
    ).write(experiment.report_file)
    write_card(experiment, table)
    return metrics


def _scores(labels: Floats, probabilities: Floats, task: Task) -> dict[str, Any]:
    names = task.label_names
    return with_all_labels(label_scores(labels, probabilities, names, task.label_weights), names)


def _stages(
    content: Mapping[str, Any], raw: Floats, final: Floats, experiment: Experiment, task: Task
) -> dict[str, Floats]:
    """Return the probabilities of each stage, the last one as written."""
    plan = content["plan"]
    stages = {RAW: raw}
    if plan["consistency"]:
        union = ConsistentCalibration(None, task.label_names.index("any"))
        with np.errstate(divide="ignore"):
            stages[f"{RAW}, {CONSISTENT}"] = expit(union.apply(np.log(raw) - np.log1p(-raw)))
    if plan["calibration"] == "none":
        return stages
    if not plan["consistency"]:
        return stages | {CALIBRATED: final}
    columns = [f"calibrated_{name}" for name in task.label_names]
    path = experiment.predictions_file("oof")
    before = read_parquet(path, "blend again", columns=columns).to_numpy(np.float64)
    return stages | {CALIBRATED: before, f"{CALIBRATED}, {CONSISTENT}": final}


def study_sets(experiment: Experiment, task: Task) -> list[StageSet]:
    """Return the studies' labels and probabilities, raw and, where there are any, calibrated."""
    frame = read_parquet(experiment.predictions_file("studies"), "blend again")
    labels = frame[[f"label_{name}" for name in task.label_names]].to_numpy(np.float64)
    found = []
    for kind in (RAW, CALIBRATED):
        columns = [f"{kind}_{name}" for name in task.label_names]
        if columns[0] in frame:
            values = frame[columns].to_numpy(np.float64)
            patients = owners(frame).to_numpy(dtype=object)
            ids = frame["study_id"].to_numpy(dtype=object)
            found.append(StageSet(kind, labels, values, patients, ids))
    return found


def _study_metrics(studies: Sequence[StageSet], task: Task) -> dict[str, Any]:
    """Return the metrics of the final probabilities of studies, the others under their names."""
    by_kind = {each.name: _scores(each.labels, each.probabilities, task) for each in studies}
    last, raw = studies[-1], studies[0].probabilities
    gains = paired_interval(
        last.labels, last.probabilities, raw, last.patient_ids, task.label_weights
    )
    return {**by_kind[last.name], **by_kind, "calibration_gains": gains}


def _weights(
    label_names: Sequence[str], fitted: CrossFitted, kept: FittedBlend
) -> dict[str, dict[str, Any]]:
    """Return by label the weights (and bias) scored on each fold, and those kept for new data."""
    parts = {f"fold {group}": part for group, part in fitted.parts.items()} | {"all rows": kept}
    return {
        label: {
            name: {"weights": list(part.blender.weights[k]), "bias": part.blender.bias[k]}
            for name, part in parts.items()
        }
        for k, label in enumerate(label_names)
    }


def _matrices(values: Floats, task: Task) -> dict[str, Any]:
    return dict(zip(task.label_names, correlations(values).tolist(), strict=True))


def _read_blend(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}): blend again") from error


def _facts(info: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in plan.items() if name not in ("studies", "nested")}
    return {
        "members": ", ".join(info["member_names"]),
        **shown,
        "prior": ", ".join(f"{name} {share:.4f}" for name, share in info["prior"].items()),
    }
