"""Measure what could be added to recipes/ct_ich.sh, and how networks travel to another source.

    python benchmarks/ct_ich_ablation.py <folder of CT-ICH>

Trains, on folds 0 and 1 of CT-ICH, the network of the recipe and networks with one group of
settings more; folds 2 to 4 are left for the confirmation. Prints the scores of each, of slices and
of studies, with intervals over patients, and what it gains on that of the recipe. Then what
travels: networks of phantoms alone scored on all 60 patients, and one of patients alone scored on
phantoms, as they are, and with a temperature fitted to patients of the network's own source, or to
another network on the source that was foreign to it. Stages that are done are skipped.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.levels.level_runs import Plan, Stage, prepare, run_command, run_stages
from benchmarks.pooled_folds import pool
from common.cli import log_to_console, run_script
from common.errors import InputError
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
THREE: tuple[object, ...] = ("--data_neighbors", 1, "--data_train_transform", "ct_ich_train")
THREE += ("--data_valid_transform", "ct_ich_valid", "--data_test_transform", "ct_ich_train")
PHYSICS = ("--data_train_transform", "ct_ich_physics")
GENTLE = ("--optim_scheduler_max_lr", 3e-4, "--net_drop_rate", 0.3, "--net_drop_path_rate", 0.1)
ALONE = "alone"


@dataclass(frozen=True)
class Step:
    """A configuration: its title, where it starts, what it is trained on, and its flags."""

    title: str
    start: str
    dataset: str
    flags: tuple[object, ...]


STEPS = {
    "one": Step("of the recipe: one slice", "start_one", PATIENTS, ("--tr_iteration_num", 300)),
    "three": Step(
        "three slices, bone window", "start_three", PATIENTS, (*THREE, "--tr_iteration_num", 300)
    ),
    "mixed": Step(
        "the same, and 7 slices of phantoms beside 10 of patients",
        "start_three",
        MIXED,
        (*THREE, "--tr_iteration_num", 350),
    ),
    "physics": Step(
        "one slice, augmentation by the physics of CT",
        "start_one",
        PATIENTS,
        (*PHYSICS, "--tr_iteration_num", 300),
    ),
}
STARTS: Mapping[str, tuple[object, ...]] = {
    "start_one": ("--tr_iteration_num", 260),
    "start_three": (*THREE, "--tr_iteration_num", 320),
    "start_physics": (*PHYSICS, "--tr_iteration_num", 260),
}


def plan(work: Path, steps: Sequence[str]) -> list[Stage]:
    """Return the stages of some steps, and of the networks that travel."""
    wanted = {"start_one", *(STEPS[name].start for name in steps)}
    if "physics" in steps:
        wanted.add("start_physics")
    starts = {
        name: Plan(work, DEMO).train(name, *flags, fold="0")
        for name, flags in STARTS.items()
        if name in wanted
    }
    stages = list(starts.values())
    for name in steps:
        step = STEPS[name]
        weights = starts[step.start].folder / "predictor" / "model.pt"
        flags = ("--net_weight_file", weights, *GENTLE, *step.flags)
        own = Plan(work, step.dataset)
        for fold in FOLDS:
            stages.append(own.train(f"{name}-{fold}", *flags, needs=[step.start], fold=str(fold)))
    alone = Plan(work, PATIENTS).train(ALONE, "--tr_iteration_num", 300, fold="0")
    return [*stages, alone]


def show_steps(work: Path, table: SliceTable, steps: Sequence[str]) -> None:
    """Print the scores of steps on the folds, and what each gains on the first."""
    first = None
    for name in steps:
        folders = [_folder(work, f"{name}-{fold}") for fold in FOLDS]
        scored = pool(folders, table, "valid", selected=False)
        print(f"\n{STEPS[name].title}", *score_lines("slices", scored.metrics), sep="\n")
        rows = table.rows_of(np.array(scored.image_ids))
        order = np.argsort(rows)
        patients = owners(table.frame.iloc[rows[order]]).to_numpy(dtype=object)
        probabilities, labels = scored.probabilities[order], scored.labels[order]
        if first is None:
            first = probabilities
            continue
        _show_gain(labels, probabilities, first, patients)


def show_travel(work: Path) -> None:
    """Print how networks score on a source that they never saw, and what a temperature changes.

    Networks of phantoms are those that were trained.

    What they gain is on the first of them, as it is, on the same slices.
    """
    input_folder = work / "input" / "datasets"
    tables = {name: SliceTable.load(input_folder / name) for name in (DEMO, PATIENTS)}
    names = [name for name in STARTS if _experiment(work, name).has_predictor]
    foreign = dict.fromkeys(names, PATIENTS) | {ALONE: DEMO}
    for name, dataset in foreign.items():
        if not _experiment(work, name).evaluation(dataset).metrics_file.is_file():
            run_command(
                "evaluate.py",
                *("--experiment_id", f"{name}_0", "--data_dataset", dataset, "--n_jobs", 0),
                *("--data_input_folder", work / "input", "--output_dir", work / "output"),
            )
    read = {name: _read(work, name, tables[foreign[name]], foreign[name]) for name in foreign}
    own = dict.fromkeys(names, DEMO) | {ALONE: PATIENTS}
    first: dict[str, Floats] = {}
    for name, dataset in foreign.items():
        inside = _read(work, name, tables[own[name]], None)
        other = read["start_one" if name == ALONE else ALONE]
        print(f"\n{name}: trained on {own[name]}, scored on {dataset}")
        for title, fitted_on in (("as it is", None), ("own source", inside), ("across", other)):
            temperature = 1.0 if fitted_on is None else fit_temperature(*fitted_on[1:])
            print(f"temperature {temperature:.2f} ({title})")
            probabilities = expit(read[name][2] / temperature)
            _show_foreign(_experiment(work, name), read[name][0], probabilities, tables[dataset])
            reference = first.setdefault(dataset, probabilities)
            if reference is not probabilities:
                patients = owners(read[name][0]).to_numpy(dtype=object)
                _show_gain(read[name][1], probabilities, reference, patients)


def _show_foreign(
    experiment: Experiment, frame: pd.DataFrame, probabilities: Floats, table: SliceTable
) -> None:
    """Print the scores of probabilities (n, k) that take the place of those of a table."""
    info = predictor_info(experiment)
    frame = frame.assign(**dict(zip(LABELS, probabilities.T)))
    options: dict[str, Any] = {"prior_of_studies": study_prior_of(info)}
    scored = score_predictions("", frame, table, prior_of(info), **options)
    print(*score_lines("slices", scored.metrics), sep="\n")


def _show_gain(labels: Floats, probabilities: Floats, first: Floats, patients: Any) -> None:
    gain = paired_interval(labels, probabilities, first, patients, CHALLENGE.label_weights)
    low, high = gain["interval"] or (np.nan, np.nan)
    print(f"gain {gain['difference']:+.4f} ({low:+.4f} to {high:+.4f}) in weighted log loss")


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
    parser.add_argument("--steps", default=",".join(STEPS), help="the first is compared with")
    flags = parser.parse_args()
    steps = flags.steps.split(",")
    if unknown := sorted(set(steps) - STEPS.keys()):
        raise InputError(f"--steps {unknown[0]}: must be among {', '.join(STEPS)}")
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
    run_stages(plan(work, steps), flags.n_jobs, work / "logs")
    show_steps(work, SliceTable.load(work / "input" / "datasets" / PATIENTS), steps)
    print(f"\n{len(steps)} configurations on folds {', '.join(map(str, FOLDS))} of {PATIENTS}")
    show_travel(work)


if __name__ == "__main__":
    run_script(main)
