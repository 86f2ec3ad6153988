"""Measure each part of recipes/ct_ich.sh, and how its networks travel to another source.

    python benchmarks/ct_ich_ablation.py <folder of CT-ICH>

Trains, on folds 0 and 1 of CT-ICH, networks to which one group of settings after the other is
added; folds 2 to 4 are left for the confirmation. Prints the scores of each, of slices and of
studies, with intervals over patients, and what it gains on the one before. Then what travels:
networks of phantoms alone scored on all 60 patients, and one of patients alone scored on phantoms,
as they are, and with a temperature fitted to patients of the network's own source or to the other
network on its foreign source. Stages that are done are skipped.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.levels.level_runs import Plan, Stage, prepare, run_command, run_stages
from benchmarks.pooled_folds import pool
from common.cli import log_to_console, run_script
from common.experiment import Experiment
from common.scoring.metrics import Floats, weighted_log_loss
from common.scoring.predictions import read_predictions
from common.slices.folds import owners
from common.slices.table import SliceTable
from common.statistics.intervals import paired_interval
from rsna.evaluation.scoring import (
    predictor_info,
    prior_of,
    score_lines,
    score_predictions,
    study_prior_of,
)
from rsna.sources.ct_ich import CtIchSource
from rsna_task import CHALLENGE, LABELS

DEMO, PATIENTS, MIXED = "demo", "ct_ich", "ct_ich_demo"
FOLDS = (0, 1)
INPUT = ("--data_neighbors", 1, "--data_valid_transform", "ct_ich_valid")
INPUT += ("--data_test_transform", "ct_ich_train")
PLAIN = (*INPUT, "--data_train_transform", "ct_ich_train")
PHYSICS = (*INPUT, "--data_train_transform", "ct_ich_physics")
GENTLE = ("--optim_scheduler_max_lr", 3e-4, "--net_drop_rate", 0.3, "--net_drop_path_rate", 0.1)
# Name -> start, dataset, flags: each adds a group to the one before.
STEPS: Mapping[str, tuple[str, str, tuple[object, ...]]] = {
    "one": ("start_one", PATIENTS, ("--tr_iteration_num", 300)),
    "three": ("start_three", PATIENTS, (*PLAIN, "--tr_iteration_num", 300)),
    "mixed": ("start_three", MIXED, (*PLAIN, "--tr_iteration_num", 350)),
    "physics": ("start_three", MIXED, (*PHYSICS, "--tr_iteration_num", 350)),
}
TITLES = {
    "one": "one slice; brain, subdural and soft windows; from phantoms",
    "three": "+ three slices, bone window",
    "mixed": "+ phantoms beside the patients",
    "physics": "+ augmentation by the physics of CT",
}
STARTS: Mapping[str, tuple[object, ...]] = {
    "start_one": ("--tr_iteration_num", 260),
    "start_three": (*PLAIN, "--tr_iteration_num", 320),
    "start_physics": (*PHYSICS, "--tr_iteration_num", 320),
}
ALONE = "alone"


def plan(work: Path) -> list[Stage]:
    stages = [Plan(work, DEMO).train(name, *flags, fold="0") for name, flags in STARTS.items()]
    weights = {name: stage.folder / "predictor" / "model.pt" for name, stage in zip(STARTS, stages)}
    for name, (start, dataset, flags) in STEPS.items():
        begin = ("--net_weight_file", weights[start], *GENTLE)
        for fold in FOLDS:
            own = Plan(work, dataset)
            stages.append(
                own.train(f"{name}-{fold}", *begin, *flags, needs=[start], fold=str(fold))
            )
    alone = Plan(work, PATIENTS).train(ALONE, *PLAIN, "--tr_iteration_num", 300, fold="0")
    return [*stages, alone]


def show_steps(work: Path, table: SliceTable) -> None:
    """Print the scores of each step on the folds, and what it gains on the one before."""
    before = None
    for name in STEPS:
        folders = [_folder(work, f"{name}-{fold}") for fold in FOLDS]
        scored = pool(folders, table, "valid", selected=False)
        print(f"\n{TITLES[name]}", *score_lines("slices", scored.metrics), sep="\n")
        rows = table.rows_of(np.array(scored.image_ids))
        order = np.argsort(rows)
        patients = owners(table.frame.iloc[rows[order]]).to_numpy(dtype=object)
        probabilities, labels = scored.probabilities[order], scored.labels[order]
        if before is not None:
            weights = CHALLENGE.label_weights
            gain = paired_interval(labels, probabilities, before, patients, weights)
            print(f"gain {gain['difference']:+.4f}{_bounds(gain['interval'])} in log loss")
        before = probabilities


def _bounds(interval: Sequence[float] | None) -> str:
    return f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""


def show_travel(work: Path) -> None:
    """Print how networks score on a source that they never saw, and what a temperature changes."""
    input_folder = work / "input" / "datasets"
    tables = {name: SliceTable.load(input_folder / name) for name in (DEMO, PATIENTS)}
    foreign = {name: PATIENTS for name in STARTS} | {ALONE: DEMO}
    for name, dataset in foreign.items():
        if not _experiment(work, name).evaluation(dataset).metrics_file.is_file():
            run_command(
                "evaluate.py",
                *("--experiment_id", f"{name}_0", "--data_dataset", dataset, "--n_jobs", 0),
                *("--data_input_folder", work / "input", "--output_dir", work / "output"),
            )
    read = {name: _read(work, name, tables[foreign[name]], foreign[name]) for name in foreign}
    own = {ALONE: PATIENTS} | {name: DEMO for name in STARTS}
    for name, dataset in foreign.items():
        inside = _read(work, name, tables[own[name]], None)
        other = read["start_three" if name == ALONE else ALONE]
        print(f"\n{name}: trained on {own[name]}, scored on {dataset}")
        for title, fitted_on in (("as it is", None), ("own source", inside), ("across", other)):
            temperature = 1.0 if fitted_on is None else fit_temperature(*fitted_on[1:])
            frame, _, logits = read[name]
            frame = frame.assign(**dict(zip(LABELS, expit(logits / temperature).T)))
            info = predictor_info(_folder(work, name))
            scored = score_predictions(
                title, frame, tables[dataset], prior_of(info), prior_of_studies=study_prior_of(info)
            )
            print(f"temperature {temperature:.2f} ({title})")
            print(*score_lines("slices", scored.metrics), sep="\n")


def fit_temperature(labels: Floats, logits: Floats) -> float:
    """Return what logits (n, k) are to be divided by for the least weighted log loss."""

    def loss(log_temperature: float) -> float:
        p = expit(logits / np.exp(log_temperature))
        return float(weighted_log_loss(labels, p, CHALLENGE.label_weights) or np.inf)

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 3), method="bounded").x))


def _read(work: Path, name: str, table: SliceTable, dataset: str | None) -> tuple[Any, ...]:
    """Return predictions, labels (n, k) and logits (n, k), of a foreign dataset or of its own."""
    experiment = _experiment(work, name)
    path = experiment.predictions_file("valid")
    if dataset is not None:
        path = experiment.evaluation(dataset).predictions_file
    frame = read_predictions(path, LABELS)
    logits = frame[[f"logit_{label}" for label in LABELS]].to_numpy(np.float64)
    return frame, table.labels(table.rows_of(frame["image_id"]), LABELS).astype(float), logits


def _experiment(work: Path, name: str) -> Experiment:
    return Experiment(_folder(work, name))


def _folder(work: Path, name: str) -> Path:
    return work / "output" / "results" / f"{name}_0"


def main() -> None:
    log_to_console()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with Patients_CT/ and hemorrhage_diagnosis.csv")
    parser.add_argument("--work", type=Path, default=Path("output/ct_ich_ablation"))
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    flags = parser.parse_args()
    work, folder = flags.work.resolve(), flags.folder.resolve()
    CtIchSource(folder)  # refuses it now, not after the first training
    prepare(work / "input", DEMO, flags.n_jobs)
    prepare(work / "input", PATIENTS, flags.n_jobs, "--pre_folder", str(folder))
    if not (work / "input" / "datasets" / MIXED).is_dir():
        run_command(
            *("-m", "scripts.pseudo_label", "--data_dataset", PATIENTS, "--pl_source", DEMO),
            *("--pl_labels", "given", "--pl_num_patients", 27, "--pl_name", MIXED),
            *("--data_input_folder", work / "input"),
        )
    run_stages(plan(work), flags.n_jobs, work / "logs")
    show_steps(work, SliceTable.load(work / "input" / "datasets" / PATIENTS))
    show_travel(work)
    print(f"\n{len(STEPS)} configurations on folds {', '.join(map(str, FOLDS))} of {PATIENTS}")


if __name__ == "__main__":
    run_script(main)
