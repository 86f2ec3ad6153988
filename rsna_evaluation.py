"""Evaluates an experiment: on the rows it validated on, or on another labelled dataset."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import write_json
from common.intervals import patient_intervals
from common.metrics import evaluate_slices
from common.predictions import build_predictions, read_predictions, write_predictions
from common.predictor import PREDICTOR_FOLDER, Predictor, read_predictor_json
from common.report import EvaluationReport, ScoredSet
from common.slices import STATUS_OK, STUDIES_FILE, SliceTable
from common.store import UnreadableSlice
from rsna_model import build_model
from rsna_task import LABEL_WEIGHTS, LABELS

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: the content of metrics.json.
        folder: where metrics.json and report.html are.
    """

    metrics: dict[str, Any]
    folder: Path

    @property
    def metrics_file(self) -> Path:
        """The metrics.json."""
        return self.folder / METRICS_FILE

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / REPORT_FILE

    def summary(self) -> str:
        """Returns a short table for the console."""
        values = self.metrics
        lines = [_score_line("last weights", values)]
        if "best" in values:
            lines.append(_score_line("best checkpoint*", values["best"]))
        prior = values["prior_weighted_log_loss"]
        lines.append(f"{'constant prior':<18} weighted log loss {_shown(prior, 4)}")
        lines.append(f"{'label':<18} {'AUC':>6} {'AP':>6} {'ECE':>6}   per study: AUC")
        for name in LABELS:
            cells = [values[key][name] for key in ("auc", "average_precision", "ece")]
            cells.append(values["study"]["auc"][name])
            auc, precision, ece, study = (_shown(cell) for cell in cells)
            lines.append(f"{name:<18} {auc:>6} {precision:>6} {ece:>6} {study:>17}")
        lines.append(f"{values['num_slices']} slices, {values['num_studies']} studies")
        if "best" in values:
            lines.append("* chosen on these rows: its score is too good")
        lines.append(f"report: {self.report}")
        return "\n".join(lines)


def next_steps(experiment_id: str, monitor_command: str | None) -> str:
    """Returns what a user may want to do after an evaluation, a line each."""
    lines = [f"to watch the runs:  {monitor_command}"] if monitor_command else []
    lines += [
        "to try next:        "
        f"python predict.py --experiment_id {experiment_id} --pr_input <folder of DICOM> "
        "--pr_output <folder>",
        "                    "
        "python train.py --net_model rsna-seresnext-50.32.4d   (python train.py --help: all flags)",
    ]
    return "\n".join(lines)


def evaluate_experiment(experiment_folder: Path, table: SliceTable) -> Evaluation:
    """Scores the predictions that training left, and writes metrics.json and report.html.

    The figures are those of the last (averaged) weights; those of the best checkpoint, chosen on
    the same rows, stand under `best` with `selected` true.

    Args:
        experiment_folder: a finished training's.
        table: the dataset it was trained on.
    """
    info = _predictor_info(experiment_folder)
    predictions = experiment_folder / "predictions"
    last = read_predictions(predictions / "valid.parquet", LABELS)
    main = _score("last weights", last, table, info)
    metrics, others = dict(main.metrics), []
    if (predictions / "valid_best.parquet").is_file():
        best = read_predictions(predictions / "valid_best.parquet", LABELS)
        others.append(_score("best checkpoint", best, table, info, selected=True))
        metrics["best"] = others[0].metrics
    write_json(experiment_folder / METRICS_FILE, metrics)
    training = info["training"]
    report = EvaluationReport(
        title=f"Experiment {experiment_folder.name}",
        subtitle=f"Validation rows of {training.get('dataset')}, fold {training.get('fold')}",
        label_names=LABELS,
        main=main,
        others=others,
        facts=_facts(info),
        num_skipped=_num_skipped(table),
        learning_records=_learning_records(experiment_folder / "metrics.jsonl"),
        read_image_hu=_ImageReader(table, last["image_id"]),
    )
    report.write(experiment_folder / REPORT_FILE)
    return Evaluation(metrics, experiment_folder)


def evaluate_on_dataset(
    experiment_folder: Path,
    table: SliceTable,
    name: str,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Predicts and scores all labelled slices of a dataset that the experiment has not seen.

    Writes evaluations/<name>/{predictions.parquet,metrics.json,report.html}.

    Args:
        experiment_folder: a finished training's.
        table: the dataset.
        name: of the dataset.
        num_workers: processes that read slices.
        device: where the network runs.
    """
    info = _predictor_info(experiment_folder)
    predictor = Predictor.load(experiment_folder / PREDICTOR_FOLDER, build_model)
    rows = _labelled_rows(table, name)
    with tqdm(total=len(rows), unit="slice", desc=f"predicting {name}") as bar:
        result = predictor.predict_rows(
            table, rows, num_workers=num_workers, device=device, on_batch=bar.update
        )
    frame = build_predictions(
        table.frame.iloc[rows],
        result.logits,
        LABELS,
        fold=None,
        experiment_id=experiment_folder.name,
        calibration=predictor.calibration,
    )
    folder = experiment_folder / "evaluations" / name
    write_predictions(folder / "predictions.parquet", frame, LABELS)
    main = _score("last weights", frame, table, info)
    write_json(folder / METRICS_FILE, main.metrics)
    num_skipped = _num_skipped(table)
    if result.unreadable.any():
        num_skipped["pixels found damaged, scored with the prior"] = int(result.unreadable.sum())
    report = EvaluationReport(
        title=f"Experiment {experiment_folder.name} on {name}",
        subtitle=f"All labelled slices of {name}",
        label_names=LABELS,
        main=main,
        facts=_facts(info),
        num_skipped=num_skipped,
        read_image_hu=_ImageReader(table, frame["image_id"]),
    )
    report.write(folder / REPORT_FILE)
    return Evaluation(dict(main.metrics), folder)


def _predictor_info(experiment_folder: Path) -> dict[str, Any]:
    info = read_predictor_json(experiment_folder / PREDICTOR_FOLDER)
    if tuple(info["label_names"]) != LABELS:
        raise InputError(
            f"{experiment_folder / PREDICTOR_FOLDER} has the labels "
            f"{', '.join(info['label_names'])}, wanted are {', '.join(LABELS)}"
        )
    return info


def _score(
    name: str,
    predictions: pd.DataFrame,
    table: SliceTable,
    info: Mapping[str, Any],
    selected: bool = False,
) -> ScoredSet:
    """Returns the score of a prediction table against the labels of the dataset."""
    labels = table.labels(table.rows_of(predictions["image_id"]), LABELS).astype(np.float64)
    probabilities = predictions[list(LABELS)].to_numpy(dtype=np.float64)
    options: dict[str, Any] = {
        "label_names": LABELS,
        "weights": LABEL_WEIGHTS,
        "prior": np.array([info["prior"][label] for label in LABELS]),
    }
    metrics = evaluate_slices(
        labels,
        probabilities,
        predictions["study_id"],
        study_labels=_study_labels(table) if np.isnan(labels).all() else None,
        selected=selected,
        threshold=info["threshold"],
        **options,
    )
    # Anonymised exports may lack patient ids: their studies are taken to be patients.
    patients = predictions["patient_id"].fillna(predictions["study_id"])
    metrics["interval"] = patient_intervals(labels, probabilities, patients, **options)
    image_ids = predictions["image_id"].astype(str).tolist()
    return ScoredSet(name, metrics, labels, probabilities, image_ids)


def _labelled_rows(table: SliceTable, name: str) -> np.ndarray:
    """Returns the readable rows that have a label, or whose study has one."""
    all_rows = np.arange(len(table))
    has_label = ~np.isnan(table.labels(all_rows, LABELS)).all(axis=1)
    if not has_label.any():
        study_labels = _study_labels(table)
        if study_labels is not None:
            labelled = study_labels.index[study_labels.notna().any(axis=1)]
            has_label = table.frame["study_id"].isin(labelled).to_numpy()
    rows = np.flatnonzero(has_label & table.readable)
    if not len(rows):
        raise InputError(f"--data_dataset {name}: no slice that can be read has a label")
    return rows


def _study_labels(table: SliceTable) -> pd.DataFrame | None:
    path = table.folder / STUDIES_FILE
    if not path.is_file():
        return None
    return pd.read_parquet(path).set_index("study_id")[list(LABELS)]


def _num_skipped(table: SliceTable) -> dict[str, int]:
    """Returns what the dataset holds that no score counts, by reason."""
    frame = table.frame
    counts = frame.loc[frame["status"] != STATUS_OK, "status"].value_counts()
    skipped = {f"files not usable: {status}": int(count) for status, count in counts.items()}
    all_rows = np.arange(len(table))
    unlabelled = np.isnan(table.labels(all_rows, LABELS)).all(axis=1) & table.readable
    if unlabelled.any():
        skipped["slices without a label"] = int(unlabelled.sum())
    return skipped


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a page may tell of a predictor: no paths."""
    return {
        "model": info["model"].get("name"),
        "neighbouring slices": info["slice_offsets"],
        "calibration": "per label" if info["calibration"] else "none",
        **{name: info["training"].get(name) for name in ("dataset", "fold", "iterations")},
        "prior": ", ".join(f"{name} {share:.4f}" for name, share in info["prior"].items()),
    }


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


def _score_line(name: str, values: Mapping[str, Any]) -> str:
    loss, prior = values["weighted_log_loss"], values["prior_weighted_log_loss"]
    line = f"{name:<18} weighted log loss {_shown(loss, 4)}"
    if loss is None or not prior:
        return line
    ratio = values["interval"]["weighted_log_loss_to_prior"]
    spread = f" (95 % interval {ratio[0]:.2f} to {ratio[1]:.2f})" if ratio else ""
    return f"{line}, {loss / prior:.2f} of the prior's{spread}"


def _shown(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
