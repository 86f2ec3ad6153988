"""Measure what stacking gains from members that saw the scored fold, by nested blends.

Weights for a fold are fitted on predictions of the other folds, by networks that were trained on
that fold. `ensemble.py --stack_nested 1` fits them on predictions of networks that were not. Here
two slice networks (one slice; three) are trained on the demo at 96 px, out of fold and without
each fold, and blended both ways. Every stage is a command of the project's own scripts; stages that
are done are skipped, and one that was cut off goes on, with the same command.

    python benchmarks/nested_stacking.py

Prints the table and, as its last line, JSON: level -> mean and patient-bootstrap interval of the
weighted log loss, step -> those of the gain (of nesting: below 0 where it scores worse).
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.levels.level_runs import Plan, Stage, prepare
from benchmarks.levels.level_scores import measure, show
from common.cli import log_to_console, run_script
from rsna.ensembling.nested import nested_id

logger = logging.getLogger(__name__)

DATASET = "demo"
LEVELS = {
    "one slice": "one",
    "three slices": "three",
    "stacking": "stacking",
    "stacking, nested": "stacking_nested",
    "weights": "weights",
    "weights, nested": "weights_nested",
}
STEPS = (("stacking", "stacking, nested"), ("weights", "weights, nested"))
MEMBERS = {"one": 0, "three": 1}


def without(stage: Stage, fold: int) -> Stage:
    """Return the training of a member that knows nothing of a fold."""
    flags = ("--data_leave_out_fold", str(fold), "--tr_features", "0")
    return replace(
        stage, experiment_id=nested_id(stage.experiment_id, fold), flags=(*stage.flags, *flags)
    )


def plan(arguments: argparse.Namespace) -> list[Stage]:
    own = Plan(arguments.work, DATASET)
    slices = (
        *("--data_img_size", arguments.img_size, "--net_model", arguments.net_model),
        *("--net_pretrained", arguments.net_pretrained),
        *("--tr_iteration_num", arguments.iterations),
    )
    members = [
        own.train(name, *slices, "--data_neighbors", number) for name, number in MEMBERS.items()
    ]
    inner = [without(stage, fold) for stage in members for fold in range(arguments.num_folds)]
    return [*members, *inner, *_blends(own, inner)]


def _blends(own: Plan, inner: Sequence[Stage]) -> list[Stage]:
    blends = []
    for method in ("stacking", "weights"):
        plain = own.blend(method, list(MEMBERS), "--ens_method", method)
        nested = own.blend(
            f"{method}_nested", list(MEMBERS), "--ens_method", method, "--stack_nested", 1
        )
        needs = (*nested.needs, *(stage.experiment_id for stage in inner))
        blends += [plain, replace(nested, needs=needs)]
    return blends


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    input_folder = arguments.work / "input"
    folds = ("--pre_num_folds", str(arguments.num_folds))
    prepare(input_folder, DATASET, arguments.n_jobs, *folds)
    own = Plan(arguments.work, DATASET)
    folders = {
        level: [own.output_dir / "results" / own.id_of(name)] for level, name in LEVELS.items()
    }
    dataset_folder = input_folder / "datasets" / DATASET
    result = measure(plan(arguments), STEPS, folders, dataset_folder, arguments, started)
    return result | {"num_trainings": len(MEMBERS) * arguments.num_folds**2}


def main() -> None:
    log_to_console()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/nested"), help="for all files")
    parser.add_argument("--num_folds", type=int, default=3)
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--net_model", default="tf_efficientnet_lite0")
    parser.add_argument("--net_pretrained", type=int, default=1)
    parser.add_argument("--img_size", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=150)
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    result = run(arguments)
    show(result, f", {result['num_trainings']} networks", arguments.n_jobs)


if __name__ == "__main__":
    run_script(main)
