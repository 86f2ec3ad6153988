"""Measure a prediction of prepared slices by one and by two processes (torchrun), one thread each.

    python benchmarks/predict_scaling.py [--predictor FOLDER] [--slices 512] [--pairs 3]

Timed is `Predictor.predict_table`, from the first slice to the tables, after a few slices that warm
up. `ratio_two_processes` is that of the clock, which means something on two idle cores alone;
`ratio_processor_time` is what they would give: the time of one process over that of the slower one
of two. Ends with one line of JSON; status 3 where the ratio is below 1.7, or the tables differ.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import torch

from benchmarks.figures import print_figures
from benchmarks.predictor import make_predictor
from common.cli import run_script
from common.distributed import Processes, connected
from common.errors import CheckFailed
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.predictors.sharing import share_rows, together
from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, SLICES_FILE, STORE_FOLDER, SliceTable
from common.tables import write_parquet
from rsna.predictor import Predictor
from rsna_model import build_model
from rsna_task import LABELS

ASKED = 1.7
TOLERANCE = 1e-6
NUM_WARM = 16
SIZE = 512


def make_dataset(folder: Path, num_slices: int) -> Path:
    """Write a prepared dataset of smooth slices of 512 px, 32 to a series."""
    rng, rows = np.random.default_rng(0), []
    for number in range(num_slices):
        series, rank = divmod(number, 32)
        if rank == 0:
            noise = rng.normal(30, 10, (32, SIZE // 8, SIZE // 8))
            hu = noise.repeat(8, axis=1).repeat(8, axis=2).astype(np.int16)
            write_series(folder / STORE_FOLDER / f"s{series}.b2nd", hu)
        ids = {name: f"s{series}" for name in ("patient_id", "study_id", "series_id")}
        place = {"store_file": f"s{series}.b2nd", "store_index": rank, "rank": rank}
        size = {"rows": SIZE, "columns": SIZE, "num_slices": 32, "position_mm": 5.0 * rank}
        own = {"image_id": f"i{number}", "status": "ok", "source_file": f"s{series}/{rank}"}
        rows.append({**dict.fromkeys(SLICE_COLUMNS), **ids, **place, **size, **own})
    frame = pd.DataFrame(rows).assign(keep_for_training=True)
    frame = frame.astype(SLICE_COLUMNS).assign(**dict.fromkeys(LABELS, np.nan))
    write_parquet(folder / SLICES_FILE, frame)
    return folder


def measure(predictor_folder: Path, dataset: Path, output: Path) -> None:
    """Predict as one process of those that torchrun started; the main one writes what it took."""
    processes, table = Processes.from_environment(), SliceTable.load(dataset)
    loaded = load_predictor(predictor_folder, build_model)
    few = SliceTable(table.frame.iloc[:NUM_WARM], dataset)
    share = share_rows if processes.are_many else None
    predictor = Predictor(loaded, PredictOptions(share=share))
    with connected(processes, torch.device("cpu")):
        together(processes, lambda: predictor.predict_table(few), lambda: loaded, few)
        before, start = processes.gathered(time.process_time()), time.perf_counter()
        prediction = together(
            processes, lambda: predictor.predict_table(table), lambda: loaded, table
        )
        wall, after = time.perf_counter() - start, processes.gathered(time.process_time())
    if prediction is not None:
        write_parquet(output.with_suffix(".parquet"), prediction.predictions)
        spent = {"wall": wall, "cpu": max(np.subtract(after, before).tolist())}
        output.write_text(json.dumps(spent), encoding="utf-8")


def run(num_processes: int, *arguments: Path) -> dict[str, float]:
    """Return seconds of the clock, and of the processor in the slowest process."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    subprocess.run(
        [sys.executable, *torchrun, __file__, "--measure", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    found: dict[str, float] = json.loads(arguments[-1].read_text(encoding="utf-8"))
    return found


def ratios(spent: dict[int, list[dict[str, float]]]) -> dict[str, float]:
    """Return by how much two processes are faster than one: the medians over pairs."""
    names = {"ratio_two_processes": "wall", "ratio_processor_time": "cpu"}
    return {
        name: statistics.median(
            one[kind] / two[kind] for one, two in zip(spent[1], spent[2], strict=True)
        )
        for name, kind in names.items()
    }


def largest_difference(paths: list[Path]) -> float:
    """Return the largest difference of a probability between two prediction tables."""
    one, other = (pd.read_parquet(path) for path in paths)
    if not one["image_id"].equals(other["image_id"]):
        return float("inf")
    return float(np.abs(one[list(LABELS)].to_numpy() - other[list(LABELS)].to_numpy()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--predictor", type=Path)
    parser.add_argument("--slices", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", type=Path, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    load, spent = os.getloadavg()[0], dict[int, list[dict[str, float]]]({1: [], 2: []})
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        predictor = arguments.predictor or make_predictor(root / "predictor")
        dataset = make_dataset(root / "dataset", arguments.slices)
        outputs = {num: root / f"of_{num}.json" for num in (1, 2)}
        for _ in range(arguments.pairs):
            for num, output in outputs.items():
                spent[num].append(run(num, predictor, dataset, output))
        difference = largest_difference([path.with_suffix(".parquet") for path in outputs.values()])
    seconds = {f"of_{num}_s": statistics.median(t["wall"] for t in spent[num]) for num in (1, 2)}
    figures = {**ratios(spent), "difference": difference, **seconds, "load": load}
    figures |= {"cores": len(os.sched_getaffinity(0)), "slices": arguments.slices}
    for name, value in figures.items():
        print(f"{name:<22} {value:.3g}")
    # Where other programs run, the clock says nothing of the cores.
    judged = "ratio_two_processes" if load < 0.5 else "ratio_processor_time"
    print(f"asked: {judged} at least {ASKED}, difference at most {TOLERANCE:g}")
    print_figures(figures)
    if figures[judged] < ASKED or difference > TOLERANCE:
        raise CheckFailed([f"{judged} {figures[judged]:.2f}, difference {difference:.1e}"])


if __name__ == "__main__":
    run_script(main)
