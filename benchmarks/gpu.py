"""Measure on a GPU: values, speed and what bounds it, part by part; toys on a CPU.

Each part runs in a process of its own with a limit of its own, so that a part which fails or hangs
leaves the others theirs; together the limits are less than eight minutes. Parts:

* transforms: images of the device against those of the CPU, for each pipeline of transforms/;
* memory: slices through kept and pinned memory, and the speed of copies;
* nccl: a training that exchanges through NCCL, of one process;
* precision: losses and speed of TF32, bf16 and fp16 against float32, steps that fp16 skips;
* graphs: breaks of the graph that torch.compile finds;
* train, compiled: SE-ResNeXt50 at 512 px with and without loading, peak memory, what bounds it, and
  the time of an epoch of the challenge's 674,258 slices (20,000 s were published for a 1080 Ti);
* networks: training and inference of other networks at 512 px.

Values are kept as they come, in a file for each part in `--out`; a later call adds its parts to
those of the same machine and commit. Prints the table of docs/explanation/performance.md, then one
line of JSON, which `--out` keeps as gpu.json.

    benchmarks/gpu.sh [part ...] [--out output/gpu] [--patience 1]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# First: it says how torch's threads wait.
import common  # noqa: F401, I001

from benchmarks.tables import ROOT, commit, show
from common.cli import run_script
from common.errors import CheckFailed, InputError
from common.files import write_text

PARTS = {
    "transforms": 40,
    "memory": 35,
    "nccl": 35,
    "precision": 75,
    "graphs": 55,
    "train": 60,
    "networks": 65,
    "compiled": 90,
}
"""The seconds that each part may take."""


def measure(part: str, file: Path) -> None:
    """Run a part in this process, and keep its values after each of them."""
    import torch

    from benchmarks import gpu_parts
    from common.precision import keep_freed_memory

    keep_freed_memory()
    is_cuda = torch.cuda.is_available()
    made: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if is_cuda else "cpu",
        "torch": str(torch.__version__),
        "cores": os.cpu_count(),
        "commit": commit(),
        part: {},
    }
    for name, value in getattr(gpu_parts, part)():
        made[part][name] = value
        write_text(file, json.dumps(made))
        print(f"{part}: {name}: {value}", flush=True)


def run_part(part: str, folder: Path, limit: float) -> tuple[float, str | None]:
    """Run a part in a process of its own; return its seconds and why it failed, if it did."""
    start = time.monotonic()
    command = [sys.executable, __file__, part, "--out", str(folder), "--here"]
    with open(folder / f"{part}.log", "w", encoding="utf-8") as log:
        # A session of its own: workers of its loaders end with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = round(time.monotonic() - start, 1)
    if status is None:
        return seconds, f"stopped after its {limit:g} s"
    lines = (folder / f"{part}.log").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no message")
    return seconds, f"status {status}: {last}" if status else None


def collected(folder: Path) -> dict[str, Any]:
    """Return the values of all parts that ran on the machine and commit of the newest."""
    files = [folder / f"{part}.json" for part in PARTS if (folder / f"{part}.json").is_file()]
    files.sort(key=lambda file: file.stat().st_mtime)
    made = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    keys = ("machine", "torch", "cores", "commit")
    same = [one for one in made if [one[k] for k in keys] == [made[-1][k] for k in keys]]
    return {name: value for one in same for name, value in one.items()}


def bound_by(figures: dict[str, Any]) -> str | None:
    """Return what bounds a training by the figures of `train`, None where they don't say."""
    try:
        loaded = figures["images_per_second"] / figures["images_per_second_in_memory"]
        busy, products = figures["busy_share"], figures["product_share"]
        of_peak = figures["share_of_matrix_tflops"]
    except KeyError:
        return None
    if loaded < 0.95:
        return f"loading: {loaded:.0%} of the speed of batches in memory"
    if busy < 0.9:
        return f"launching kernels: the GPU computes {busy:.0%} of the time"
    if products > 0.5:
        return f"convolutions: {products:.0%} of the time, {of_peak:.0%} of a matrix product's rate"
    return f"memory bandwidth: {1 - products:.0%} of the time goes to other work than convolutions"


def run(parts: list[str], folder: Path, patience: float) -> dict[str, Any]:
    """Run parts one after the other; return all figures, with the seconds and the failures."""
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    for part in parts:
        (folder / f"{part}.json").unlink(missing_ok=True)
        seconds[part], failure = run_part(part, folder, patience * PARTS[part])
        print(f"{part:<12}{seconds[part]:>7.1f} s  {failure or ''}", file=sys.stderr, flush=True)
        if failure is not None:
            failures[part] = failure
    figures = collected(folder)
    if "train" in figures:
        figures["bound"] = bound_by(figures["train"])
    return {**figures, "seconds": seconds, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"default: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "gpu", help="a folder")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all limits")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts, folder = arguments.parts or list(PARTS), arguments.out.resolve()
    if unknown := set(parts) - PARTS.keys():
        raise InputError(
            f"{', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.here:
        measure(parts[0], folder / f"{parts[0]}.json")
        return
    figures = run(parts, folder, arguments.patience)
    write_text(folder / "gpu.json", json.dumps(figures))
    show("gpu", figures)
    print(json.dumps(figures))
    if figures["failures"]:
        raise CheckFailed([f"{part}: {why}" for part, why in figures["failures"].items()])


if __name__ == "__main__":
    run_script(main)
