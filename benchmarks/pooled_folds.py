"""Scores the validation rows of several experiments as one set: one experiment per fold.

    python benchmarks/pooled_folds.py 0001 0002 0003

prints the weighted log loss against the priors of the scored rows and of each experiment's own
training rows, with intervals over patients, and the AUC of each label; for the last weights, and
for the best checkpoints, which were chosen on these rows.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import run_script
from common.errors import InputError
from common.experiment import Experiment
from common.report import ScoredSet
from common.scoring.predictions import check_predictions
from common.slices.table import SliceTable
from config import recorded_config
from rsna.evaluation.scoring import (
    predictor_info,
    read_experiment,
    score_line,
    score_predictions,
    task_of,
)
from rsna_task import LABELS


def pool(folders: list[Path], table: SliceTable, name: str, selected: bool) -> ScoredSet:
    """Return the score of predictions/<name>.parquet of all folders together."""
    read = [read_experiment(folder, name) for folder in folders]
    tasks = {task_of(predictor_info(Experiment(folder))) for folder in folders}
    if len(tasks) > 1:
        raise InputError("these experiments predict different labels: pool those of one kind")
    task = tasks.pop()
    predictions = pd.concat([frame for frame, _ in read], ignore_index=True)
    check_predictions(
        predictions, task.label_names, "the experiments together (do their folds overlap?)"
    )
    prior = np.concatenate([np.tile(prior, (len(frame), 1)) for frame, prior in read])
    return score_predictions(name, predictions, table, prior, selected=selected, task=task)


def dataset_of(folders: list[Path]) -> Path:
    """Return the one dataset folder that all the experiments were trained on."""
    found = {recorded_config(folder).dataset_folder for folder in folders}
    if len(found) > 1:
        raise InputError(f"these experiments are of several datasets: {', '.join(map(str, found))}")
    return found.pop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("experiment_ids", nargs="+")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    flags = parser.parse_args()
    folders = [flags.output_dir / "results" / name for name in flags.experiment_ids]
    table = SliceTable.load(dataset_of(folders))
    for title, name, selected in (
        ("last weights", "valid", False),
        ("best checkpoints*", "valid_best", True),
    ):
        values = pool(folders, table, name, selected).metrics
        print(score_line(title, values))
        for label in LABELS:
            area, interval = values["auc"][label], values["interval"]["auc"][label]
            if area is not None and interval is not None:
                print(f"  AUC {label:<18} {area:.3f} ({interval[0]:.3f} to {interval[1]:.3f})")
    print(
        f"{values['num_slices']} slices of {values['interval']['num_patients']} patients; scored "
        f"prior {values['scored_prior_weighted_log_loss']:.4f}, training prior "
        f"{values['prior_weighted_log_loss']:.4f}; * chosen on these rows: too good"
    )


if __name__ == "__main__":
    run_script(main)
