"""Scores prediction tables of the task against the labels of their dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.cli import script_command
from common.experiment import Experiment, experiment_id_of, read_predictor_json
from common.files import read_parquet
from common.report import ScoredSet
from common.scoring.metrics import DEFAULT_THRESHOLD, evaluate_slices
from common.scoring.predictions import read_predictions
from common.slices.table import STUDIES_FILE, SliceTable
from common.statistics.intervals import patient_intervals
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
        prior: (k,), or (n, k) where rows of several experiments are pooled.
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
    path = Experiment(experiment_folder).predictions_file(name)
    frame = read_predictions(path, info["label_names"])
    if not info.get("fold_priors") or frame["fold"].isna().any():
        return frame, prior_of(info)
    names = info["label_names"]
    priors = {int(fold): [of[n] for n in names] for fold, of in info["fold_priors"].items()}
    folds, codes = np.unique(frame["fold"].to_numpy(dtype=np.int64), return_inverse=True)
    return frame, np.array([priors[int(fold)] for fold in folds])[codes]


def predictor_info(experiment_folder: Path) -> dict[str, Any]:
    """Returns what predictor.json of an experiment says; InputError for labels of no task."""
    folder = Experiment(experiment_folder).predictor
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


def summary(values: Mapping[str, Any], report: Path) -> str:
    """Returns a short table of the metrics of an evaluation, and where its page is."""
    is_folded = "folds" in values
    lines = [score_line("out-of-fold" if is_folded else "last weights", values)]
    if "best" in values:
        lines.append(score_line(f"best checkpoint{'s' if is_folded else ''}*", values["best"]))
    lines += [score_line(f"  fold {fold}", part) for fold, part in values.get("folds", {}).items()]
    for name, key in (("scored prior", "scored_prior"), ("training prior", "prior")):
        loss = shown(values.get(f"{key}_weighted_log_loss"), 4)
        lines.append(f"{name:<18} weighted log loss {loss}")
    lines.append(f"{'label':<18} {'AUC':>6} {'AP':>6} {'ECE':>6}   per study: AUC")
    for name in (label for label in LABELS if values["confusion"][label] is not None):
        cells = [values[key][name] for key in ("auc", "average_precision", "ece")]
        cells.append(values["study"]["auc"][name])
        auc, precision, ece, study = (shown(cell) for cell in cells)
        lines.append(f"{name:<18} {auc:>6} {precision:>6} {ece:>6} {study:>17}")
    lines.append(f"{values['num_slices']} slices, {values['num_studies']} studies")
    if "best" in values:
        lines.append("* chosen on these rows: its score is too good")
    lines.append(f"report: {report}")
    return "\n".join(lines)


def next_steps(experiment_folder: Path, monitor_command: str | None) -> str:
    """Returns what a user may want to do after an evaluation, a line each."""
    experiment_id = experiment_id_of(experiment_folder)
    output_dir = experiment_folder.parents[1 + experiment_id.count("/")]
    place = [] if output_dir == Path("output") else ["--output_dir", str(output_dir)]
    which = ("--experiment_id", experiment_id, *place)
    predict, train = script_command(*which, script="predict.py"), script_command(script="train.py")
    lines = [f"to watch the runs:  {monitor_command}"] if monitor_command else []
    lines += [
        f"to try next:        {predict} --pr_input <folder of DICOM> --pr_output <folder>",
        "                    "
        f"{train} --net_model rsna-seresnext-50.32.4d   ({train} --help: more flags)",
    ]
    return "\n".join(lines)


def score_line(name: str, values: Mapping[str, Any]) -> str:
    """Return a line with the weighted log loss, and how it stands to those of both priors."""
    loss = values["weighted_log_loss"]
    line = f"{name:<18} weighted log loss {shown(loss, 4)}"
    if loss is None:
        return f"{line}, per study {shown(values['study']['weighted_log_loss'], 4)}"
    intervals = values.get("interval", {})
    for key, what in (("scored_prior", "scored prior's"), ("prior", "training prior's")):
        prior = values.get(f"{key}_weighted_log_loss")
        if prior:
            ratio = intervals.get(f"weighted_log_loss_to_{key}")
            spread = f" (95 % interval {ratio[0]:.2f} to {ratio[1]:.2f})" if ratio else ""
            line += f", {loss / prior:.2f} of the {what}{spread}"
    return line


def shown(value: float | None, digits: int = 3) -> str:
    """Return a number as a table shows it; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
