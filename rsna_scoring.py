"""Scores prediction tables of the task against the labels of their dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import read_parquet
from common.intervals import patient_intervals
from common.metrics import DEFAULT_THRESHOLD, evaluate_slices
from common.predictions import read_predictions
from common.predictor import PREDICTOR_FOLDER, read_predictor_json
from common.report import ScoredSet
from common.slices import STUDIES_FILE, SliceTable
from rsna_task import CHALLENGE, LABELS, Task, task_of_labels


def score_predictions(
    name: str,
    predictions: pd.DataFrame,
    table: SliceTable,
    prior: np.ndarray,
    threshold: float = DEFAULT_THRESHOLD,
    selected: bool = False,
    task: Task = CHALLENGE,
) -> ScoredSet:
    """Returns the score of a prediction table against the labels of its dataset.

    Args:
        name: of the weights that predicted.
        predictions: the table, n rows.
        table: the dataset.
        prior: (k,), or (n, k) where rows of several experiments are pooled.
        threshold: from which probability on a label counts as called.
        selected: true where the checkpoint was chosen on these rows.
        task: the labels that were predicted; in the metrics all others are None.
    """
    names = task.label_names
    labels = table.labels(table.rows_of(predictions["image_id"]), names).astype(np.float64)
    probabilities = predictions[list(names)].to_numpy(dtype=np.float64)
    options: dict[str, Any] = {"label_names": names, "weights": task.label_weights, "prior": prior}
    metrics = evaluate_slices(
        labels,
        probabilities,
        predictions["study_id"],
        study_labels=study_labels(table, names) if np.isnan(labels).all() else None,
        selected=selected,
        threshold=threshold,
        **options,
    )
    # Anonymised exports may lack patient ids: their studies are taken to be patients.
    patients = predictions["patient_id"].fillna(predictions["study_id"])
    metrics["interval"] = patient_intervals(labels, probabilities, patients, **options)
    image_ids = predictions["image_id"].astype(str).tolist()
    return ScoredSet(name, with_all_labels(metrics, names), labels, probabilities, image_ids)


def read_experiment(experiment_folder: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Returns predictions/<name>.parquet of an experiment, and the prior (k,) of its training.

    With all folds it is the prior (n, k) of the training of each row's fold.
    """
    info = predictor_info(experiment_folder)
    path = experiment_folder / "predictions" / f"{name}.parquet"
    frame = read_predictions(path, info["label_names"])
    if not info.get("fold_priors") or frame["fold"].isna().any():
        return frame, prior_of(info)
    names = info["label_names"]
    priors = {int(fold): [of[n] for n in names] for fold, of in info["fold_priors"].items()}
    folds, codes = np.unique(frame["fold"].to_numpy(dtype=np.int64), return_inverse=True)
    return frame, np.array([priors[int(fold)] for fold in folds])[codes]


def predictor_info(experiment_folder: Path) -> dict[str, Any]:
    """Returns what predictor.json of an experiment says; InputError for labels of no task."""
    folder = experiment_folder / PREDICTOR_FOLDER
    info = read_predictor_json(folder)
    task_of_labels(info["label_names"], str(folder))
    return info


def task_of(info: Mapping[str, Any]) -> Task:
    """Returns the task of the predictor that `predictor_info` describes."""
    return task_of_labels(info["label_names"], "the predictor")


def prior_of(info: Mapping[str, Any]) -> np.ndarray:
    """Returns the prior (k,) that predictor.json gives."""
    return np.array([info["prior"][label] for label in info["label_names"]])


def study_labels(table: SliceTable, label_names: Sequence[str] = LABELS) -> pd.DataFrame | None:
    """Returns the labels of studies, by study id; None where the dataset has no such table."""
    path = table.folder / STUDIES_FILE
    if not path.is_file():
        return None
    studies = read_parquet(path, "run preprocessing.py again")
    return studies.set_index("study_id")[list(label_names)]


def with_all_labels(metrics: Any, label_names: Sequence[str]) -> Any:
    """Returns metrics whose values by label have every label of the challenge, in its order.

    What the predictor does not know is None: the keys of metrics.json are the same for every task.
    """
    if not isinstance(metrics, dict):
        return metrics
    if tuple(metrics) == tuple(label_names):
        return {name: metrics.get(name) for name in LABELS}
    return {name: with_all_labels(value, label_names) for name, value in metrics.items()}
