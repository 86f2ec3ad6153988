"""Frozen encoders under the same heads on the same folds: scores out of fold, with intervals.

Trains a linear head, and a recurrent one over the series, on the stored features of each encoder
for all patient folds, by train.py. Commands that are done are skipped. An encoder is a name of
timm, `hf-hub:<owner>/<name>`, a folder, `<name>=<file of its weights>`, or `random:<name>`, its
control: the same network with random weights. Differences are to the first encoder under the same
head, paired by patient.

    python benchmarks/encoders.py --dataset ct_ich --folder <CT-ICH> [encoder ...]
    python benchmarks/encoders.py --dataset demo

Prints a table and, as its last line, JSON.
"""

import argparse
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from benchmarks.levels.level_runs import Plan, Stage, prepare, run_stages
from common.cli import log_to_console, run_script
from common.errors import InputError
from common.models.encoders import PACKAGED_WEIGHTS, packaged_file
from common.scoring.metrics import auc
from common.slices.folds import owners
from common.slices.table import SliceTable
from common.statistics.intervals import paired_interval, patient_intervals
from rsna.evaluation.scoring import read_experiment
from rsna_task import LABEL_WEIGHTS, LABELS

RANDOM, CT_ICH = "random:", "ct_ich"
HEADS = {
    "linear": ("study-linear",),
    # As small as tens of series allow.
    "GRU": (
        *("study-bigru", "--net_study_dim", 32, "--net_study_hidden", 24),
        *("--net_study_layers", 1, "--net_drop_rate", 0.3),
    ),
}


def stages(encoders: list[str], plan: Plan, arguments: argparse.Namespace) -> list[Stage]:
    """Return the commands, those of one encoder one after the other: they share its features."""
    made: list[Stage] = []
    needs: list[str] = []
    for encoder in encoders:
        name, _, file = encoder.removeprefix(RANDOM).partition("=")
        own = ["--net_encoder", name, "--net_pretrained", int(not encoder.startswith(RANDOM))]
        own += ["--net_weight_file", Path(file).resolve()] if file else []
        for head, (model, *options) in HEADS.items():
            shared = ("--data_img_size", arguments.size, "--tr_iteration_num", arguments.iterations)
            flags = ("--net_model", model, *own, *shared, *options)
            made.append(plan.train(stage_name(encoder, head), *flags, needs=needs))
            needs = [stage_name(encoder, head)] if head != list(HEADS)[-1] else []
    return made


def stage_name(encoder: str, head: str) -> str:
    """Return a plain word for an encoder and a head, which an id of an experiment begins with."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{encoder}_{head}")


def measure(encoders: list[str], plan: Plan, dataset_folder: Path) -> dict[str, dict[str, Any]]:
    """Return scores and intervals by head and encoder."""
    table = SliceTable.load(dataset_folder)
    found: dict[str, dict[str, Any]] = {head: {} for head in HEADS}
    any_label = LABELS.index("any")
    for head in HEADS:
        first = None
        for encoder in encoders:
            folder = plan.output_dir / "results" / plan.id_of(stage_name(encoder, head))
            frame, prior = read_experiment(folder, "oof")
            order = np.argsort(frame["image_id"].to_numpy(dtype=str), kind="stable")
            frame, prior = frame.iloc[order], np.broadcast_to(prior, (len(frame), 6))[order]
            labels = table.labels(table.rows_of(frame["image_id"]), LABELS).astype(np.float64)
            p, patients = frame[list(LABELS)].to_numpy(np.float64), owners(frame)
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            loss = metrics["weighted_log_loss"]
            first = p if first is None else first
            paired = paired_interval(labels, first, p, patients, LABEL_WEIGHTS)
            found[head][encoder] = {
                "weighted_log_loss": loss,
                "to_prior": loss / metrics["prior_weighted_log_loss"],
                "auc_any": auc(labels[:, any_label], p[:, any_label]),
                "interval": patient_intervals(
                    labels, p, patients, label_names=LABELS, weights=LABEL_WEIGHTS, prior=prior
                ),
                "more_than_first": paired,
            }
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    columns = ("head", "encoder", "weighted log loss", "of the prior", "AUC of any")
    print(f"| {' | '.join(columns)} | loss more than the first |\n|{'---|' * 6}")
    for head, rows in found.items():
        for number, (encoder, row) in enumerate(rows.items()):
            own, paired = row["interval"], row["more_than_first"]
            difference = _with(paired["difference"], paired["interval"], "+") if number else "-"
            print(
                f"| {head} | `{encoder}` | "
                f"{_with(row['weighted_log_loss'], own['weighted_log_loss'])} | "
                f"{_with(row['to_prior'], own['weighted_log_loss_to_prior'])} | "
                f"{_with(row['auc_any'], own['auc']['any'])} | {difference} |"
            )


def _with(value: float | None, interval: list[float] | None, sign: str = "") -> str:
    """Return a value with its interval; a dash where it is undefined."""
    if value is None:
        return "-"
    low, high = interval or (float("nan"),) * 2
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def default_encoders() -> list[str]:
    """Return what runs without a hub: networks whose weights are installed, and a control."""
    installed = [name for name in PACKAGED_WEIGHTS if packaged_file(name)]
    return [*installed, *(f"{RANDOM}{name}" for name in installed[:1])]


def main() -> None:
    log_to_console()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoders", nargs="*", help="default: those installed")
    parser.add_argument("--dataset", default="demo", help="demo or ct_ich")
    parser.add_argument("--folder", type=Path, help="of CT-ICH")
    parser.add_argument("--work", type=Path, default=Path("output/encoders"))
    parser.add_argument("--size", type=int, default=192, help="pixels of a side of the image")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    arguments = parser.parse_args()
    encoders = arguments.encoders or default_encoders()
    if len(set(encoders)) < len(encoders) or not encoders:
        raise InputError(f"encoders: name each once, and one at least; given are {encoders}")
    dataset = arguments.work / "input" / "datasets" / arguments.dataset
    if arguments.dataset == CT_ICH and not arguments.folder and not dataset.is_dir():
        raise InputError("--dataset ct_ich needs --folder: with Patients_CT/ and its csv files")
    started, work = time.perf_counter(), arguments.work.resolve()
    (work / "input").mkdir(parents=True, exist_ok=True)
    source = ("--pre_folder", str(arguments.folder.resolve())) if arguments.folder else ()
    prepare(work / "input", arguments.dataset, arguments.n_jobs, *source)
    plan = Plan(work, arguments.dataset)
    run_stages(stages(encoders, plan, arguments), arguments.n_jobs, work / "logs")
    found = measure(encoders, plan, work / "input" / "datasets" / arguments.dataset)
    show(found)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (time.perf_counter() - started) / 60, (used.ru_utime + used.ru_stime) / 60
    print(f"\n{minutes[0]:.1f} minutes, {minutes[1]:.1f} of a processor\n")
    print_figures(found)


if __name__ == "__main__":
    run_script(main)
