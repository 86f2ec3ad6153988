"""Evaluates an experiment: on the rows it validated on, or on another labelled dataset."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.ensembling.cross_fitting import id_digests
from common.errors import InputError
from common.experiment import Experiment, ScoredFolder
from common.files import write_json
from common.predictors.base import PredictOptions
from common.predictors.blend import BlendPredictor
from common.predictors.loading import load_predictor
from common.report import EvaluationReport, PlannedSchedule
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.folds import FOLDS_FILE, is_in, is_pseudo, owners, read_folds
from common.slices.leakage import require_fitted_elsewhere
from common.slices.pixel_steps import require_same_steps
from common.slices.series import list_series
from common.slices.store import UnreadableSlice
from common.slices.table import STATUS_OK, SliceTable
from config import Config, recorded_config
from rsna.build import build_schedule
from rsna.evaluation.blend import write_evaluation
from rsna.evaluation.prediction import SERIES_FILE, predict_with_progress, write_csv
from rsna.evaluation.scoring import (
    predictor_info,
    prior_of,
    read_experiment,
    score_predictions,
    study_labels,
    summary,
    task_of,
)
from rsna_model import build_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, and its folder."""

    metrics: dict[str, Any]
    place: ScoredFolder

    def summary(self) -> str:
        """Return a short table of the metrics, and where the page is."""
        return summary(self.metrics, self.place.report_file)


def evaluate_experiment(experiment_folder: Path, table: SliceTable) -> Evaluation:
    """Scores the predictions that training left, and writes metrics.json and report.html.

    The figures are those of the last (averaged) weights; those of the best checkpoint, chosen on
    the same rows, stand under `best` with `selected` true. With all folds they are of the
    out-of-fold predictions, and `folds` has the main figures of each fold.
    """
    experiment, info = Experiment(experiment_folder), predictor_info(experiment_folder)
    if info.get("kind") == BlendPredictor.kind:
        return Evaluation(write_evaluation(experiment, table), experiment)
    config = recorded_config(experiment_folder)
    is_folded = config.data.data_fold == "all"
    name = "oof" if is_folded else "valid"
    last, prior = read_experiment(experiment_folder, name)
    task = task_of(info)
    options: dict[str, Any] = {"threshold": info["threshold"], "task": task}
    main = score_predictions("last weights", last, table, prior, **options)
    metrics, others = dict(main.metrics), []
    if experiment.predictions_file(f"{name}_best").is_file():
        best, prior = read_experiment(experiment_folder, f"{name}_best")
        title = "best checkpoints" if is_folded else "best checkpoint"
        others.append(score_predictions(title, best, table, prior, selected=True, **options))
        metrics["best"] = others[0].metrics
    folds = _fold_metrics(experiment) if is_folded else {}
    if is_folded:
        metrics["folds"] = {fold: _fold_summary(values) for fold, values in folds.items()}
    write_json(experiment.metrics_file, metrics)
    dataset = config.data.data_dataset
    report = EvaluationReport(
        title=f"Experiment {experiment.id}",
        subtitle=f"Out-of-fold rows of {dataset}: each predicted by the fold that did not train on "
        f"its patient"
        if is_folded
        else f"Validation rows of {dataset}, fold {config.data.data_fold}",
        folds=folds,
        label_names=task.label_names,
        main=main,
        others=others,
        facts=_facts(info),
        num_skipped=_num_skipped(table, task.label_names),
        learning_records=_learning_records(experiment.metrics_log),
        loss_note=_loss_note(config),
        schedule=None if is_folded else _planned_schedule(config, info["model"]),
        read_image_hu=_ImageReader(table, last["image_id"]),
    )
    report.write(experiment.report_file)
    return Evaluation(metrics, experiment)


def evaluate_on_dataset(
    experiment_folder: Path,
    table: SliceTable,
    name: str,
    options: PredictOptions,
) -> Evaluation:
    """Predicts and scores all labelled slices of a dataset that the experiment has not seen.

    Writes evaluations/<name>/{predictions.parquet,metrics.json,report.html}. Where studies have
    labels and slices have none, the series that speaks for each study (`common.slices.series`) is
    predicted, as in predict.py, and series.csv says which and why.
    """
    experiment, info = Experiment(experiment_folder), predictor_info(experiment_folder)
    predictor = load_predictor(experiment.predictor, build_model)
    require_same_steps(info["training"], table.folder)
    task = task_of(info)
    rows, num_skipped, series = _labelled_rows(table, name, task.label_names)
    _warn_of_shared_patients(experiment_folder, table, rows)
    if isinstance(predictor, BlendPredictor):
        studies = table.frame["study_id"].iloc[rows].fillna("")
        require_fitted_elsewhere(
            predictor.fitted_on, id_digests(studies), "--data_dataset: the blend"
        )
    result = predict_with_progress(predictor, table, rows, options, f"predicting {name}")
    frame = build_predictions(
        table.frame.iloc[rows],
        result.logits,
        task.label_names,
        fold=None,
        experiment_id=experiment.id,
        calibration=predictor.calibration,
    )
    place = experiment.evaluation(name)
    write_predictions(place.predictions_file, frame, task.label_names)
    main = score_predictions(
        "last weights", frame, table, prior_of(info), info["threshold"], task=task
    )
    write_json(place.metrics_file, main.metrics)
    if series is not None:
        write_csv(place.folder / SERIES_FILE, series)
    if result.unreadable.any():
        num_skipped["pixels found damaged, scored with the prior"] = int(result.unreadable.sum())
    report = EvaluationReport(
        title=f"Experiment {experiment.id} on {name}",
        subtitle=f"All labelled slices of {name}",
        label_names=task.label_names,
        main=main,
        facts={**_facts(info), "views": ", ".join(options.views)},
        num_skipped=num_skipped,
        read_image_hu=_ImageReader(table, frame["image_id"]),
    )
    report.write(place.report_file)
    return Evaluation(dict(main.metrics), place)


def _warn_of_shared_patients(experiment_folder: Path, table: SliceTable, rows: np.ndarray) -> None:
    """Tells the log of patients that are in the dataset of the training too, where it is there."""
    own = recorded_config(experiment_folder).data.data_dataset
    path = table.folder.parent / own / FOLDS_FILE
    if not path.is_file():
        return
    folds, frame = read_folds(path), table.frame.iloc[rows]
    num_images = int(is_in(frame["image_id"], folds["image_id"]).sum())
    num_patients = 0
    if "patient_id" in folds:
        patients = owners(frame)
        num_patients = patients[is_in(patients, folds["patient_id"])].nunique()
    if num_images or num_patients:
        logger.warning(
            "--data_dataset: %d patients and %d images are, by their ids, in the dataset %s too, "
            "which the experiment was trained on: scores are too good",
            num_patients,
            num_images,
            own,
        )


def _labelled_rows(
    table: SliceTable, name: str, label_names: Sequence[str]
) -> tuple[np.ndarray, dict[str, int], pd.DataFrame | None]:
    """Returns the rows to predict: those with a label, or of the labelled studies.

    With them come the numbers of what is left out, by reason, and where studies are labelled
    every series seen (`list_series`).
    """
    all_rows = np.arange(len(table))
    has_label = ~np.isnan(table.labels(all_rows, label_names)).all(axis=1) & ~is_pseudo(table.frame)
    skipped, series = _num_unusable(table), None
    what = "slices without a label"
    if not has_label.any():
        by_study = study_labels(table, label_names)
        if by_study is not None:
            labelled = by_study.index[by_study.notna().any(axis=1)]
            has_label = table.frame["study_id"].isin(labelled).to_numpy(dtype=bool)
            what = "slices of studies without a label"
    if (table.readable & ~has_label).any():
        skipped[what] = int((table.readable & ~has_label).sum())
    if what != "slices without a label":
        series = list_series(table.frame.assign(readable=table.readable)[has_label])
        is_used = table.frame["store_file"].isin(series.loc[series["used"] == 1, "store_file"])
        others = table.readable & has_label & ~is_used.to_numpy(dtype=bool)
        has_label = has_label & ~others
        if others.any():
            skipped["slices of series that do not speak for their study"] = int(others.sum())
    rows = np.flatnonzero(has_label & table.readable)
    if not len(rows):
        raise InputError(f"--data_dataset {name}: no slice that can be read has a label")
    return rows, skipped, series


def _num_unusable(table: SliceTable) -> dict[str, int]:
    statuses = table.frame["status"]
    counts = statuses[statuses != STATUS_OK].value_counts()
    return {f"files not usable: {status}": int(count) for status, count in counts.items()}


def _num_skipped(table: SliceTable, label_names: Sequence[str]) -> dict[str, int]:
    """Returns what the dataset holds that no score counts, by reason."""
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


def _fold_summary(values: Mapping[str, Any]) -> dict[str, Any]:
    names = ("weighted_log_loss", "prior_weighted_log_loss", "num_slices", "num_studies")
    scored_prior = values.get("scored_prior_weighted_log_loss")
    own = {name: values[name] for name in names}
    return {**own, "scored_prior_weighted_log_loss": scored_prior, "auc": values["auc"]}


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a page may tell of a predictor: no paths."""
    return {
        "model": info.get("model", {}).get("name"),
        "labels": ", ".join(info["label_names"]),
        "neighbouring slices": _neighbours(info),
        "calibration": "per label" if info["calibration"] else "none",
        **{name: info["training"].get(name) for name in ("dataset", "fold", "iterations")},
        "prior": ", ".join(f"{name} {share:.4f}" for name, share in info["prior"].items()),
    }


def _neighbours(info: Mapping[str, Any]) -> str:
    """Returns which slices make a sample; nothing where the predictor is made of others."""
    offsets_mm = info.get("offsets_mm", ())
    offsets, unit = (offsets_mm, " mm") if offsets_mm else (info.get("slice_offsets", ()), "")
    return ", ".join(f"{offset:+g}{unit}" if offset else "itself" for offset in offsets)


def _planned_schedule(config: Config, specification: Mapping[str, Any]) -> PlannedSchedule:
    """Returns the learning rate that the flags ask for, and the first layer's share of it."""
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
    """Returns the lines of metrics.jsonl; a torn last line is passed over, with a warning."""
    records = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            logger.warning("%s: line %d is not JSON and is passed over", path, number)
    return records


class _ImageReader:
    """Reads the pixels of a row of a prediction table; None where they can't be read."""

    def __init__(self, table: SliceTable, image_ids: pd.Series) -> None:
        self.table = table
        self.rows = table.rows_of(image_ids)

    def __call__(self, row: int) -> np.ndarray | None:
        try:
            return self.table.image_hu(int(self.rows[row]))
        except UnreadableSlice as error:
            logger.warning("an example slice can't be read: %s", error)
            return None
