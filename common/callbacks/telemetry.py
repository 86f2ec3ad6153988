"""Statistics of the activations of one module."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.errors import InputError
from common.networks.hooks import Callback, FittedNetwork

# A unit whose activations all stay below this is dead.
DEAD_BELOW = 1e-6
_NUM_NAMES = 5


class ActivationTelemetry(Callback):
    """Records mean, spread and the share of dead units of a module's training activations.

    The names are `activation_mean`, `activation_std` and `activation_dead_share`. A unit is a
    channel: dimension 1 of images (batch, channels, ...), the last one of (batch, units) and
    (batch, tokens, units). It is dead if no activation of the iteration reaches 1e-6 in size.

    The module is hooked in the iterations that are recorded only; looking changes no weight, no
    gradient and no random draw.

    Args:
        module_name: its name, as in `model.named_modules()`.

    Raises:
        InputError: the model has no such module; the message names some that are spelt alike.
    """

    def __init__(self, model: nn.Module, module_name: str, every: int) -> None:
        self.module = find_module(model, module_name)
        self.every = every
        self._handle: RemovableHandle | None = None
        self._statistics = _Statistics()

    def on_step_begin(self, network: FittedNetwork) -> None:
        self._unhook()  # of a step that was skipped
        if (network.state.iteration + 1) % self.every == 0:
            self._statistics = _Statistics()
            self._handle = self.module.register_forward_hook(self._look)

    def on_step_end(self, network: FittedNetwork) -> None:
        if self._handle is not None:
            self._unhook()
            network.gauges.update(self._statistics.values())

    def close(self, network: FittedNetwork) -> None:
        self._unhook()

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, list | tuple) and output else output
        if isinstance(first, Tensor):
            self._statistics.add(first.detach())


class _Statistics:
    """Mean and spread over the batches of an iteration, on the device they are on.

    Squares are of deviations from the mean (Chan et al. 1979): those of the values themselves lose
    a spread that is small beside the mean.
    """

    def __init__(self) -> None:
        self.num_values = 0
        self.mean: Tensor | float = 0.0
        self.sum_of_squares: Tensor | float = 0.0
        self.largest: Tensor | None = None

    def add(self, activations: Tensor) -> None:
        values = activations.double() if activations.device.type == "cpu" else activations.float()
        mean, share = values.mean(), values.numel() / (self.num_values + values.numel())
        between = (mean - self.mean).square() * self.num_values * share
        self.sum_of_squares = self.sum_of_squares + (values - mean).square().sum() + between
        self.mean = self.mean + (mean - self.mean) * share
        self.num_values += values.numel()
        unit_dim = 1 if values.ndim >= 4 else values.ndim - 1
        largest = values.abs().amax([dim for dim in range(values.ndim) if dim != unit_dim])
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def values(self) -> dict[str, float]:
        """Return the statistics by name; empty if the module did not run or returned no tensor."""
        if not self.num_values or self.largest is None:
            return {}
        return {
            "activation_mean": float(self.mean),
            "activation_std": (float(self.sum_of_squares) / self.num_values) ** 0.5,
            "activation_dead_share": float((self.largest < DEAD_BELOW).double().mean()),
        }


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of `model` called `name`; InputError with names spelt alike, or first."""
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    known, last = [each for each in modules if each], name.split(".")[-1]
    ends = [other for other in known if last and other.split(".")[-1] == last]
    alike = difflib.get_close_matches(name, known, _NUM_NAMES, cutoff=0.5)
    near = list(dict.fromkeys([*alike, *ends, *known]))[:_NUM_NAMES]
    raise InputError(
        f"--cb_telemetry_module_name {name}: the network has no such module; "
        f"near are {', '.join(near)}"
    )
