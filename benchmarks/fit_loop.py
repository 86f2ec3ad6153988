"""Measure the cost of the fit loop over a bare PyTorch loop that takes the same steps.

The same small network, data and arithmetic either way; `fit` also writes metrics.jsonl and shows
the run in MLflow (SQLite, in a temporary folder). The two ways take turns. Prints a table of
medians, then one line of JSON: overhead_ratio (time of fit over time of the bare loop, less 1: 0.03
is 3 % more) and max_weight_difference.

    python benchmarks/fit_loop.py [--repeats 7] [--steps 40] [--batch_size 16] [--size 96]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common.callbacks import TrainingMonitor
from common.datasets import AbstractDataset, EpochSampler, make_loader
from common.networks import FitSettings, ImageClassifierNetwork
from common.networks.losses import weighted_bce_sum
from common.precision import keep_freed_memory
from common.trackers import MLflowBackend, Tracker

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


def run_bare(dataset: RandomImages, num_steps: int, batch_size: int) -> tuple[float, nn.Module]:
    """Seconds and the trained model of a plain loop."""
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    weights = torch.tensor(LABEL_WEIGHTS)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = make_loader(dataset, batch_size, 0, sampler)
    started = time.perf_counter()
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
    return time.perf_counter() - started, model


def run_fit(dataset: RandomImages, num_steps: int, batch_size: int) -> tuple[float, nn.Module]:
    """Seconds and the trained model of `fit` with its monitors; their start and end don't count."""
    model = make_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = Tracker(folder, [MLflowBackend(folder, folder)])
        network = ImageClassifierNetwork(
            model,
            FitSettings(iteration_num=num_steps, clip_norm=CLIP_NORM),
            LABEL_WEIGHTS,
            optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE),
            callbacks=[TrainingMonitor(folder / "metrics.jsonl", tracker)],
        )
        loader = make_loader(dataset, batch_size, 0, EpochSampler(len(dataset), seed=0))
        started = time.perf_counter()
        network.fit(loader)
        seconds = time.perf_counter() - started
        tracker.close()
    return seconds, model


def weight_difference(first: nn.Module, second: nn.Module) -> float:
    """Return the largest difference of any number in the two state dicts."""
    other = second.state_dict()

    def difference(name: str, value: Tensor) -> float:
        return float((value.double() - other[name].double()).abs().max())

    return max(difference(name, value) for name, value in first.state_dict().items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    keep_freed_memory()
    dataset = RandomImages(arguments.steps * arguments.batch_size // 2, arguments.size)
    ways: dict[str, Callable[..., tuple[float, nn.Module]]] = {"bare": run_bare, "fit": run_fit}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    models: dict[str, nn.Module] = {}
    for way in ways:  # the first runs of a process are slower
        ways[way](dataset, 2, arguments.batch_size)
    for _ in range(arguments.repeats):
        for way, run in ways.items():
            taken, models[way] = run(dataset, arguments.steps, arguments.batch_size)
            seconds[way].append(taken)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{'way':<28} {'ms a step':>10}")
    for way, label in (("bare", "bare loop"), ("fit", "fit with metrics.jsonl, MLflow")):
        print(f"{label:<30} {1000 * median[way] / arguments.steps:>8.1f}")
    figures = {
        "overhead_ratio": median["fit"] / median["bare"] - 1,
        "max_weight_difference": weight_difference(models["bare"], models["fit"]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
