"""Networks, data and clocks of benchmarks/gpu_parts.py: of real size on a GPU, else toys."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.callbacks import Callback
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.distributed import Processes
from common.networks import FitSettings, StepOutput
from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, STORE_FOLDER, SliceTable
from common.transforms.device import DeviceTransform
from rsna_dataset import RSNADataset, find_transform
from rsna_model import RSNAModel
from rsna_network import RSNANetwork
from rsna_task import LABELS

Amp = Literal["bf16", "fp16"] | None
Value = TypeVar("Value")
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
SLICES_PER_SERIES = 32


@dataclass(frozen=True)
class Size:
    """Sizes of the measurements; images and slices in pixels of a side.

    Attributes:
        seconds: how long each rate is measured, after `warmup` steps.
        small: side and batch size where values are compared.
        matrix: rows and columns of the matrices whose product tells the speed of arithmetic.
        steps: of a training whose values are compared.
    """

    model: str = "rsna-seresnext-50.32.4d"
    networks: tuple[str, ...] = (
        "rsna-seresnext-101.32.4d",
        "rsna-efficientnet-b5",
        "rsna-convnext-tiny",
        "rsna-maxvit-tiny.512",
    )
    image: int = 512
    stored: int = 512
    num_slices: int = 8192
    batch_size: int = 64
    seconds: float = 3.0
    warmup: int = 6
    workers: int = min(8, os.cpu_count() or 1)
    small: tuple[int, int] = (256, 32)
    matrix: int = 8192
    steps: int = 20


TOY = Size(
    model="test_efficientnet",
    networks=("test_resnet", "test_convnext"),
    image=32,
    stored=40,
    num_slices=32,
    batch_size=4,
    seconds=0.1,
    warmup=1,
    workers=1,
    small=(32, 4),
    matrix=64,
    steps=3,
)
SIZE = Size() if DEVICE.type == "cuda" else TOY


def wait_for_device() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_gib() -> float | None:
    """Return the most device memory since the last call, None on a CPU."""
    if DEVICE.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def median_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median time of `work` on the device, after a first run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        wait_for_device()
        start = time.perf_counter()
        work()
        wait_for_device()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def fitting(batch_size: int, work: Callable[[int], Value]) -> tuple[int, Value]:
    """Return the first of `batch_size`, its half, ... for which memory suffices, and the result."""
    while True:
        peak_gib()  # from here on
        try:
            return batch_size, work(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        # Outside of the handler, where nothing refers to what the failed work had made.
        gc.collect()
        torch.cuda.empty_cache()
        batch_size //= 2


def make_model(name: str = SIZE.model, seed: int = 0) -> RSNAModel:
    torch.manual_seed(seed)
    return RSNAModel(name, len(LABELS), pretrained=False)


class InMemory:
    """A loader of batches that are on the device already, each in turn; images are noise."""

    def __init__(self, batch_size: int, image: int, num_batches: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches = []
        for _ in range(num_batches):
            images = torch.randn(batch_size, 3, image, image, generator=generator)
            labels = torch.randint(2, (batch_size, len(LABELS)), generator=generator).float()
            images = images.to(DEVICE).contiguous(memory_format=torch.channels_last)
            index = torch.arange(batch_size)
            self.batches.append({"image": images, "labels": labels.to(DEVICE), "index": index})
        self.batch_size = batch_size
        self.sampler = EpochSampler(batch_size * num_batches, seed=0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, _ in enumerate(self.sampler.batch_sizes()):
            yield dict(self.batches[number % len(self.batches)])


class Waited:
    """A loader that adds up how long its batches were waited for."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.seconds = loader, 0.0
        self.batch_size, self.sampler = loader.batch_size, loader.sampler

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


class Clock(Callback):
    """Ends a fit once its steps have been timed long enough.

    Attributes:
        first_seconds: from the beginning to the end of the first step.
    """

    def __init__(self, data: Waited, seconds: float, warmup: int) -> None:
        self.data, self.limit, self.warmup = data, seconds, warmup
        self.num_steps, self.seconds, self.waited, self.first_seconds = 0, 0.0, 0.0, 0.0

    def on_fit_begin(self, network: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, network: Any) -> None:
        self.num_steps += 1
        if self.num_steps == 1:
            wait_for_device()
            self.first_seconds = time.perf_counter() - self._start
        if self.num_steps == self.warmup:
            wait_for_device()
            self._start, self._waited = time.perf_counter(), self.data.seconds
        elif self.num_steps > self.warmup and time.perf_counter() - self._start > self.limit:
            network.end_early()

    def on_fit_end(self, network: Any) -> None:
        wait_for_device()
        if self.num_steps > self.warmup:
            self.seconds = time.perf_counter() - self._start
            self.waited = self.data.seconds - self._waited


class Recorded(RSNANetwork):
    """The network of the task, which keeps the mean losses of its steps."""

    losses: list[Tensor]

    def training_step(self, batch: Any) -> StepOutput:
        step = super().training_step(batch)
        self.losses.append((step.loss_sum / step.num_terms).detach())
        return step


class Fit(NamedTuple):
    """A fit that has ended: images/s and the share of the time that waited for data."""

    rate: float
    waited: float
    clock: Clock
    network: Recorded


def fit(
    data: Any,
    model: RSNAModel | None = None,
    amp: Amp = None,
    steps: int | None = None,
    batch_transform: DeviceTransform | None = None,
    start: Callable[[Recorded], None] = lambda network: None,
    **options: Any,
) -> Fit:
    """Train with the project's loop, for `SIZE.seconds` after the first steps or for `steps`.

    Args:
        start: changes the network before the first step.
        options: of `FitSettings`.
    """
    model = make_model() if model is None else model
    waited = Waited(data)
    clock = Clock(waited, SIZE.seconds, SIZE.warmup if steps is None else steps)
    settings = FitSettings(
        10**9 if steps is None else steps,
        **{"clip_norm": 1.0, "amp_dtype": amp, "channels_last": True, "device": DEVICE, **options},
    )
    # After the model is where it is trained.
    model.to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    network = Recorded(
        model, settings, optimizer=optimizer, callbacks=[clock], batch_transform=batch_transform
    )
    network.losses = []
    start(network)
    network.fit(waited)  # type: ignore[arg-type]
    num_images = data.batch_size * (clock.num_steps - clock.warmup)
    seconds = clock.seconds or float("inf")
    return Fit(num_images / seconds, clock.waited / seconds, clock, network)


class OneOfMany(Processes):
    """A single process that exchanges with itself as several do."""

    @property
    def are_many(self) -> bool:
        return True


def write_slices(folder: Path) -> SliceTable:
    """Write ellipses with the noise of CT; each stored series serves several made-up ones."""
    size, num_slices = SIZE.stored, SIZE.num_slices
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
    frame = frame.astype(SLICE_COLUMNS)
    for label in LABELS:
        frame[label] = rng.integers(0, 2, num_slices).astype(np.float32)
    return SliceTable(frame, folder)


class Loading:
    """The slices in a folder, the loaders of them, and what makes images of their batches.

    Attributes:
        batch_transform: the device side of the transform.
    """

    def __init__(self, folder: Path, transform: str = "train_complex_512") -> None:
        model = make_model()
        made = find_transform("data_train_transform", transform, SIZE.image, model.mean, model.std)
        self.data = RSNADataset(write_slices(folder), np.arange(SIZE.num_slices), made, seed=1)
        self.data.host_transform = made.host_part()
        self.batch_transform = made.device_part(channels_last=True)

    def loader(self, batch_size: int, pin_memory: bool = DEVICE.type == "cuda") -> Any:
        sampler = EpochSampler(len(self.data), seed=1)
        return make_loader(self.data, batch_size, SIZE.workers, sampler, pin_memory)
