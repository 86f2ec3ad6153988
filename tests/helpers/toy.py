"""A small regression task for the fit loop: nothing in it knows of images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.callbacks import Callback
from common.datasets.base import AbstractDataset
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.networks import AbstractNetwork, FitSettings, StepOutput


class ToyDataset(AbstractDataset):
    """Vectors with noise drawn from the seed of the sample, and their sum as the target."""

    def __init__(self, num_samples: int, dtype: torch.dtype = torch.float64, noise: float = 0.1):
        super().__init__(seed=7)
        rng = np.random.default_rng(1)
        self.inputs = torch.as_tensor(rng.normal(size=(num_samples, 5)), dtype=dtype)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.inputs)

    def sample_id(self, index: int) -> str:
        return f"sample{index}"

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed).normal(size=5) * self.noise
        values = self.inputs[index] + torch.as_tensor(noise, dtype=self.inputs.dtype)
        return {"x": values, "y": self.inputs[index].sum(), "index": index}


class ToyNetwork(AbstractNetwork):
    """Squared error of a linear model or of whatever is given."""

    def training_step(self, batch: Any) -> StepOutput:
        error = (self.forward(batch["x"]).squeeze(-1) - batch["y"]) ** 2
        return StepOutput(error.sum(), len(error), {"index": batch["index"]})

    validation_step = training_step

    def prediction_step(self, batch: Any) -> dict[str, Tensor]:
        return {"prediction": self.forward(batch["x"]).squeeze(-1)}

    def batch_ids(self, batch: Any) -> list[str]:
        return [f"sample{index}" for index in batch["index"].tolist()]


def make_toy(
    settings: FitSettings,
    dtype: torch.dtype = torch.float64,
    model: nn.Module | None = None,
    callbacks: tuple[Callback, ...] = (),
    optimizer: Any = None,
) -> ToyNetwork:
    torch.manual_seed(3)
    model = model or nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    model = model.to(dtype)
    optimizer = optimizer or (lambda p: torch.optim.SGD(p, 0.01, momentum=0.9))
    return ToyNetwork(model, settings, optimizer(model.parameters()), callbacks=callbacks)


def toy_loader(dataset: ToyDataset, batch_size: int, num_workers: int = 0):
    return make_loader(dataset, batch_size, num_workers, EpochSampler(len(dataset), seed=5))


def weights_of(network: AbstractNetwork) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.model.parameters()])


def _flat(value, prefix=""):
    if isinstance(value, dict):
        return {k: v for name in value for k, v in _flat(value[name], f"{prefix}.{name}").items()}
    if isinstance(value, list | tuple):
        return _flat(dict(enumerate(value)), prefix)
    return {prefix: value}


def assert_same_state(one, other):
    one, other = _flat(one), _flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        elif "samples_per_second" not in name and "data_wait" not in name:
            assert value == other[name], name
