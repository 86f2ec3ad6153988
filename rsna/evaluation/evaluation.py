"""Evaluates an experiment: on the rows it validated on, or on another labelled dataset."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.experiment import JSON_FILE, Experiment, PredictorHome, ScoredFolder
from common.files import write_json
from common.predictors.base import PredictOptions
from common.predictors.blend import BlendPredictor
from common.predictors.engine import Precision
from common.predictors.series import STUDY_RULE
from common.report import EvaluationReport, PlannedSchedule
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.leakage import ENCODER
from common.slices.pixel_steps import require_same_steps
from common.slices.store import UnreadableSlice
from common.slices.table import STATUS_OK, SliceTable
from common.tables import read_parquet
from common.words import count
from config import Config, recorded_config
from rsna.build import build_schedule
from rsna.evaluation.blend import write_evaluation
from rsna.evaluation.deciding import (
    AS_KEPT,
    EXACT,
    NEARLY,
    POINTS,
    STOPPED,
    TRIAGE,
    Deciding,
    fitted_record,
    kept_records,
)
from rsna.evaluation.failures import analyse_studies
from rsna.evaluation.flow import write_flow
from rsna.evaluation.labelled import find_labelled, predict_labelled, score_labelled_studies
from rsna.evaluation.model_card import weights_digest, write_card
from rsna.evaluation.prediction import SERIES_FILE, write_csv
from rsna.evaluation.scoring import (
    predictor_info,
    prior_of,
    read_experiment,
    score_predictions,
    study_prior_of,
    summary,
    task_of,
)
from rsna.evaluation.unseen import (
    refused_decisions,
    require_unseen_rows,
    require_unseen_source,
    source_note,
)
from rsna.opening import open_predictor
from rsna.predictor import predict_with_progress
from rsna_model import build_model

logger = logging.getLogger(__name__)

_OF_FOLD = (
    *("weighted_log_loss", "prior_weighted_log_loss", "num_slices", "num_studies"),
    *("scored_prior_weighted_log_loss", "auc"),
)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, and its folder."""

    metrics: dict[str, Any]
    place: ScoredFolder

    def summary(self) -> str:
        return summary(self.metrics, self.place.report_file)


def evaluate_experiment(
    experiment_folder: Path, table: SliceTable, how: Deciding = AS_KEPT
) -> Evaluation:
    """Score the predictions that training left, and writes metrics.json and report.html.

    The figures are those of the last (averaged) weights; those of the best checkpoint, chosen on
    the same rows, stand under `best` with `selected` true. With all folds they are of the
    out-of-fold predictions, and `folds` has the main figures of each fold.

    Args:
        how: studies are called and triaged; thresholds and triage that are asked for are kept in
            the predictor.
    """
    experiment = Experiment(experiment_folder)
    info = predictor_info(experiment)
    config = recorded_config(experiment_folder)
    if info.get("kind") == BlendPredictor.kind:
        metrics = write_evaluation(experiment, table, how)
        _keep_decisions(experiment, metrics, how, config, table)
        write_card(experiment, table)  # with what is kept
        return Evaluation(metrics, experiment)
    is_folded = config.data.data_fold == "all"
    name = "oof" if is_folded else "valid"
    last, prior = read_experiment(experiment_folder, name)
    task = task_of(info)
    options: dict[str, Any] = {"threshold": info["threshold"], "task": task}
    options |= {"prior_of_studies": study_prior_of(info), "rule_of_studies": info.get(STUDY_RULE)}
    main = score_predictions("last weights", last, table, prior, how=how, **options)
    metrics, others = dict(main.metrics), []
    if experiment.predictions_file(f"{name}_best").is_file():
        best, prior = read_experiment(experiment_folder, f"{name}_best")
        title = "best checkpoints" if is_folded else "best checkpoint"
        others.append(score_predictions(title, best, table, prior, selected=True, **options))
        metrics["best"] = others[0].metrics
    folds = _fold_metrics(experiment) if is_folded else {}
    if is_folded:
        metrics["folds"] = {
            fold: {name: values.get(name) for name in _OF_FOLD} for fold, values in folds.items()
        }
    which = "out-of-fold rows" if is_folded else f"validation rows (fold {config.data.data_fold})"
    metrics["flow"], flow = write_flow(experiment, main, table, task, f"not among the {which}")
    metrics["weights_sha256"] = weights_digest(experiment.predictor)
    of_groups, sections = analyse_studies(main, last, table, experiment, task.label_names)
    metrics |= of_groups
    write_json(experiment.metrics_file, metrics)
    _keep_decisions(experiment, metrics, how, config, table)
    dataset = config.data.data_dataset
    what = f"Validation rows of {dataset}, fold {config.data.data_fold}"
    if is_folded:
        by = "each predicted by the fold that did not train on its patient"
        what = f"Out-of-fold rows of {dataset}: {by}"
    EvaluationReport(
        title=experiment.title,
        subtitle=what,
        folds=folds,
        label_names=task.label_names,
        main=main,
        others=others,
        facts=_facts(info) | source_note(experiment, table),
        num_skipped=_num_skipped(table, task.label_names),
        flow=flow,
        learning_records=_learning_records(experiment.metrics_log),
        loss_note=_loss_note(config),
        schedule=None if is_folded else _planned_schedule(config, info["model"]),
        study_sections=sections,
        read_image_hu=_image_reader(table, last["image_id"]),
    ).write(experiment.report_file)
    write_card(experiment, table)
    return Evaluation(metrics, experiment)


def evaluate_on_dataset(
    home: PredictorHome,
    table: SliceTable,
    name: str,
    options: PredictOptions,
    held_out: AbstractSet[str] | None = None,
    protocol: str | None = None,
    how: Deciding = AS_KEPT,
    engine: Precision | None = None,
) -> Evaluation:
    """Predict and score all labelled slices of a dataset that the predictor has not seen.

    Writes evaluations/<name>/{predictions.parquet,metrics.json,report.html}. Studies are scored
    with the probabilities that predict.py writes to studies.csv: of the used series
    (`common.slices.series`), whose slices are predicted too where they have no label. Where studies
    have labels and slices have none, series.csv lists the series, used or not, and why.

    Args:
        held_out: ids to which it is limited: of what imported weights were not trained on.
        protocol: the hash of the protocol that it follows (`rsna.evaluation.protocol`).
        how: studies are called and triaged, where the flags ask for it; else as the predictor
            does, unless it was fitted on these patients.
        engine: what runs the networks (`open_predictor`), kept in metrics.json.

    Raises:
        InputError: nothing can be scored, or the weights or a calibration saw what would be.
    """
    info = predictor_info(home)
    predictor = open_predictor(home.predictor, engine)
    require_same_steps(info["training"], table.folder)
    task = task_of(info)
    require_unseen_source(home, table, name, held_out)
    labelled = find_labelled(table, name, task.label_names, held_out)
    notes = require_unseen_rows(home, table, labelled.rows, name)
    found = predict_labelled(
        labelled, lambda rows: predict_with_progress(predictor, table, rows, options, name)
    )
    frame = build_predictions(
        table.frame.iloc[found.rows],
        found.logits,
        task.label_names,
        fold=None,
        experiment_id=home.id,
        calibration=predictor.calibration,
        series_logits=found.series_logits,
    )
    asked = {POINTS: how.rule, TRIAGE: how.error_rate}
    kept = {key: info[key] for key in asked if info.get(key) and not asked[key]}
    how = replace(how, kept=kept, refused=refused_decisions(kept, table, labelled.rows))
    place = home.evaluation(name)
    write_predictions(place.predictions_file, frame, task.label_names)
    studies, of_studies = score_labelled_studies(labelled, found, frame, predictor)
    scores: dict[str, Any] = {"task": task, "studies": studies, "how": how}
    main = score_predictions(
        "last weights", frame, table, prior_of(info), info["threshold"], **scores
    )
    why_not = "not scored" if held_out is None else "not named by --ev_held_out"
    stages, flow = write_flow(place, main, table, task, why_not)
    of_groups, sections = analyse_studies(main, frame, table, place, task.label_names)
    metrics = {**main.metrics, **of_groups, "flow": stages, "protocol": protocol}
    metrics["engine"] = engine and f"openvino {engine}"
    metrics["weights_sha256"] = weights_digest(home.predictor)
    write_json(place.metrics_file, metrics)
    if labelled.by_study:
        write_csv(place.folder / SERIES_FILE, found.series)
    num_skipped = {**_num_unusable(table), **labelled.num_skipped, **of_studies}
    if found.unreadable.any():
        num_skipped["pixels found damaged, scored with the prior"] = int(found.unreadable.sum())
    EvaluationReport(
        title=f"{home.title} on {name}",
        subtitle=f"All labelled {'studies' if labelled.by_study else 'slices'} of {name}",
        label_names=task.label_names,
        main=main,
        facts={**_facts(info), **notes, "views": ", ".join(options.views), "protocol": protocol},
        num_skipped=num_skipped,
        flow=flow,
        study_sections=sections,
        read_image_hu=_image_reader(table, frame["image_id"]),
    ).write(place.report_file)
    write_card(home)
    return Evaluation(metrics, place)


def _keep_decisions(
    experiment: Experiment,
    metrics: Mapping[str, Any],
    how: Deciding,
    config: Config,
    table: SliceTable,
) -> None:
    """Write the thresholds and the triage that were asked for into predictor.json, in one step."""
    if how.rule is None and not how.error_rate:
        return
    ids = read_parquet(experiment.out_of_fold_file, "evaluate again", columns=["image_id"])
    fitted = fitted_record(table, table.rows_of(ids["image_id"]), config.data.data_dataset)
    # The mean of several networks is none of those that predicted these rows.
    guarantee = NEARLY if config.data.data_fold == "all" else EXACT
    if config.callbacks.cb_early_stopping_patience and guarantee == EXACT:
        guarantee = STOPPED
    records = kept_records(metrics["study"], how, fitted, guarantee)
    write_json(experiment.predictor / JSON_FILE, predictor_info(experiment) | records)
    for key in (key for key, record in records.items() if record is None):
        logger.warning("%s: too few patients, the predictor keeps none", key)


def _num_unusable(table: SliceTable) -> dict[str, int]:
    statuses = table.frame["status"]
    counts = statuses[statuses != STATUS_OK].value_counts()
    return {f"files not usable: {status}": int(count) for status, count in counts.items()}


def _num_skipped(table: SliceTable, label_names: Sequence[str]) -> dict[str, int]:
    """Return what the dataset holds that no score counts, by reason."""
    skipped = _num_unusable(table)
    all_rows = np.arange(len(table))
    unlabelled = np.isnan(table.labels(all_rows, label_names)).all(axis=1) & table.readable
    if unlabelled.any():
        skipped["slices without a label"] = int(unlabelled.sum())
    return skipped


def _fold_metrics(experiment: Experiment) -> dict[str, dict[str, Any]]:
    return {
        str(number): json.loads(fold.metrics_file.read_text(encoding="utf-8"))
        for number, fold in experiment.folds.items()
        if fold.metrics_file.is_file()
    }


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page may show of a predictor: no paths."""
    return {
        "model": info.get("model", {}).get("name"),
        "starts from": _origin_of_weights(info["training"]),
        "labels": ", ".join(info["label_names"]),
        "neighbouring slices": _neighbours(info),
        "calibration": _calibration(info),
        **{name: info["training"].get(name) for name in ("dataset", "fold", "iterations")},
        "prior": ", ".join(f"{name} {share:.4f}" for name, share in info["prior"].items()),
    }


def _calibration(info: Mapping[str, Any]) -> str:
    places, local = [], info.get("calibrated_on")
    while local:
        places.append(f"{local['dataset']}: {count(local['num_patients'], 'patient')}")
        local = local.get("on_top_of")
    if places:
        return f"on {', on top of '.join(places)}, not among those scored"
    return "per label" if info["calibration"] else "none"


def _origin_of_weights(training: Mapping[str, Any]) -> str | None:
    """Return source and licence of the weights of others that a predictor stands on, if any."""
    found = training.get(ENCODER) or training
    if not found.get("source"):
        return None
    return f"{found['source']}, licence: {found.get('licence') or 'none stated'}"


def _neighbours(info: Mapping[str, Any]) -> str:
    """Return which slices make a sample; nothing where the predictor is made of others."""
    offsets_mm = info.get("offsets_mm", ())
    offsets, unit = (offsets_mm, " mm") if offsets_mm else (info.get("slice_offsets", ()), "")
    return ", ".join(f"{offset:+g}{unit}" if offset else "itself" for offset in offsets)


def _planned_schedule(config: Config, specification: Mapping[str, Any]) -> PlannedSchedule:
    """Return the learning rate of the flags, and the first layer's share of it."""
    schedule, decay = build_schedule(config), config.optimizer.optim_layer_decay
    lowest = 1.0
    if decay != 1:
        depths = build_model(dict(specification)).parameter_depths().values()
        lowest = decay ** (max(depths) - min(depths))
    return PlannedSchedule(schedule, schedule.num_steps, lowest, schedule.swa_start)


def _loss_note(config: Config) -> str:
    training = config.training
    parts = ["focal loss" if training.tr_loss == "focal" else "cross-entropy"]
    if training.tr_any_weight_schedule:
        parts.append("with a weight of `any` that falls over the training")
    if training.tr_label_smoothing:
        parts.append("of smoothed labels")
    return (
        f"train_loss is what training minimised on augmented slices: {' '.join(parts)}. "
        "weighted_log_loss is the metric, of the weights that are predicted with; raw: of the "
        "weights without averaging."
    )


def _learning_records(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl; a torn last line is passed over, with a warning."""
    records = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            logger.warning("%s: line %d is not JSON and is passed over", path, number)
    return records


def _image_reader(table: SliceTable, image_ids: pd.Series) -> Callable[[int], np.ndarray | None]:
    """Return what reads the pixels of a row of a prediction table; None where they can't be."""
    rows = table.rows_of(image_ids)

    def read(row: int) -> np.ndarray | None:
        try:
            return table.image_hu(int(rows[row]))
        except UnreadableSlice as error:
            logger.warning("an example slice can't be read: %s", error)
            return None

    return read
