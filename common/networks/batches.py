"""Batches on their way into a network, and its outputs on their way to the metrics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.datasets.samplers import EpochSampler, PartSampler
from common.distributed import Processes
from common.errors import InputError
from common.networks.state import FitState
from common.words import count


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of this process, and the place in the epoch that it has with those of the others.

    Attributes:
        num_samples: samples in the batches of all processes.
        is_stand_in: True where this process got no sample of its own and only takes part in the
            exchange.
    """

    content: Any
    num_samples: int
    is_stand_in: bool
    ends_epoch: bool


def training_batches(
    train_data: DataLoader, state: FitState, processes: Processes
) -> Iterator[TrainingBatch]:
    """Yield the batches of this process, epoch after epoch, for ever, from where `state` stands.

    Raises:
        TypeError: the loader has no batch size or no `EpochSampler`.
        InputError: `state` is of a training on another number of samples.
    """
    sampler, batch_size = train_data.sampler, train_data.batch_size
    if not isinstance(sampler, EpochSampler) or batch_size is None:
        raise TypeError("fit needs a loader with a batch size and an EpochSampler")
    if state.num_samples not in (0, sampler.num_samples):
        raise InputError(
            f"{count(sampler.num_samples, 'training sample')}, but the checkpoint is of a training "
            f"on {state.num_samples}: go on with the same dataset and --dev_ flags, or start a new "
            f"experiment"
        )
    state.num_samples = sampler.num_samples
    sampler.share(batch_size, processes.rank, processes.num)
    while True:
        sampler.start(state.epoch, state.position)
        num_left = sampler.num_samples - state.position
        for content, (num_samples, num_own) in zip(train_data, sampler.batch_sizes(), strict=True):
            num_left -= num_samples
            yield TrainingBatch(content, num_samples, num_own == 0, num_left == 0)


def is_shared(data: Any) -> bool:
    """Return whether each process evaluates a part of `data`, not all of it."""
    return isinstance(getattr(data, "sampler", None), PartSampler)


def to_numpy(outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return outputs on the host; 16-bit floats of mixed precision become float32."""
    return {
        name: (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value)
        .cpu()
        .numpy()
        for name, value in outputs.items()
    }


def joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the outputs of several batches, joined by name; empty parts are skipped."""
    parts = [part for part in parts if part]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prefixed(label: str, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return metrics under the names `<label>_<name>`."""
    return {f"{label}_{name}": value for name, value in metrics.items()}


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Return a batch with its tensors on a device, 4-D ones channels-last where asked for."""
    if isinstance(batch, Tensor):
        batch = batch.to(device, non_blocking=True)
        if channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device, channels_last) for value in batch)
    return batch
