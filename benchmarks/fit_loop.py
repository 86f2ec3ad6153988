"""Measure the cost of the fit loop over a bare PyTorch loop that takes the same steps.

The same small network, data and arithmetic either way; `fit` also writes metrics.jsonl and shows
the run in MLflow (SQLite, in a temporary folder). The two ways take turns. Start and steps are
measured apart:

* start: the process of the monitor until its run is in the store, of which the first makes the
  tables. It runs beside the first steps of a training, once.
* steps: wall and processor time (that of the monitor's process too) over those of the bare loop,
  pair by pair, once the monitor is connected.

Prints a table of medians, then one line of JSON: overhead_ratio (processor time of fit over that of
the bare loop, less 1: 0.03 is 3 % more), wall_ratio (the same of wall time), start_cpu_s,
start_wall_s, new_store_cpu_s and max_weight_difference.

    python benchmarks/fit_loop.py [--repeats 7] [--steps 100] [--batch_size 16] [--size 96]
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# First: it says how torch's threads wait.
import common  # noqa: F401, I001

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.figures import print_figures
from common.callbacks import TrainingMonitor
from common.datasets.base import AbstractDataset
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.networks import FitSettings, ImageClassifierNetwork
from common.networks.losses import weighted_bce_sum
from common.precision import keep_freed_memory
from common.trackers import MLflowBackend, Tracker
from common.trackers.mlflow import RUN_ID_FILE

LABEL_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
CLIP_NORM = 1.0
LEARNING_RATE = 1e-3


class RandomImages(AbstractDataset):
    """Images and labels that are made once: reading them costs next to nothing."""

    def __init__(self, num_samples: int, size: int) -> None:
        super().__init__(seed=0)
        rng = np.random.default_rng(0)
        images = rng.standard_normal((num_samples, 3, size, size), dtype=np.float32)
        self.images = torch.from_numpy(images)
        self.labels = torch.as_tensor(rng.integers(0, 2, (num_samples, 6)), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.images)

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """The batches of `ImageClassifierNetwork`."""
        return {"image": self.images[index], "labels": self.labels[index], "index": index}


def make_model() -> nn.Module:
    """A small residual-free network, the same weights each time."""
    torch.manual_seed(0)
    widths = [3, 32, 64, 128]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 6))


class Cost(NamedTuple):
    """Seconds of wall and of processor time."""

    wall: float
    cpu: float


def run_bare(dataset: RandomImages, num_steps: int, batch_size: int) -> tuple[Cost, nn.Module]:
    """Return the cost and the trained model of a plain loop."""
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    weights = torch.tensor(LABEL_WEIGHTS)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = make_loader(dataset, batch_size, 0, sampler)
    clock = Clock()
    num_done = epoch = 0
    while num_done < num_steps:
        sampler.start(epoch)
        epoch += 1
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            loss_sum, num_terms = weighted_bce_sum(model(batch["image"]), batch["labels"], weights)
            loss_sum.backward()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= float(num_terms)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            num_done += 1
            if num_done == num_steps:
                break
    return clock.cost(), model


def run_fit(
    dataset: RandomImages, num_steps: int, batch_size: int, folder: Path
) -> tuple[Cost, Cost, nn.Module]:
    """Return the cost of the monitor's start and of `fit`, and the trained model."""
    model = make_model()
    folder.mkdir()
    tracker = Tracker(folder, [MLflowBackend(folder, folder.parent)])
    network = ImageClassifierNetwork(
        model,
        FitSettings(iteration_num=num_steps, clip_norm=CLIP_NORM),
        LABEL_WEIGHTS,
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE),
        callbacks=[TrainingMonitor(folder / "metrics.jsonl", tracker)],
    )
    loader = make_loader(dataset, batch_size, 0, EpochSampler(len(dataset), seed=0))
    started = time.perf_counter()
    tracker.start()
    process = tracker.sidecars[0].process
    assert process is not None
    while not (folder / RUN_ID_FILE).is_file():
        time.sleep(0.01)
        assert process.poll() is None, "the monitor's process has died"
    start = Cost(time.perf_counter() - started, _cpu_of(process.pid))
    clock = Clock(process.pid)
    network.fit(loader)
    cost = clock.cost()
    tracker.close()
    return start, cost, model


class Clock:
    """Wall and processor time since it was made, of this process and of `others` (ids)."""

    def __init__(self, *others: int) -> None:
        self.others = others
        self.began = self._now()

    def cost(self) -> Cost:
        return Cost(*(now - then for now, then in zip(self._now(), self.began, strict=True)))

    def _now(self) -> Cost:
        return Cost(time.perf_counter(), time.process_time() + sum(map(_cpu_of, self.others)))


def _cpu_of(pid: int) -> float:
    """Return the processor time of a process in seconds (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def weight_difference(first: nn.Module, second: nn.Module) -> float:
    """Return the largest difference of any number in the two state dicts."""
    other = second.state_dict()

    def difference(name: str, value: Tensor) -> float:
        return float((value.double() - other[name].double()).abs().max())

    return max(difference(name, value) for name, value in first.state_dict().items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    keep_freed_memory()
    batch_size, num_steps = arguments.batch_size, arguments.steps
    dataset = RandomImages(num_steps * batch_size // 2, arguments.size)
    starts: list[Cost] = []
    pairs: list[tuple[Cost, Cost]] = []
    with tempfile.TemporaryDirectory() as name:
        # The first runs of a process are slower, and the first run of a store makes its tables.
        run_bare(dataset, 2, batch_size)
        new_store, _, _ = run_fit(dataset, 2, batch_size, Path(name) / "0000")
        for number in range(1, arguments.repeats + 1):
            bare, bare_model = run_bare(dataset, num_steps, batch_size)
            folder = Path(name) / f"{number:04}"
            start, fit, fit_model = run_fit(dataset, num_steps, batch_size, folder)
            starts.append(start)
            pairs.append((bare, fit))
    print(f"{'way':<32} {'wall ms a step':>14} {'cpu ms a step':>14}")
    for way, label in enumerate(("bare loop", "fit with metrics.jsonl, MLflow")):
        times = [1000 * median(pair[way][k] for pair in pairs) / num_steps for k in (0, 1)]
        print(f"{label:<32} {times[0]:>14.1f} {times[1]:>14.1f}")
    figures = {
        "overhead_ratio": median(fit.cpu / bare.cpu for bare, fit in pairs) - 1,
        "wall_ratio": median(fit.wall / bare.wall for bare, fit in pairs) - 1,
        "start_cpu_s": median(start.cpu for start in starts),
        "start_wall_s": median(start.wall for start in starts),
        "new_store_cpu_s": new_store.cpu,
        "max_weight_difference": weight_difference(bare_model, fit_model),
    }
    print_figures(figures)


if __name__ == "__main__":
    main()
