"""Labels of studies against labels of slices, on CT-ICH: out of fold, side by side.

Prepares the demo and CT-ICH, trains a network on the demo's phantoms to start from, and from it, in
three patient folds: a slice network on the labels of slices, and bag networks, one for each
pooling, that see the labels of studies alone (those of CT-ICH's slices, reduced to their largest).
All see about as many slices. Their out-of-fold predictions are scored against the labels of slices
and of studies. Every stage is a command of the project's own scripts; stages that are done are
skipped, and one that was cut off goes on, with the same command.

    python benchmarks/study_labels.py <folder of CT-ICH>

Prints the table and, as its last line, JSON: network -> AUC of any by slice and by study, the log
loss of any by slice as a share of the prior's, each with its patient interval.
"""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from benchmarks.levels.level_runs import Plan, Stage, prepare, run_stages
from common.cli import log_to_console, run_script
from common.experiment import Experiment
from common.models.bag import POOLS
from common.slices.folds import FOLDS_FILE
from common.slices.pixel_steps import MANIFEST_FILE
from common.slices.study_labels import LABELS_OF_STUDY
from common.slices.table import SLICES_FILE, STORE_FOLDER, STUDIES_FILE, SliceTable
from common.tables import write_parquet
from rsna.evaluation.scoring import (
    predictor_info,
    read_experiment,
    score_predictions,
    study_prior_of,
    task_of,
)
from rsna.sources.ct_ich import CtIchSource
from rsna_task import LABELS

DEMO, OF_SLICES, OF_STUDIES = "demo", "ct_ich", "ct_ich_studies"
BASE = "slices"
NUM_FOLDS = 3


def keep_study_labels(folder: Path, target: Path) -> None:
    """Make a dataset with the same pixels and folds, whose studies alone are labelled."""
    if (target / SLICES_FILE).is_file():
        return
    names = list(LABELS)
    studies = pd.read_parquet(folder / STUDIES_FILE).assign(label_source=LABELS_OF_STUDY)
    slices = pd.read_parquet(folder / SLICES_FILE).assign(**dict.fromkeys(names, np.nan))
    write_parquet(target / STUDIES_FILE, studies)
    for name in (FOLDS_FILE, MANIFEST_FILE):
        shutil.copyfile(folder / name, target / name)
    shutil.copytree(folder / STORE_FOLDER, target / STORE_FOLDER, copy_function=os.link)
    types = dict.fromkeys(names, "float32") | {"label_source": "str"}
    write_parquet(target / SLICES_FILE, slices.assign(label_source=None).astype(types))


def plan(arguments: argparse.Namespace) -> list[Stage]:
    network = ("--data_img_size", arguments.size, "--net_model", arguments.net_model)
    phantoms = Plan(arguments.work, DEMO)
    start = phantoms.train(
        "start", *network, "--tr_iteration_num", arguments.start_iterations, fold="0"
    )
    # As in recipes/ct_ich.sh: less learning rate and more dropout than from ImageNet.
    gentle = (
        *("--net_weight_file", start.folder / "predictor" / "model.pt"),
        *("--optim_scheduler_max_lr", 3e-4, "--net_drop_rate", 0.3, "--tr_features", 0),
    )
    bag = ("--data_bag_slices", arguments.bag_slices, "--tr_batch_size", arguments.bags)
    num_slices = arguments.iterations * arguments.bags * arguments.bag_slices
    # As many slices in batches of 16.
    of_slices = ("--tr_batch_size", 16, "--tr_iteration_num", num_slices // 16)
    needs = ["start"]
    stages = [
        start,
        Plan(arguments.work, OF_SLICES).train(BASE, *network, *gentle, *of_slices, needs=needs),
    ]
    network = (*network[:-1], f"bag-{arguments.net_model}")
    own = Plan(arguments.work, OF_STUDIES)
    for pooling in POOLS:
        length = ("--tr_iteration_num", arguments.iterations, "--net_bag_pooling", pooling)
        stages.append(own.train(pooling, *network, *gentle, *bag, *length, needs=needs))
    return stages


def score(folder: Path, table: SliceTable) -> dict[str, Any]:
    """Return AUC of any by slice and by study, and the share of the prior's log loss."""
    info = predictor_info(Experiment(folder))
    predictions, _ = read_experiment(folder, "oof")
    # Of the labels of slices, whatever was learned from: the same constant for all.
    labels = table.labels(table.rows_of(predictions["image_id"]), info["label_names"])
    prior = np.nanmean(labels.astype(np.float64), axis=0)
    metrics = score_predictions(
        folder.name,
        predictions,
        table,
        prior,
        task=task_of(info),
        prior_of_studies=study_prior_of(info),
        rule_of_studies=info.get("study_rule"),
    ).metrics
    study, interval = metrics["study"], metrics["interval"]
    return {
        "auc_slices": [metrics["auc"]["any"], interval["auc"]["any"]],
        "auc_studies": [study["auc"]["any"], study["interval"]["auc"]["any"]],
        "loss_to_prior": [
            metrics["weighted_log_loss"] / metrics["prior_weighted_log_loss"],
            interval["weighted_log_loss_to_prior"],
        ],
        "num_slices": metrics["num_slices"],
        "num_studies": metrics["num_studies"],
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    datasets = arguments.work / "input" / "datasets"
    common = ("--pre_num_folds", str(NUM_FOLDS), "--pre_size", str(arguments.stored))
    prepare(arguments.work / "input", DEMO, arguments.n_jobs, *common)
    place = ("--pre_folder", str(arguments.folder))
    prepare(arguments.work / "input", OF_SLICES, arguments.n_jobs, *place, *common)
    keep_study_labels(datasets / OF_SLICES, datasets / OF_STUDIES)
    stages = plan(arguments)
    run_stages(stages, arguments.n_jobs, arguments.work / "logs")
    table = SliceTable.load(datasets / OF_SLICES)
    return {
        stage.experiment_id.removesuffix("_0"): score(stage.folder, table) for stage in stages[1:]
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    print(
        f"{'learned from':<22}{'slice AUC of any':>24}{'study AUC of any':>24}{'of the prior':>22}"
    )
    for name, values in found.items():
        title = "labels of slices" if name == BASE else f"studies, {name}"
        cells = [
            f"{value:.3f} ({low:.2f} to {high:.2f})"
            for value, (low, high) in (values[k] for k in list(values)[:3])
        ]
        print(f"{title:<22}{cells[0]:>24}{cells[1]:>24}{cells[2]:>22}")
    print_figures(found)


def main() -> None:
    log_to_console()
    logging.getLogger("common").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with Patients_CT/ and hemorrhage_diagnosis.csv")
    parser.add_argument("--work", type=Path, default=Path("output/study_labels"))
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--net_model", default="tf_efficientnet_lite0")
    parser.add_argument("--stored", type=int, default=160, help="pixels of a stored slice")
    parser.add_argument("--size", type=int, default=96, help="pixels that the network sees")
    parser.add_argument("--start_iterations", type=int, default=120)
    parser.add_argument("--iterations", type=int, default=24, help="of the bag networks")
    parser.add_argument("--bags", type=int, default=4, help="series in a batch")
    parser.add_argument("--bag_slices", type=int, default=16)
    arguments = parser.parse_args()
    arguments.work, arguments.folder = arguments.work.resolve(), arguments.folder.resolve()
    CtIchSource(arguments.folder)  # refuses it now, not after the first training
    show(run(arguments))


if __name__ == "__main__":
    run_script(main)
