"""Single slice, three slices, sequence and blend on CT-ICH: out of fold, side by side.

Prepares the demo and CT-ICH; trains a network of one slice and one of three on the demo's phantoms,
to start from, as sixty patients are too few to learn from alone; from each of them the networks of
five patient folds; a sequence network over the logits of both; their mean smoothed along the series
by scripts/second_level.py; and a blend of the first three. Every stage is a command of the
project's own scripts; stages that are done are skipped, and one that was cut off goes on, with
the same command.

    python benchmarks/ct_ich_levels.py <folder of CT-ICH>

Prints the table and, as one line, JSON: level -> mean and patient-bootstrap interval of the
weighted log loss and of its ratio to the pooled prior, step -> those of the gain. Then, for each
level, what `pooled_folds.py` prints of it: slices and studies, both priors, the AUC of any.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.levels.level_runs import Plan, Stage, prepare
from benchmarks.levels.level_scores import measure, show
from benchmarks.pooled_folds import report
from common.cli import log_to_console, run_script
from common.slices.table import SliceTable
from rsna.sources.ct_ich import CtIchSource

logger = logging.getLogger(__name__)

DEMO, DATASET = "demo", "ct_ich"
LEVELS = {
    "one slice": "one",
    "three slices": "three",
    "sequence": "sequence",
    "smoothed": "smooth",
    "blend": "blend",
}
MEMBERS = ("one", "three", "sequence")
STEPS = (
    ("one slice", "three slices"),
    ("three slices", "sequence"),
    ("one slice", "sequence"),
    ("one slice", "smoothed"),
    ("three slices", "smoothed"),
    ("sequence", "smoothed"),
    ("sequence", "blend"),
    ("one slice", "blend"),
)


def plan(arguments: argparse.Namespace) -> list[Stage]:
    phantoms, own = Plan(arguments.work, DEMO), Plan(arguments.work, DATASET)
    neighbors = {"one": 0, "three": 1}
    # As in recipes/ct_ich.sh: less learning rate and more dropout than from ImageNet.
    gentle = (
        *("--tr_iteration_num", arguments.slice_iterations, "--optim_scheduler_max_lr", 3e-4),
        *("--net_drop_rate", 0.3, "--net_drop_path_rate", 0.1),
    )
    first, second = [], []
    for name, number in neighbors.items():
        start = phantoms.train(
            f"start_{name}",
            *("--data_neighbors", number, "--tr_iteration_num", arguments.start_iterations),
            fold="0",
        )
        weights = start.folder / "predictor" / "model.pt"
        first.append(start)
        second.append(
            own.train(
                name,
                *("--data_neighbors", number, "--net_weight_file", weights, *gentle),
                needs=[f"start_{name}"],
            )
        )
    sequence = own.train(
        "sequence",
        *("--net_model", arguments.study_model),
        *("--data_features", ",".join(own.id_of(name) for name in neighbors)),
        *("--net_study_dim", 32, "--net_study_hidden", 24, "--net_study_layers", 1),
        *("--net_drop_rate", 0.3, "--tr_batch_size", 8),
        *("--tr_iteration_num", arguments.study_iterations),
        *("--optim_scheduler_max_lr", arguments.study_lr),
        needs=list(neighbors),
    )
    blend = own.blend(
        "blend", MEMBERS, "--ens_method", arguments.blend, "--ens_calibration", "temperature"
    )
    smooth = own.second_level("smooth", list(neighbors))
    return [*first, *second, sequence, smooth, blend]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    input_folder = arguments.work / "input"
    prepare(input_folder, DEMO, arguments.n_jobs)
    prepare(input_folder, DATASET, arguments.n_jobs, "--pre_folder", str(arguments.folder))
    own = Plan(arguments.work, DATASET)
    results = own.output_dir / "results"
    folders = {level: [results / own.id_of(name)] for level, name in LEVELS.items()}
    dataset_folder = input_folder / "datasets" / DATASET
    return measure(plan(arguments), STEPS, folders, dataset_folder, arguments, started)


def main() -> None:
    log_to_console()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with Patients_CT/ and hemorrhage_diagnosis.csv")
    parser.add_argument("--work", type=Path, default=Path("output/ct_ich_levels"))
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--start_iterations", type=int, default=320)
    parser.add_argument("--slice_iterations", type=int, default=300)
    parser.add_argument("--study_model", default="study-bigru")
    parser.add_argument("--study_iterations", type=int, default=150)
    parser.add_argument("--study_lr", type=float, default=3e-3)
    parser.add_argument("--blend", default="weights", help="--ens_method of the blend")
    arguments = parser.parse_args()
    arguments.work, arguments.folder = arguments.work.resolve(), arguments.folder.resolve()
    CtIchSource(arguments.folder)  # refuses it now, not after the first training
    show(run(arguments), "", arguments.n_jobs)
    own = Plan(arguments.work, DATASET)
    table = SliceTable.load(arguments.work / "input" / "datasets" / DATASET)
    for level, name in LEVELS.items():
        print(f"\n{level}")
        report([own.output_dir / "results" / own.id_of(name)], table)


if __name__ == "__main__":
    run_script(main)
