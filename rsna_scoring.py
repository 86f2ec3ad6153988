"""Scores prediction tables of the task against the labels of their dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError
from common.intervals import patient_intervals
from common.metrics import DEFAULT_THRESHOLD, evaluate_slices
from common.predictions import read_predictions
from common.predictor import PREDICTOR_FOLDER, read_predictor_json
from common.report import ScoredSet
from common.slices import STUDIES_FILE, SliceTable
from rsna_task import LABEL_WEIGHTS, LABELS


def score_predictions(
    name: str,
    predictions: pd.DataFrame,
    table: SliceTable,
    prior: np.ndarray,
    threshold: float = DEFAULT_THRESHOLD,
    selected: bool = False,
) -> ScoredSet:
    """Returns the score of a prediction table against the labels of its dataset.

    Args:
        name: of the weights that predicted.
        predictions: the table, n rows.
        table: the dataset.
        prior: (k,), or (n, k) where rows of several experiments are pooled.
        threshold: from which probability on a label counts as called.
        selected: true where the checkpoint was chosen on these rows.
    """
    labels = table.labels(table.rows_of(predictions["image_id"]), LABELS).astype(np.float64)
    probabilities = predictions[list(LABELS)].to_numpy(dtype=np.float64)
    options: dict[str, Any] = {"label_names": LABELS, "weights": LABEL_WEIGHTS, "prior": prior}
    metrics = evaluate_slices(
        labels,
        probabilities,
        predictions["study_id"],
        study_labels=study_labels(table) if np.isnan(labels).all() else None,
        selected=selected,
        threshold=threshold,
        **options,
    )
    # Anonymised exports may lack patient ids: their studies are taken to be patients.
    patients = predictions["patient_id"].fillna(predictions["study_id"])
    metrics["interval"] = patient_intervals(labels, probabilities, patients, **options)
    image_ids = predictions["image_id"].astype(str).tolist()
    return ScoredSet(name, metrics, labels, probabilities, image_ids)


def read_experiment(experiment_folder: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Returns predictions/<name>.parquet of an experiment, and the prior (k,) of its training."""
    predictions = read_predictions(experiment_folder / "predictions" / f"{name}.parquet", LABELS)
    return predictions, prior_of(predictor_info(experiment_folder))


def predictor_info(experiment_folder: Path) -> dict[str, Any]:
    """Returns what predictor.json of an experiment says; InputError for other labels."""
    info = read_predictor_json(experiment_folder / PREDICTOR_FOLDER)
    if tuple(info["label_names"]) != LABELS:
        raise InputError(
            f"{experiment_folder / PREDICTOR_FOLDER} has the labels "
            f"{', '.join(info['label_names'])}, wanted are {', '.join(LABELS)}"
        )
    return info


def prior_of(info: Mapping[str, Any]) -> np.ndarray:
    """Returns the prior (k,) that predictor.json gives."""
    return np.array([info["prior"][label] for label in LABELS])


def study_labels(table: SliceTable) -> pd.DataFrame | None:
    """Returns the labels of studies, by study id; None where the dataset has no such table."""
    path = table.folder / STUDIES_FILE
    if not path.is_file():
        return None
    return pd.read_parquet(path).set_index("study_id")[list(LABELS)]
