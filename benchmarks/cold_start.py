"""Compare the cold start of predict.py with that of another checkout: from command to studies.csv.

Claims: at most half of the time, and under 1 GB for the process and its children together.

    python benchmarks/cold_start.py --baseline CHECKOUT --folder ../shared/data/ge_head [--pairs 5]

CHECKOUT is a git worktree of the commit to compare with. Runs are interleaved; both predict with
the default network (random weights, images of 192 px), and it fails where a bit of a probability
differs. The last line is JSON with the medians, `ratio` of wall time and `ratio_cpu` of processor
time.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.figures import print_figures  # noqa: E402
from benchmarks.predictor import make_predictor  # noqa: E402

EXPERIMENT = "cold"
LOOK_S, WEIGH_S = 0.01, 0.05


class Run(NamedTuple):
    """Seconds to studies.csv, of the processor to the end; the most memory of all processes.

    `own_mb` is without pages of files, which are libraries.
    """

    seconds: float
    processor_s: float
    memory_mb: float
    own_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--baseline", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    for flag, path in (("baseline", given.baseline / "predict.py"), ("folder", given.folder)):
        if not path.exists():
            sys.stderr.write(f"error: --{flag}: there is no {path}\n")
            sys.exit(2)
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results" / EXPERIMENT
        results.mkdir(parents=True)
        (results / "config.yaml").touch()
        make_predictor(results / "predictor")
        checkouts = {"new": ROOT, "old": given.baseline.resolve()}
        runs: dict[str, list[Run]] = {name: [] for name in checkouts}
        for number in range(given.pairs + 1):
            outputs = {name: Path(place) / f"{name}-{number}" for name in checkouts}
            for name, checkout in checkouts.items():
                found = run(checkout, Path(place), given.folder.resolve(), outputs[name])
                if number:  # the first pair warms the disk's cache
                    runs[name].append(found)
                    shown = (f"{key} {value:.2f}" for key, value in found._asdict().items())
                    print(name, *shown, flush=True)
            assert same(*outputs.values()), "they predict different probabilities"
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print_figures(summary(runs))


def run(checkout: Path, results: Path, folder: Path, output: Path) -> Run:
    """Predict once."""
    command = [sys.executable, "predict.py", "--experiment_id", EXPERIMENT, "--output_dir"]
    command += [str(results), "--pr_input", str(folder), "--pr_output", str(output)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (output.parent / "log.txt").open("w+") as log:
        process = subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log)
        peak = [0.0, 0.0]
        threading.Thread(target=weigh, args=(process, peak)).start()
        while not (output / "studies.csv").exists() and process.poll() is None:
            time.sleep(LOOK_S)
        wall = time.perf_counter() - start
        if process.wait():
            log.seek(0)
            raise RuntimeError(f"{checkout} failed: {log.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, *peak)


def weigh(process: "subprocess.Popen[Any]", peak: list[float]) -> None:
    """Keep in `peak` the most memory in MB, all and own, of a process and its descendants."""
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(WEIGH_S)
        with contextlib.suppress(psutil.Error):  # one has ended meanwhile
            found = [p.memory_info() for p in (watched, *watched.children(recursive=True))]
            peak[0] = max(peak[0], sum(one.rss for one in found) / 1e6)
            peak[1] = max(peak[1], sum(one.rss - one.shared for one in found) / 1e6)


def same(one: Path, other: Path) -> bool:
    """Return whether two predictions have the same probabilities and logits, bit by bit."""
    tables = [pd.read_parquet(path / "predictions.parquet") for path in (one, other)]
    names = [name for name in tables[0] if tables[0][name].dtype.kind == "f"]
    return tables[0][names].equals(tables[1][names])


def summary(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Return the medians of the runs, and of the ratios of pairs."""
    found = {
        f"{which}_{name}": statistics.median(getattr(one, name) for one in of_all)
        for which, of_all in runs.items()
        for name in Run._fields
    }
    pairs = list(zip(runs["new"], runs["old"], strict=True))
    found["ratio"] = statistics.median(new.seconds / old.seconds for new, old in pairs)
    found["ratio_cpu"] = statistics.median(new.processor_s / old.processor_s for new, old in pairs)
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
