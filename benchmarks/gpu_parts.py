"""The parts of benchmarks/gpu.py: each yields names and values of what it measured, as it goes."""

import copy
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_fits import (
    DEVICE,
    SIZE,
    Amp,
    InMemory,
    Loading,
    OneOfMany,
    Recorded,
    fit,
    fitting,
    make_model,
    median_seconds,
    peak_gib,
    wait_for_device,
    write_slices,
)
from common.datasets.batch_memory import KeptMemory
from common.distributed import connected
from common.precision import require_compiler, set_precision
from common.transforms import SampleTransform, catalog, load_transform

EPOCH_SLICES = 674_258
TRANSFORMS = Path(__file__).resolve().parents[1] / "transforms"
# Their draws differ between a CPU and a GPU, or their values are those of others.
DRAWN_ON_DEVICE = ("CoarseDropout", "GaussNoise", "DoseNoise", catalog.NORMALIZE)
SPACING_MM = (0.5, 0.5, 5.0)
IS_CUDA = DEVICE.type == "cuda"
Figures = Iterator[tuple[str, Any]]


def transforms() -> Figures:
    """Compare images of each shipped pipeline: the device's with torch's and with OpenCV's.

    Of images in [0, 1]: the largest difference to torch on the CPU, and the least PSNR to the
    transforms on the CPU, in dB. Noise and holes are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = write_slices(Path(folder))
        images_hu = [table.image_hu(row) for row in (0, 11)]
        found = []
        for path in sorted(TRANSFORMS.glob("*.json")):
            found.append(_difference(load_transform(path).with_size(SIZE.image), images_hu))
            yield path.stem, found[-1]
        yield "largest_difference", max(one["largest_difference"] for one in found)
        yield "least_psnr_db", min(one["least_psnr_db"] for one in found)
        loading = Loading(Path(folder) / "batch")
        batch = next(iter(loading.loader(SIZE.batch_size)))
        images = batch["image"].to(DEVICE)
        seconds = median_seconds(lambda: loading.batch_transform(images, batch["draws"]))
        yield "ms_per_image", 1000 * seconds / len(images)


def _difference(transform: SampleTransform, images_hu: list[np.ndarray]) -> dict[str, float]:
    nodes = transform.pipeline.nodes
    document = [node for node in nodes if catalog.name_of(node) not in DRAWN_ON_DEVICE]
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": document}
    same = SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, "shipped")
    host, device = same.host_part(), same.device_part()
    largest, least_psnr = 0.0, math.inf
    for seed, image_hu in enumerate(images_hu):
        image, row = host(image_hu[None], seed, None, SPACING_MM)
        batch = torch.from_numpy(np.ascontiguousarray(image))[None]
        on_device = device(batch.to(DEVICE), row[None])[0].cpu().double()
        on_host = torch.from_numpy(same(image_hu[..., None], seed, None, SPACING_MM)).double()
        in_torch = device(batch, row[None])[0].double()
        largest = max(largest, float((on_device - in_torch).abs().max()))
        error = float((on_device - on_host).square().mean())
        least_psnr = min(least_psnr, -10 * math.log10(error + 1e-15))
    return {"largest_difference": largest, "least_psnr_db": least_psnr}


def memory() -> Figures:
    """Count the wrong slices after loading through kept and pinned memory, with late copies."""
    ways = {
        "kept, pinned": (True, IS_CUDA),
        "kept": (True, False),
        "torch's, pinned": (False, IS_CUDA),
    }
    with tempfile.TemporaryDirectory() as folder:
        loading = Loading(Path(folder))
        rows = range(min(len(loading.data), 32 * SIZE.batch_size))
        loading.data = loading.data.with_rows(np.arange(len(rows)))
        loading.data.host_transform = loading.data.transform.host_part()
        expected = np.array([loading.data.slices_hu(row)[0].sum(dtype=np.int64) for row in rows])
        for name, (is_kept, is_pinned) in ways.items():
            own = mock.Mock(side_effect=KeptMemory.for_workers if is_kept else None)
            own.return_value = None
            with mock.patch.object(KeptMemory, "for_workers", own):
                loader = loading.loader(SIZE.batch_size, is_pinned)
            seconds = _loaded_sums(loader, are_late=False)[0]
            sums = _loaded_sums(loader, are_late=True)[1]
            rate = (len(rows) - SIZE.batch_size) / seconds
            wrong = int((sums != expected).sum())
            yield name, {"images_per_second": rate, "wrong_slices": wrong}
    pageable = torch.ones(2**28 if IS_CUDA else 2**20, dtype=torch.uint8)
    pinned = pageable.pin_memory() if IS_CUDA else pageable
    for name, tensor in (("pinned", pinned), ("pageable", pageable)):
        seconds = median_seconds(partial(torch.clone, tensor) if not IS_CUDA else tensor.cuda)
        yield f"{name}_gb_per_second", tensor.nbytes / seconds / 1e9


def _loaded_sums(loader: Any, are_late: bool) -> tuple[float, np.ndarray]:
    """Return the seconds after the first batch of an epoch, and the sums of its slices.

    Late copies wait on the device for other work, while the loader goes on.
    """
    delay = torch.randn(SIZE.matrix, SIZE.matrix, device=DEVICE)
    sums, index = [], []
    start = 0.0
    for batch in loader:
        start = start or time.perf_counter()
        if are_late:
            torch.mm(delay, delay)
        images = batch["image"].to(DEVICE, non_blocking=True)
        sums.append(images.sum((1, 2, 3), dtype=torch.int64))
        index.append(batch["index"])
        del batch
    wait_for_device()
    seconds = time.perf_counter() - start
    order = torch.cat(index).argsort()
    return seconds, torch.cat(sums).cpu()[order].numpy()


def nccl() -> Figures:
    """Train alone and through the exchange of several processes; NCCL on a GPU, else gloo."""
    image, batch_size = SIZE.small
    data = InMemory(batch_size, image, 4)
    options: dict[str, Any] = {"steps": SIZE.steps, "accumulation_step": 2}
    alone, again = (fit(data, **options) for _ in range(2))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # there is no network
    with mock.patch.dict(os.environ, environment), connected(OneOfMany(), DEVICE):
        shared = fit(data, processes=OneOfMany(), **options)
        yield "backend", dist.get_backend_config() if IS_CUDA else dist.get_backend()
        gradients = torch.zeros(sum(p.numel() for p in shared.network.model.parameters()))
        gradients = gradients.to(DEVICE)
        yield "all_reduce_ms", 1000 * median_seconds(lambda: dist.all_reduce(gradients))
    yield "difference_of_runs_alone", _weight_difference(alone.network, again.network)
    yield "difference_to_alone", _weight_difference(alone.network, shared.network)


def _weight_difference(one: Recorded, other: Recorded) -> float:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def precision() -> Figures:
    """Train from the same weights on one batch in each precision; compare losses and speed.

    Differences are relative to those of float32, of the first step and after `SIZE.steps`. fp16
    also starts from a scale of the loss that is too large: steps are skipped until it has fallen.
    """
    image, batch_size = SIZE.small
    data = InMemory(batch_size, image)
    kinds: dict[str, Amp] = {"float32": None, "tf32": None, "bf16": "bf16", "fp16": "fp16"}
    losses: dict[str, Tensor] = {}
    for kind, amp in kinds.items():
        if kind in ("tf32", "fp16") and not IS_CUDA:
            continue
        set_precision(DEVICE, tf32=kind != "float32", deterministic=False)
        made = fit(data, amp=amp, steps=SIZE.steps)
        losses[kind] = torch.stack(made.network.losses).double().cpu()
        differences = (losses[kind][[0, -1]] / losses["float32"][[0, -1]] - 1).abs().tolist()
        figures = {"first_loss_difference": differences[0], "last_loss_difference": differences[1]}
        figures |= {"skipped_steps": made.network.state.num_skipped}
        of = fitting(SIZE.batch_size, lambda n: fit(InMemory(n, SIZE.image), amp=amp).rate)  # noqa: B023
        yield kind, {**figures, "batch_size": of[0], "images_per_second": of[1]}
    if IS_CUDA:
        made = fit(data, amp="fp16", steps=SIZE.steps, start=_with_too_large_a_scale)
        are_finite = all(bool(p.isfinite().all()) for p in made.network.model.parameters())
        assert are_finite and made.network.state.iteration == SIZE.steps
        yield "fp16 from a scale of 2^40", {"skipped_steps": made.network.state.num_skipped}


def _with_too_large_a_scale(network: Recorded) -> None:
    state = network.state_dict()
    network.load_state_dict({**state, "scaler": {**state["scaler"], "scale": 2.0**40}})


def graphs() -> Figures:
    """Count the breaks of the graph that torch.compile finds in each network in training."""
    from torch import _dynamo

    for name in (SIZE.model, *SIZE.networks):
        model = make_model(name).to(DEVICE).train()
        images = torch.randn(2, 3, SIZE.image, SIZE.image, device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = _dynamo.explain(model)(images)
        reasons = sorted({str(one.reason).splitlines()[0] for one in found.break_reasons})
        yield name, {"breaks": found.graph_break_count, "reasons": reasons}
        _dynamo.reset()


def train() -> Figures:
    """Train eagerly with the device's transforms, from the loader and on one batch in memory."""
    yield from _rates(compiled=False)
    yield from _bounds()


def compiled() -> Figures:
    """Train as `train` does, by torch.compile."""
    require_compiler(DEVICE)
    yield from _rates(compiled=True)


def _rates(compiled: bool) -> Figures:
    set_precision(DEVICE, tf32=True, deterministic=False, compiled=compiled)
    model = make_model()
    options: dict[str, Any] = {"amp": "bf16", "compile": compiled}
    size, kept = fitting(SIZE.batch_size, lambda n: fit(InMemory(n, SIZE.image), model, **options))
    yield "batch_size", size
    yield "seconds_to_first_step", kept.clock.first_seconds
    yield "images_per_second_in_memory", kept.rate
    yield "peak_gib_in_memory", peak_gib()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        loading = Loading(Path(folder))
        loader, transform = loading.loader(size), loading.batch_transform
        loaded = fit(loader, model, batch_transform=transform, **options)
        yield "images_per_second", loaded.rate
        yield "data_wait_share", loaded.waited
        yield "peak_gib", peak_gib()
        if IS_CUDA:
            yield "epoch_seconds", EPOCH_SLICES / loaded.rate


def _bounds() -> Figures:
    """Measure what the steps could be bound by: arithmetic, launches of kernels, memory."""
    dtype = torch.bfloat16 if IS_CUDA else torch.float32
    one, other = torch.randn(2, SIZE.matrix, SIZE.matrix, device=DEVICE, dtype=dtype)
    seconds = median_seconds(lambda: one @ other)
    peak = 2 * SIZE.matrix**3 / seconds / 1e12
    yield "matrix_tflops", peak
    seconds = median_seconds(lambda: one.clone())
    yield "copy_gb_per_second", 2 * one.nbytes / seconds / 1e9
    model = make_model().to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = model(images).sum()
        loss.backward()
        optimizer.step()

    def measured(batch_size: int) -> tuple[float, Tensor]:
        images = InMemory(batch_size, SIZE.image).batches[0]["image"]
        return median_seconds(lambda: step(images)), images

    size, (seconds, images) = fitting(SIZE.batch_size, measured)
    with FlopCounterMode(display=False) as counter:
        step(images)
    flops = counter.get_total_flops() / size
    yield "gflop_per_image", flops / 1e9
    yield "bare_images_per_second", size / seconds
    yield "share_of_matrix_tflops", flops * size / seconds / 1e12 / peak
    if IS_CUDA:
        yield from _kernels(lambda: step(images))


def _kernels(step: Callable[[], None], num_steps: int = 5) -> Figures:
    """Find the share of time in which the GPU computes, and which operators take it."""
    wait_for_device()
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    wait_for_device()
    seconds = time.perf_counter() - start
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(num_steps):
            step()
        wait_for_device()
    # Operators have the time of the kernels that they launched; the kernels have rows too.
    on_cpu = torch.autograd.DeviceType.CPU
    spent = {
        event.key: event.self_device_time_total
        for event in profile.key_averages()
        if event.device_type == on_cpu and event.self_device_time_total
    }
    total = sum(spent.values())
    yield "busy_share", min(1.0, total / 1e6 / seconds)
    largest = sorted(spent, key=lambda key: -spent[key])[:6]
    yield "operators", {key: spent[key] / total for key in largest}
    products = ("conv", "aten::mm", "addmm", "bmm")
    of_products = sum(spent[key] for key in spent if any(name in key for name in products))
    yield "product_share", of_products / total


def networks() -> Figures:
    """Train and predict eagerly with each network on a batch in memory."""
    set_precision(DEVICE, tf32=True, deterministic=False)
    for name in SIZE.networks:
        try:
            yield name, _train_and_predict(name)
        except Exception as error:  # one network must not cost the figures of the others
            yield name, {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        if IS_CUDA:
            torch.cuda.empty_cache()


def _train_and_predict(name: str) -> dict[str, Any]:
    size = SIZE.batch_size // 2

    def trained(batch_size: int) -> tuple[float, nn.Module]:
        made = fit(InMemory(batch_size, SIZE.image), make_model(name), "bf16")
        return made.rate, made.network.model

    size, (rate, model) = fitting(size, trained)
    figures: dict[str, Any] = {"batch_size": size, "train": rate, "train_peak_gib": peak_gib()}
    model = copy.deepcopy(model).eval()  # without gradients
    images = InMemory(size, SIZE.image).batches[0]["image"]

    @torch.inference_mode()
    def predict() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            model(images)

    return {**figures, "predict": size / median_seconds(predict, 2 * SIZE.steps)}
