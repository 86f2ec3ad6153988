"""Measure what two settings of the process save in a training step on a CPU.

* `keep_freed_memory`: glibc keeps large freed blocks (common/precision.py);
* OMP_WAIT_POLICY=PASSIVE: waiting threads sleep instead of spinning (common/__init__.py), alone and
  beside as many busy processes as there are cores, as data loaders can be.

Each way runs in a process of its own; the ways take turns. Prints a table of medians of processor
and wall time per image, then one line of JSON.

    python benchmarks/training_step.py [--repeats 3] [--steps 6] [--batch_size 16] [--size 192]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.figures import print_figures  # noqa: E402

WAYS = {
    "defaults of the libraries": {"OMP_WAIT_POLICY": "ACTIVE", "KEEP": "0"},
    "freed memory kept": {"OMP_WAIT_POLICY": "ACTIVE", "KEEP": "1"},
    "passive waiting": {"OMP_WAIT_POLICY": "PASSIVE", "KEEP": "0"},
    "both (as train.py does)": {"OMP_WAIT_POLICY": "PASSIVE", "KEEP": "1"},
}


def measure(num_steps: int, batch_size: int, size: int) -> dict[str, float]:
    """Milliseconds per image of the default network in this process."""
    import time

    import torch

    from common.precision import keep_freed_memory
    from rsna_model import RSNAModel

    if os.environ["KEEP"] == "1":
        keep_freed_memory()
    model = RSNAModel("tf_efficientnet_lite0").to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        model(images).sum().backward()
        optimizer.step()

    step()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(num_steps):
        step()
    num_images = num_steps * batch_size
    return {
        "cpu_ms": 1000 * (time.process_time() - cpu) / num_images,
        "wall_ms": 1000 * (time.perf_counter() - wall) / num_images,
    }


def run_way(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    sizes = [arguments.steps, arguments.batch_size, arguments.size]
    result = subprocess.run(
        [sys.executable, __file__, "--measure", *map(str, sizes)],
        env={**os.environ, **WAYS[way]},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*map(int, sys.argv[2:5]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--size", type=int, default=192)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for is_busy in (False, True):
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(os.cpu_count() or 1 if is_busy else 0)
        ]
        try:
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(arguments.repeats):
                for way in WAYS:
                    runs[way].append(run_way(way, arguments))
        finally:
            for process in busy:
                process.kill()
        place = "beside busy processes" if is_busy else "alone"
        print(f"{place:<28} {'cpu ms/image':>14} {'wall ms/image':>14}")
        for way, results in runs.items():
            medians = {
                name: statistics.median(result[name] for result in results)
                for name in ("cpu_ms", "wall_ms")
            }
            figures[f"{place}: {way}"] = medians
            print(f"  {way:<26} {medians['cpu_ms']:>14.1f} {medians['wall_ms']:>14.1f}")
    print_figures(figures)


if __name__ == "__main__":
    main()
