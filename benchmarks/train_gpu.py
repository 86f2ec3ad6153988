"""Training speed of a network through this project's loader, device transforms and fit loop.

By default SE-ResNeXt50 32x4d at 512 px in bfloat16 and channels-last memory, with the complex
augmentation made on the GPU; no weights and no data are needed, the slices are made up. Runs with
the loader and runs on one batch that stays in device memory take turns; medians are shown, after
the first steps of each run. The time of an epoch of the 674,258 slices of the challenge's first
stage is set against the 20,000 s published for this network on a GTX 1080 Ti, where network and
size are those.

Prints a table, then one line of JSON.

    python benchmarks/train_gpu.py [--batch_size 64] [--steps 40] [--repeats 3] [--workers 8]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from common.callbacks import Callback  # noqa: E402
from common.cli import run_script  # noqa: E402
from common.datasets import EpochSampler, make_loader  # noqa: E402
from common.errors import InputError  # noqa: E402
from common.networks import FitSettings  # noqa: E402
from common.precision import keep_freed_memory  # noqa: E402
from common.slices.store import write_series  # noqa: E402
from common.slices.table import SLICE_COLUMNS, STORE_FOLDER, SliceTable  # noqa: E402
from rsna_dataset import RSNADataset, find_transform  # noqa: E402
from rsna_model import RSNAModel  # noqa: E402
from rsna_network import RSNANetwork  # noqa: E402
from rsna_task import LABELS  # noqa: E402

EPOCH_SLICES = 674_258
PUBLISHED_MODEL, PUBLISHED_EPOCH_SECONDS = "rsna-seresnext-50.32.4d", 20_000
SLICES_PER_SERIES = 32


class StepTimes(Callback):
    """Notes what each step of a fit took and what it waited for data."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.wait_seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, network: Any) -> None:
        """Count from the end of one step to the end of the next, so that nothing is left out."""
        now = time.perf_counter()
        if self._last is not None:
            values = network.step_values
            self.seconds.append(now - self._last)
            step_seconds = self.seconds[-1]
            self.wait_seconds.append(values["data_wait_share"] * step_seconds)
        self._last = now


class BatchInMemory:
    """A loader of one batch that is on the device already."""

    def __init__(self, batch: dict[str, Any], batch_size: int, num_samples: int) -> None:
        self.batch, self.batch_size = batch, batch_size
        self.sampler = EpochSampler(num_samples, seed=0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in self.sampler.batch_sizes():
            yield dict(self.batch)


def make_table(folder: Path, num_slices: int, size: int) -> SliceTable:
    """Slices of ellipses with the noise of CT; each stored series serves several made-up ones."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    rng = np.random.default_rng(0)
    num_stored = min(num_slices, 4 * SLICES_PER_SERIES)
    for series in range(-(-num_stored // SLICES_PER_SERIES)):
        stack = []
        for index in range(SLICES_PER_SERIES):
            radius = np.hypot(x / 0.36, y / (0.44 - 0.004 * index))
            image_hu = np.where(radius < 0.92, 35 + 10 * np.sin(9 * x + series), -1000)
            image_hu = np.where((radius >= 0.92) & (radius < 1), 900, image_hu)
            image_hu = image_hu + rng.normal(0, 5, image_hu.shape) * (radius < 1)
            stack.append(image_hu.round().astype(np.int16))
        write_series(folder / STORE_FOLDER / f"{series}.b2nd", stack)
    number = np.arange(num_slices)
    stored = number % num_stored
    columns = {
        "image_id": [f"image{n}" for n in number],
        "series_id": [f"series{n}" for n in number // SLICES_PER_SERIES],
        "status": "ok",
        "rank": stored % SLICES_PER_SERIES,
        "store_file": [f"{n}.b2nd" for n in stored // SLICES_PER_SERIES],
        "store_index": stored % SLICES_PER_SERIES,
        "keep_for_training": True,
    }
    frame = pd.DataFrame({**dict.fromkeys(SLICE_COLUMNS), **columns}, index=number)
    frame["keep_for_training"] = True
    frame = frame.astype(SLICE_COLUMNS)
    for label in LABELS:
        frame[label] = rng.integers(0, 2, num_slices).astype(np.float32)
    return SliceTable(frame, folder)


class Benchmark:
    """The network and its data, and the two kinds of runs."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(wanted if arguments.device == "auto" else arguments.device)
        table = make_table(folder, arguments.slices, arguments.stored_size)
        self.model = RSNAModel(arguments.model, len(LABELS), pretrained=False)
        transform = find_transform(
            "data_train_transform",
            arguments.transform,
            arguments.size,
            self.model.mean,
            self.model.std,
        )
        self.transform = transform.device_part(channels_last=True)
        self.data = RSNADataset(table, np.arange(arguments.slices), transform, seed=1)
        self.data.host_transform = transform.host_part()
        self.optimizer: torch.optim.Optimizer | None = None

    def loader(self) -> Any:
        sampler = EpochSampler(len(self.data), seed=1)
        is_cuda = self.device.type == "cuda"
        arguments = self.arguments
        return make_loader(self.data, arguments.batch_size, arguments.workers, sampler, is_cuda)

    def fit(self, data: Any) -> StepTimes:
        """Train on `data`; return the times of the steps, without the first ones."""
        times = StepTimes()
        arguments = self.arguments
        settings = FitSettings(
            arguments.warmup + arguments.steps + 1,
            clip_norm=1.0,
            amp_dtype=None if arguments.amp == "none" else arguments.amp,
            channels_last=True,
            device=self.device,
        )
        if self.optimizer is None:
            self.model.to(self.device)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        network = RSNANetwork(
            self.model,
            settings,
            optimizer=self.optimizer,
            callbacks=[times],
            batch_transform=self.transform,
        )
        network.fit(data)
        times.seconds = times.seconds[arguments.warmup :]
        times.wait_seconds = times.wait_seconds[arguments.warmup :]
        return times

    def in_memory(self) -> BatchInMemory:
        """Return one batch of the loader, made on the device, for the steps asked for."""
        network = RSNANetwork(
            self.model,
            FitSettings(1, channels_last=True, device=self.device),
            batch_transform=self.transform,
        )
        batch = network.to_device(next(iter(self.loader())))
        return BatchInMemory(batch, self.arguments.batch_size, len(self.data))

    def transform_ms(self) -> float:
        """Milliseconds that the device side of the transforms takes for a batch, alone."""
        batch = next(iter(self.loader()))
        images, times = batch["image"].to(self.device), []
        for _ in range(5):
            self._wait()
            start = time.perf_counter()
            self.transform(images, batch["draws"])
            self._wait()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def run(self) -> dict[str, Any]:
        """Both kinds of runs in turn; returns the figures."""
        memory = self.in_memory()
        by_kind: dict[str, list[float]] = {"loader": [], "memory": []}
        waits, ratios, peak = [], [], None
        for _ in range(self.arguments.repeats):
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            loaded = self.fit(self.loader())
            if self.device.type == "cuda":
                peak = max(peak or 0.0, torch.cuda.max_memory_allocated() / 2**30)
            kept = self.fit(memory)
            waits.append(sum(loaded.wait_seconds) / sum(loaded.seconds))
            rates = [
                self.arguments.batch_size * len(times.seconds) / sum(times.seconds)
                for times in (loaded, kept)
            ]
            ratios.append(rates[0] / rates[1])
            for kind, rate in zip(by_kind, rates):
                by_kind[kind].append(rate)
        rate = statistics.median(by_kind["loader"])
        is_published = (self.arguments.model, self.arguments.size) == (PUBLISHED_MODEL, 512)
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {
            "device": name,
            "torch": str(torch.__version__),
            **{
                key: getattr(self.arguments, key)
                for key in ("model", "size", "batch_size", "amp", "workers", "transform")
            },
            "images_per_second": round(rate, 2),
            "images_per_second_in_memory": round(statistics.median(by_kind["memory"]), 2),
            "ratio_to_memory": round(statistics.median(ratios), 4),
            "data_wait_share": round(statistics.median(waits), 4),
            "transform_ms_per_batch": round(self.transform_ms(), 2),
            "peak_memory_gib": None if peak is None else round(peak, 2),
            "epoch_seconds": round(EPOCH_SLICES / rate, 1) if is_published else None,
            "published_epoch_seconds": PUBLISHED_EPOCH_SECONDS,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=PUBLISHED_MODEL)
    parser.add_argument("--transform", default="train_complex_512")
    parser.add_argument("--size", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--stored_size", type=int, default=512, help="of the slices, in pixels")
    parser.add_argument("--slices", type=int, default=8192)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--amp", choices=("bf16", "fp16", "none"), default="bf16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cudnn_benchmark", type=int, choices=(0, 1), default=0)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    if arguments.slices < (arguments.warmup + 1) * arguments.batch_size:
        parser.error("--slices must be more than the batches of the warm-up hold")
    torch.backends.cudnn.benchmark = bool(arguments.cudnn_benchmark)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        figures = Benchmark(arguments, Path(folder)).run()
    for name, value in figures.items():
        print(f"{name:<30}{'not measured' if value is None else value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    run_script(main)
