"""Compare the cold start of predict.py with that of another checkout: from command to studies.csv.

Claims: at most half of the time, and, with the engine, under 1 GB for all processes together.

    python benchmarks/cold_start.py --baseline CHECKOUT --folder ../shared/data/ge_head [--pairs 5]

CHECKOUT is a git worktree of the commit to compare with. Runs are interleaved; both predict with
the default network (random weights, images of 192 px), and it fails where a bit of a probability
differs. A third run predicts with the engine. The last line is JSON with the medians, and `ratio`
of wall time, `ratio_cpu` of processor time, `ratio_engine` of wall time with the engine and
`ratio_help` of `train.py --help`.
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
        folder = given.folder.resolve()
        make_experiments(Path(place), folder)
        ways = {
            "new": (ROOT, ["cold"]),
            "old": (given.baseline.resolve(), ["cold"]),
            "engine": (ROOT, ["engine", "--pr_engine", "openvino"]),
        }
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        helps: list[float] = []
        for number in range(given.pairs + 1):
            outputs = {name: Path(place) / f"{name}-{number}" for name in ways}
            for name, (checkout, flags) in ways.items():
                flags = ["--output_dir", place, "--experiment_id", *flags]
                found = run(checkout, flags, folder, outputs[name])
                if number:  # the first round warms the disk's cache
                    runs[name].append(found)
                    shown = (f"{key} {value:.2f}" for key, value in found._asdict().items())
                    print(name, *shown, flush=True)
            helps.append(seconds_of_help(ROOT) / seconds_of_help(ways["old"][0]))
            assert same(outputs["new"], outputs["old"]), "they predict different probabilities"
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print_figures(summary(runs) | {"ratio_help": round(statistics.median(helps), 3)})


def make_experiments(place: Path, folder: Path) -> None:
    """Write two experiments of the default network, the second with engines, checked on DICOM."""
    for name in ("cold", "engine"):
        experiment = place / "results" / name
        experiment.mkdir(parents=True)
        (experiment / "config.yaml").write_text("{}")
        make_predictor(experiment / "predictor")
    dataset = ["--data_input_folder", str(place / "input"), "--data_dataset", "head"]
    source = ["--pre_source", "dicom", "--pre_folder", str(folder)]
    subprocess.run([sys.executable, "preprocessing.py", *source, *dataset], cwd=ROOT, check=True)
    engine = ["--experiment_id", "engine", "--output_dir", str(place)]
    subprocess.run(
        [sys.executable, "-m", "scripts.export", *engine, *dataset], cwd=ROOT, check=True
    )


def run(checkout: Path, flags: list[str], folder: Path, output: Path) -> Run:
    """Predict once."""
    command = [sys.executable, "predict.py", *flags]
    command += ["--pr_input", str(folder), "--pr_output", str(output)]
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


def seconds_of_help(checkout: Path) -> float:
    start = time.perf_counter()
    command = [sys.executable, "train.py", "--help"]
    subprocess.run(command, cwd=checkout, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


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
    """Return the medians of the runs, and of the ratios within rounds."""
    found = {
        f"{which}_{name}": statistics.median(getattr(one, name) for one in of_all)
        for which, of_all in runs.items()
        for name in Run._fields
    }
    pairs = list(zip(runs["new"], runs["old"], strict=True))
    found["ratio"] = statistics.median(new.seconds / old.seconds for new, old in pairs)
    engines = zip(runs["engine"], runs["old"], strict=True)
    found["ratio_engine"] = statistics.median(one.seconds / old.seconds for one, old in engines)
    found["ratio_cpu"] = statistics.median(new.processor_s / old.processor_s for new, old in pairs)
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
