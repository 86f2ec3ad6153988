"""Scores rows that were not trained on as one set: of several experiments, or of some folds of one.

    python benchmarks/pooled_folds.py 0001 0002 0003
    python benchmarks/pooled_folds.py 0004 --folds 2,3,4

prints, for slices and for studies, the weighted log loss, its ratio to the priors of the scored
rows and of each row's own training rows, and the AUC of any, each with its interval over patients;
then the AUC of each label. Experiments are of one fold each, or one of all folds, a second level or
a blend among them. Best checkpoints were chosen on these rows and are marked.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import run_script
from common.errors import InputError
from common.experiment import Experiment
from common.predictors.blend import BlendPredictor
from common.report import ScoredSet
from common.scoring.predictions import check_predictions
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from config import recorded_config
from rsna.evaluation.blend import study_sets
from rsna.evaluation.scoring import (
    predictor_info,
    read_experiment,
    score_lines,
    score_predictions,
    study_prior_of,
    task_of,
)
from rsna_task import LABELS


def pool(
    folders: list[Path],
    table: SliceTable,
    name: str,
    selected: bool,
    folds: Collection[int] | None = None,
) -> ScoredSet:
    """Return the score of predictions/<name>.parquet of all folders together.

    Args:
        folds: only rows of these; None for all.
    """
    read = [read_experiment(folder, name) for folder in folders]
    infos = [predictor_info(Experiment(folder)) for folder in folders]
    tasks = {task_of(info) for info in infos}
    if len(tasks) > 1:
        raise InputError("these experiments predict different labels: pool those of one kind")
    task = tasks.pop()
    predictions = pd.concat([frame for frame, _ in read], ignore_index=True)
    check_predictions(
        predictions, task.label_names, "the experiments together (do their folds overlap?)"
    )
    prior = np.concatenate(
        [np.broadcast_to(prior, (len(frame), len(task.label_names))) for frame, prior in read]
    )
    if folds is not None:
        chosen = predictions["fold"].isin(folds).to_numpy(dtype=bool)
        if not chosen.any():
            raise InputError(f"--folds {','.join(map(str, folds))}: no row is of these folds")
        predictions, prior = predictions[chosen].reset_index(drop=True), prior[chosen]
    of_studies = [p for p in map(study_prior_of, infos) if p is not None]
    studies = None
    if len(folders) == 1 and infos[0].get("kind") == BlendPredictor.kind:
        studies = _blended_studies(folders[0], predictions)
    return score_predictions(
        name,
        predictions,
        table,
        prior,
        selected=selected,
        task=task,
        studies=studies,
        prior_of_studies=np.mean(of_studies, axis=0) if of_studies else None,
    )


def _blended_studies(folder: Path, predictions: pd.DataFrame) -> ScoredStudies:
    """Return the studies of the rows as the blend calibrated them, out of fold."""
    info = predictor_info(Experiment(folder))
    final = study_sets(Experiment(folder), task_of(info))[-1]
    own = pd.Series(final.patient_ids).isin(predictions["patient_id"]).to_numpy()
    return ScoredStudies(
        final.labels[own],
        final.probabilities[own],
        final.patient_ids[own],
        final.study_ids[own],
        final.name,
        study_prior_of(info),
    )


def dataset_of(folders: list[Path]) -> Path:
    """Return the one dataset folder that all the experiments were trained on."""
    found = {recorded_config(folder).dataset_folder for folder in folders}
    if len(found) > 1:
        raise InputError(f"these experiments are of several datasets: {', '.join(map(str, found))}")
    return found.pop()


def report(folders: list[Path], table: SliceTable, folds: Collection[int] | None = None) -> None:
    """Print the scores of the last weights, and of the best checkpoints where all have them."""
    name = Experiment(folders[0]).out_of_fold_file.stem
    note = ""
    for title, stem, selected in (
        ("last weights", name, False),
        ("best checkpoints*", f"{name}_best", True),
    ):
        if selected and not all(Experiment(f).predictions_file(stem).is_file() for f in folders):
            continue
        note = "; * chosen on these rows: too good" if selected else note
        values = pool(folders, table, stem, selected, folds).metrics
        print(*score_lines(title, values), sep="\n")
        for label in LABELS:
            area, interval = values["auc"][label], values["interval"]["auc"][label]
            if area is not None and interval is not None:
                print(f"  AUC {label:<18} {area:.3f} ({interval[0]:.3f} to {interval[1]:.3f})")
    print(
        f"{values['num_slices']} slices of {values['interval']['num_patients']} patients, of which "
        f"{values['interval']['num_positive_patients']} are positive; scored prior "
        f"{values['scored_prior_weighted_log_loss']:.4f}, training prior "
        f"{values['prior_weighted_log_loss']:.4f}; in brackets: intervals of 95 % over "
        f"patients{note}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("experiment_ids", nargs="+")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    parser.add_argument("--folds", help="only rows of these folds, such as 2,3,4")
    flags = parser.parse_args()
    folds = None
    if flags.folds is not None:
        parts = flags.folds.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise InputError(f"--folds {flags.folds}: must be numbers of folds, such as 2,3,4")
        folds = [int(part) for part in parts]
    folders = [flags.output_dir / "results" / name for name in flags.experiment_ids]
    report(folders, SliceTable.load(dataset_of(folders)), folds)


if __name__ == "__main__":
    run_script(main)
