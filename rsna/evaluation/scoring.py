"""Scores prediction tables of the task against the labels of their dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.cli import script_command
from common.errors import InputError
from common.experiment import (
    COPY_AGAIN,
    JSON_FILE,
    Experiment,
    PredictorHome,
    experiment_id_of,
    read_predictor_json,
)
from common.report import ScoredSet
from common.scoring.metrics import (
    DEFAULT_THRESHOLD,
    Floats,
    constant_log_loss,
    evaluate_slices,
    label_scores,
    training_prior,
)
from common.scoring.predictions import read_predictions, series_probabilities
from common.scoring.study_calibration import OWN_OF_SERIES, study_probabilities, study_rule
from common.slices.folds import owners, sampled
from common.slices.series import list_series, used_rows
from common.slices.study_labels import known_labels, labels_by_study
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from common.statistics.intervals import LEVEL, patient_intervals
from common.words import shown, spread
from rsna.evaluation.deciding import (
    AS_KEPT,
    Deciding,
    call_studies,
    decided_metrics,
    decision_lines,
)
from rsna_task import CHALLENGE, LABELS, Task, task_of_labels

ANY = LABELS[-1]
# What is read of predictor.json without loading the predictor.
_USED: Mapping[str, Any] = dict(label_names=list, prior=dict, training=dict, threshold=(int, float))


def score_predictions(
    name: str,
    predictions: pd.DataFrame,
    table: SliceTable,
    prior: np.ndarray,
    threshold: float = DEFAULT_THRESHOLD,
    selected: bool = False,
    task: Task = CHALLENGE,
    studies: ScoredStudies | None = None,
    prior_of_studies: Floats | None = None,
    rule_of_studies: str | None = None,
    how: Deciding = AS_KEPT,
) -> ScoredSet:
    """Return the score of a prediction table against the labels of its dataset.

    Args:
        prior: (k,), or (n, k) where rows of several experiments are pooled.
        task: the labels that were predicted; in the metrics all others are None.
        studies: of the rows; by default those of `studies_of_rows`.
        prior_of_studies, rule_of_studies: where `studies` is not given: (k,), and the words for how
            the network makes the logits of series in the table.
    """
    names = task.label_names
    rows = table.rows_of(predictions["image_id"])
    labels = known_labels(table, rows, names)
    probabilities = predictions[list(names)].to_numpy(dtype=np.float64)
    options: dict[str, Any] = {"label_names": names, "weights": task.label_weights, "prior": prior}
    metrics = evaluate_slices(
        labels, probabilities, selected=selected, threshold=threshold, **options
    )
    metrics["interval"] = patient_intervals(labels, probabilities, sampled(predictions), **options)
    if studies is None:
        of_series = series_probabilities(predictions, names)
        studies = studies_of_rows(
            table, rows, labels, probabilities, names, prior_of_studies, of_series, rule_of_studies
        )
        ids = table.frame["study_id"].to_numpy(dtype=object)[rows]
        folds = folds_of_studies(predictions["fold"].to_numpy(), ids)
        studies = replace(studies, folds=folds)
    metrics["num_studies"] = int(np.sum(~np.isnan(studies.labels).all(axis=1)))
    studies = call_studies(studies, names, how)
    metrics["study"] = score_studies(studies, task, how)
    metrics, image_ids = with_all_labels(metrics, names), predictions["image_id"].astype(str)
    return ScoredSet(name, metrics, labels, probabilities, image_ids.tolist(), studies)


def studies_of_rows(
    table: SliceTable,
    rows: ArrayLike,
    labels: Floats,
    probabilities: Floats,
    label_names: Sequence[str],
    prior: Floats | None = None,
    of_series: Floats | None = None,
    rule: str | None = None,
) -> ScoredStudies:
    """Return the studies of slices that were predicted.

    Their probabilities are those of the used series where the network has its own, else the largest
    slice of it.

    Args:
        rows: (n,) of the table; the volume of a study is chosen among them.
        labels, probabilities: (n, k).
        prior: (k,) of studies.
        of_series: (n, k) probabilities of the series of each row, by the network.
        rule: how it makes them, in words.
    """
    frame = table.frame.iloc[np.asarray(rows)]
    ids, of_studies = labels_by_study(table, label_names, labels, frame["study_id"])
    codes = pd.Index(ids).get_indexer(pd.Index(frame["study_id"]))
    used = used_of(table, rows) & (codes >= 0)
    patients = owners(_firsts(frame)).to_numpy(dtype=object)
    if of_series is None:
        values = study_probabilities(probabilities[used], codes[used], len(ids))
        rule = study_rule(None)
    else:
        values = np.full((len(ids), len(label_names)), np.nan)
        values[codes[used]] = of_series[used]
    own = np.asarray(rows, dtype=np.int64)[used]
    rule = rule or OWN_OF_SERIES
    return ScoredStudies(of_studies, values, patients, ids, rule, prior, rows=own)


def used_of(table: SliceTable, rows: ArrayLike) -> NDArray[np.bool_]:
    """Return (n,): which of the rows are of the volume that stands for its study among them."""
    frame = table.frame.iloc[np.asarray(rows)].assign(readable=True)
    return used_rows(frame, list_series(frame))


def _firsts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of each known study."""
    return frame.dropna(subset="study_id").drop_duplicates("study_id")


def folds_of_studies(folds: ArrayLike, study_ids: ArrayLike) -> NDArray[Any] | None:
    """Return the folds (s,) of studies, in order of appearance; None where one is not known.

    Args:
        folds, study_ids: (n,) of slices.
    """
    own = _firsts(pd.DataFrame({"fold": folds, "study_id": study_ids}))["fold"]
    return None if own.isna().any() else own.to_numpy(dtype=np.int64)


def score_studies(studies: ScoredStudies, task: Task, how: Deciding = AS_KEPT) -> dict[str, Any]:
    """Return `study` of metrics.json, by the labels of the task."""
    names, weights = task.label_names, task.label_weights
    y, p, prior = studies.labels, studies.probabilities, studies.prior
    interval = patient_intervals(
        y,
        p,
        studies.patient_ids,
        label_names=names,
        weights=weights,
        prior=np.full(len(names), 0.5) if prior is None else prior,
    )
    if prior is None:
        interval["weighted_log_loss_to_prior"] = None
        interval["reason"]["weighted_log_loss_to_prior"] = "no prior of studies is recorded"
    return {
        "rule": studies.rule,
        **label_scores(y, p, names, weights),
        "prior_weighted_log_loss": constant_log_loss(y, prior, weights),
        "scored_prior_weighted_log_loss": constant_log_loss(y, training_prior(y), weights),
        "num_positive": {name: int(np.nansum(y[:, k])) for k, name in enumerate(names)},
        "interval": interval,
        **decided_metrics(studies, names, how),
    }


def read_experiment(experiment_folder: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return predictions/<name>.parquet of an experiment, and the prior (k,) of its training.

    With all folds it is the prior (n, k) of the training of each row's fold.
    """
    experiment = Experiment(experiment_folder)
    info, path = predictor_info(experiment), experiment.predictions_file(name)
    frame = read_predictions(path, info["label_names"])
    if not info.get("fold_priors") or frame["fold"].isna().any():
        return frame, prior_of(info)
    names = info["label_names"]
    priors = {int(fold): [of[n] for n in names] for fold, of in info["fold_priors"].items()}
    folds, codes = np.unique(frame["fold"].to_numpy(dtype=np.int64), return_inverse=True)
    return frame, np.array([priors[int(fold)] for fold in folds])[codes]


def predictor_info(home: PredictorHome) -> dict[str, Any]:
    """Return the content of predictor.json; InputError for labels of no task, or parts missing."""
    info = read_predictor_json(home.predictor)
    for name, kind in _USED.items():
        if not isinstance(info.get(name), kind):
            path = home.predictor / JSON_FILE
            raise InputError(f"{path}: {name} is missing or of another type: {COPY_AGAIN}")
    task_of_labels(info["label_names"], str(home.predictor))
    return info


def task_of(info: Mapping[str, Any]) -> Task:
    """Return the task of the predictor that `predictor_info` describes."""
    return task_of_labels(info["label_names"], "the predictor")


def prior_of(info: Mapping[str, Any]) -> np.ndarray:
    """Return the prior (k,) of predictor.json."""
    return np.array([info["prior"][label] for label in info["label_names"]])


def study_prior_of(info: Mapping[str, Any]) -> np.ndarray | None:
    """Return the prior (k,) of studies of predictor.json; None where it is not recorded."""
    recorded = info.get("study_prior")
    return None if not recorded else np.array([recorded[name] for name in info["label_names"]])


def with_all_labels(metrics: Any, label_names: Sequence[str]) -> Any:
    """Return metrics whose values by label have every label of the challenge, in its order.

    What the predictor does not know is None: the keys of metrics.json are the same for every task.
    """
    if not isinstance(metrics, dict):
        return metrics
    if tuple(metrics) == tuple(label_names):
        return {name: metrics.get(name) for name in LABELS}
    return {name: with_all_labels(value, label_names) for name, value in metrics.items()}


def summary(values: Mapping[str, Any], report: Path) -> str:
    """Return a short table of the metrics of an evaluation, and where its page is."""
    is_folded = "folds" in values
    lines = score_lines("out-of-fold" if is_folded else "last weights", values)
    if "best" in values:
        lines += score_lines(f"best checkpoint{'s' if is_folded else ''}*", values["best"])
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
    lines.append(
        f"{values['num_slices']} slices, {values['num_studies']} studies; in brackets: intervals "
        f"of {LEVEL:.0%} over patients"
    )
    lines += decision_lines(values["study"], LABELS)
    if "best" in values:
        lines.append("* chosen on these rows: its score is too good")
    lines.append(f"report: {report}")
    return "\n".join(lines)


def next_steps(experiment_folder: Path, monitor_command: str | None) -> str:
    """Return what a user may want to do after an evaluation, a line each."""
    experiment_id = experiment_id_of(experiment_folder)
    output_dir = experiment_folder.parents[1 + experiment_id.count("/")]
    place = [] if output_dir == Path("output") else ["--output_dir", str(output_dir)]
    which = ("--experiment_id", experiment_id, *place)
    predict, train = script_command(*which, script="predict.py"), script_command(script="train.py")
    lines = [f"to watch the runs:  {monitor_command}"] if monitor_command else []
    model = "--net_model rsna-seresnext-50.32.4d"
    lines += [
        f"to try next:        {predict} --pr_input <folder of DICOM> --pr_output <folder>",
        f"                    {train} {model}   ({train} --help: more flags)",
    ]
    return "\n".join(lines)


def score_line(name: str, values: Mapping[str, Any]) -> str:
    """Return a line with weighted log loss, its ratio to both priors and AUC of any.

    Args:
        values: metrics of slices, or `study` in them; each score is followed by its interval.
    """
    loss = values["weighted_log_loss"]
    if loss is None and "study" in values:
        return f"{name:<18} weighted log loss -"
    of, area = values.get("interval", {}), values.get("auc", {}).get(ANY)
    line = f"{name:<18} weighted log loss {shown(loss, 4)}{spread(of.get('weighted_log_loss'))}"
    for key, what in (("scored_prior", "scored prior's"), ("prior", "training prior's")):
        prior = values.get(f"{key}_weighted_log_loss")
        if prior and loss is not None:
            inside = spread(of.get(f"weighted_log_loss_to_{key}"), 2)
            line += f", {loss / prior:.2f}{inside} of the {what}"
    if area is None:
        return line
    return f"{line}, AUC of any {area:.3f}{spread(of.get('auc', {}).get(ANY))}"


def score_lines(name: str, values: Mapping[str, Any]) -> list[str]:
    """Return the lines of slices and of studies, from the metrics of an evaluation."""
    return [score_line(name, values), score_line("  studies", values["study"])]
