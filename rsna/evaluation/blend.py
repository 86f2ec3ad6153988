"""What a blend scored: members, weights, what each member adds, raw and calibrated; its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
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
from common.files import read_parquet, write_json
from common.report import EvaluationReport
from common.report.blend import StageSet, blend_sections
from common.scoring.calibration import ConsistentCalibration
from common.scoring.metrics import weighted_log_loss as weighted
from common.scoring.study_calibration import study_rule
from common.slices.folds import owners
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from common.statistics.intervals import paired_interval
from rsna.ensembling.members import EnsembleData
from rsna.evaluation.deciding import AS_KEPT, Deciding
from rsna.evaluation.failures import analyse_studies
from rsna.evaluation.flow import write_flow
from rsna.evaluation.model_card import weights_digest, write_card
from rsna.evaluation.scoring import (
    folds_of_studies,
    label_scores,
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
        of_members[name] = label_scores(rows.labels, p, task) | {"blend_gains": gain}
    leave_one_out: dict[str, Any] = {}
    for number, name in enumerate(names if len(names) > 1 else []):
        others = np.delete(members, number, axis=0)
        inner = nested and {fold: np.delete(p, number, axis=0) for fold, p in nested.items()}
        without = expit(cross_fit(_slices_only(plan), others, rows, inner).logits)
        adds = paired_interval(rows.labels, blended, without, rows.patient_ids, weights)
        leave_one_out[name] = {
            "weighted_log_loss": weighted(rows.labels, without, weights),
            "adds": adds,
        }
    return {
        "member_names": names,
        "plan": {
            "method": plan.options.method,
            "power": plan.options.power,
            "space": plan.options.space,
            "weight_sum_min": plan.options.weight_sum_min,
            "stack_c": plan.options.stack_c,
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
    """Score the tables of a blend, and write metrics.json and report.html.

    Args:
        how: studies are called and triaged.
    """
    info = predictor_info(experiment)
    task = task_of(info)
    content = _read_blend(experiment.blend_file)
    frame, prior = read_experiment(experiment.folder, "oof")
    studies = study_sets(experiment, task)
    # Blends of earlier versions used the slices of all series of a study.
    rule = content["plan"].get("study_rule", f"{studies[-1].name}, of the slices of all series")
    last, rows = studies[-1], table.rows_of(frame["image_id"])
    of_studies = ScoredStudies(
        last.labels,
        last.probabilities,
        last.patient_ids,
        last.study_ids,
        rule,
        study_prior_of(info),
        _study_folds(experiment, frame),
        rows=rows[used_of(table, rows)],
    )
    main = score_predictions(
        "blend", frame, table, prior, info["threshold"], task=task, studies=of_studies, how=how
    )
    labels, patients = main.labels, owners(frame).to_numpy(dtype=object)
    raw = expit(frame[[f"logit_{name}" for name in task.label_names]].to_numpy(np.float64))
    stages = _stages(content, raw, main.probabilities, experiment, task)
    metrics = dict(main.metrics)
    metrics["stages"] = {
        name: with_all_labels(label_scores(labels, p, task), task.label_names)
        for name, p in stages.items()
    }
    metrics["calibration_gains"] = paired_interval(
        labels, main.probabilities, raw, patients, task.label_weights
    )
    metrics["study"] = metrics["study"] | _study_metrics(studies, task)
    for key in ("members", "weights", "correlation", "error_correlation", "leave_one_out"):
        metrics[key] = content[key]
    metrics["plan"] = content["plan"]
    metrics["flow"], flow = write_flow(
        experiment, main, table, task, "not predicted out of fold by every member"
    )
    metrics["weights_sha256"] = weights_digest(experiment.predictor)
    of_groups, sections = analyse_studies(main, frame, table, experiment, task.label_names)
    metrics |= of_groups
    write_json(experiment.metrics_file, metrics)
    slice_sets = [StageSet(name, labels, p) for name, p in stages.items()]
    EvaluationReport(
        title=f"Blend {experiment.folder.name}",
        subtitle=f"{info['model']['name']}; out-of-fold rows of {info['training'].get('dataset')}",
        label_names=task.label_names,
        main=replace(main, metrics=metrics),
        facts=_facts(info, content["plan"]),
        num_skipped={"rows that not all members predict": content["num_left_out"]}
        if content["num_left_out"]
        else {},
        flow=flow,
        study_sections=sections,
        sections=blend_sections(metrics, task.label_names, slice_sets, studies),
    ).write(experiment.report_file)
    write_card(experiment, table)
    return metrics


def _slices_only(plan: BlendPlan) -> BlendPlan:
    return replace(plan, studies=False)


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
    if plan["calibration"] != "none":
        if plan["consistency"]:
            columns = [f"calibrated_{name}" for name in task.label_names]
            path = experiment.predictions_file("oof")
            before = read_parquet(path, "blend again", columns=columns)
            stages[CALIBRATED] = before.to_numpy(np.float64)
            stages[f"{CALIBRATED}, {CONSISTENT}"] = final
        else:
            stages[CALIBRATED] = final
    return stages


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


def _study_folds(experiment: Experiment, slices: pd.DataFrame) -> NDArray[Any] | None:
    """Return the folds (s,) of the rows of the table of studies; None where one is not known."""
    path = experiment.predictions_file("studies")
    ids = read_parquet(path, "blend again", columns=["study_id"])["study_id"]
    of_study = slices.drop_duplicates("study_id").set_index("study_id")["fold"]
    return folds_of_studies(of_study.reindex(ids).to_numpy(), ids.to_numpy())


def _study_metrics(studies: Sequence[StageSet], task: Task) -> dict[str, Any]:
    """Return the metrics of the final probabilities of studies, the others under their names."""
    by_kind = {
        each.name: with_all_labels(
            label_scores(each.labels, each.probabilities, task), task.label_names
        )
        for each in studies
    }
    last = studies[-1]
    gains = paired_interval(
        last.labels,
        last.probabilities,
        studies[0].probabilities,
        last.patient_ids,
        task.label_weights,
    )
    return {**by_kind[last.name], **by_kind, "calibration_gains": gains}


def _weights(
    label_names: Sequence[str], fitted: CrossFitted, kept: FittedBlend
) -> dict[str, dict[str, Any]]:
    """Return by label the weights (and bias) scored on each fold, and those kept for new data."""
    parts = {f"fold {group}": part for group, part in fitted.parts.items()} | {"all rows": kept}
    return {
        label: {
            name: {
                "weights": list(part.blender.weights[column]),
                "bias": part.blender.bias[column],
            }
            for name, part in parts.items()
        }
        for column, label in enumerate(label_names)
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
