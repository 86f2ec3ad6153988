"""One slice, three slices, the sequence of a study: what each level of model adds, measured.

On the dataset of `benchmarks/levels/levels.py`, whose mimics no single slice tells from blood: over
several seeds, trains networks of one slice and of three (s-1, s, s+1) out of fold, a sequence
network over the logits of those of one slice, and a blend of the three. As a control, the same
sequence network is trained and scored with the slices of every study in random order: what it
then lacks is what the order gave. Every stage is a command of the project's own scripts; stages
that are done are skipped, so an interrupted run goes on with the same command.

    python benchmarks/levels/run.py

Takes under 40 minutes on two idle cores. Prints the table and, as its last line, JSON: level ->
mean and interval of the weighted log loss, step -> the same of the gain. See
docs/explanation/levels.md.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.levels.level_runs import Plan, Stage
from benchmarks.levels.level_scores import measure, show
from benchmarks.levels.levels import MATRIX
from benchmarks.levels.levels_dataset import LevelsParameters, write_levels_dataset
from common.cli import log_to_console, run_script
from common.files import write_bytes, write_json
from common.preparation.manifest import MANIFEST_FILE, table_hashes
from common.slices.folds import FOLDS_FILE
from common.slices.table import SLICES_FILE, STORE_FOLDER, STUDIES_FILE
from common.tables import write_parquet

logger = logging.getLogger(__name__)

DATASET = "levels"
SHUFFLED = "sequence, shuffled"
LEVELS = {
    "one slice": "one",
    "three slices": "three",
    "sequence": "sequence",
    SHUFFLED: "shuffled",
    "blend": "blend",
}
STEPS = (
    ("one slice", "three slices"),
    ("three slices", "sequence"),
    ("sequence", "blend"),
    ("one slice", SHUFFLED),
    (SHUFFLED, "sequence"),
)
MEMBERS = ("one", "three", "sequence")


def write_shuffled(dataset_folder: Path, target: Path, seed: int = 4667) -> None:
    """Write the dataset once more, with the slices of every study in random order.

    Pixels, ids, labels and folds are the same; places in the series and positions are dealt anew.
    """
    if (target / MANIFEST_FILE).is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    if not (target / STORE_FOLDER).exists():
        (target / STORE_FOLDER).symlink_to((dataset_folder / STORE_FOLDER).resolve())
    frame = pd.read_parquet(dataset_folder / SLICES_FILE)
    rng = np.random.default_rng([seed, 31])
    rank, position_mm = frame["rank"].to_numpy().copy(), frame["position_mm"].to_numpy().copy()
    for _, rows in sorted(frame.groupby("store_file").indices.items()):
        dealt = rng.permutation(rows)
        rank[rows], position_mm[rows] = rank[dealt], position_mm[dealt]
    write_parquet(target / SLICES_FILE, frame.assign(rank=rank, position_mm=position_mm))
    for name in (FOLDS_FILE, STUDIES_FILE):
        write_bytes(target / name, (dataset_folder / name).read_bytes())
    manifest = json.loads((dataset_folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    write_json(target / MANIFEST_FILE, manifest | {"sha256": table_hashes(target)})


def plan(arguments: argparse.Namespace) -> list[Stage]:
    """Return the stages of all seeds, those that take longest first."""
    slices = (
        *("--data_img_size", MATRIX, "--data_train_transform", "train_levels"),
        *("--net_model", arguments.net_model, "--net_pretrained", 0, "--net_drop_rate", 0),
        *("--tr_iteration_num", arguments.slice_iterations, "--tr_batch_size", 32),
        *("--optim_scheduler_max_lr", arguments.slice_lr, "--tr_batch_size_valid", 128),
    )
    # Thinning would join the pieces of a mimic.
    studies = (
        *("--net_model", arguments.study_model, "--data_study_thin", 0),
        *("--tr_iteration_num", arguments.study_iterations, "--tr_batch_size", 16),
        *("--optim_scheduler_max_lr", arguments.study_lr),
    )
    first, second = [], []
    for seed in range(arguments.num_seeds):
        own = Plan(arguments.work, DATASET, seed)
        seen = ("--data_features", own.id_of("one"))
        first += [own.train("three", *slices, "--data_neighbors", 1), own.train("one", *slices)]
        second += [
            own.train("sequence", *studies, *seen, needs=["one"]),
            own.train("shuffled", *studies, *seen, needs=["one"], input_name="shuffled"),
            own.blend("blend", MEMBERS, "--ens_method", "weights"),
        ]
    return [*first, *second]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    dataset_folder = arguments.work / "input" / "datasets" / DATASET
    parameters = LevelsParameters(num_patients=arguments.num_patients)
    write_levels_dataset(dataset_folder, parameters, arguments.n_jobs)
    write_shuffled(dataset_folder, arguments.work / "shuffled" / "datasets" / DATASET)
    results = arguments.work / "output" / "results"
    folders = {
        level: [results / f"{name}_{seed}" for seed in range(arguments.num_seeds)]
        for level, name in LEVELS.items()
    }
    result = measure(plan(arguments), STEPS, folders, dataset_folder, arguments, started)
    return result | {"num_seeds": arguments.num_seeds}


def main() -> None:
    log_to_console()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/levels"), help="for all files")
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--num_patients", type=int, default=LevelsParameters().num_patients)
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--net_model", default="test_byobnet")
    parser.add_argument("--slice_iterations", type=int, default=1000)
    parser.add_argument("--slice_lr", type=float, default=1e-2)
    parser.add_argument("--study_model", default="study-bigru")
    parser.add_argument("--study_iterations", type=int, default=300)
    parser.add_argument("--study_lr", type=float, default=3e-3)
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    show(run(arguments), f", {arguments.num_seeds} seeds", arguments.n_jobs)


if __name__ == "__main__":
    run_script(main)
