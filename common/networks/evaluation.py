"""EvaluatedNetwork: validation and prediction, the same in training and without it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.networks.batches import is_shared, joined, to_device, to_numpy
from common.networks.hooks import Callback
from common.networks.signals import StopAsked, StopRequest
from common.networks.state import FitSettings, FitState, StepOutput

_ADVICE = "lower the learning rate, or train without mixed precision"


class EvaluatedNetwork(ABC):
    """A model on its device, and the loop that runs it over data without training.

    It never looks inside a batch: a subclass defines what a batch means.

    Args:
        model: the module; moved to the device of the settings.
    """

    def __init__(
        self, model: nn.Module, settings: FitSettings, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.settings = settings
        self.device = settings.device
        self.processes = settings.processes
        self.model = model.to(self.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.callbacks = list(callbacks)
        self.state = FitState()
        self._stop_request = StopRequest()
        self._module: Any = torch.compile(self.model) if settings.compile else self.model
        self._training_module: Any = None

    @abstractmethod
    def validation_step(self, batch: Any) -> StepOutput:
        """Return the loss and the outputs of one batch."""

    @abstractmethod
    def prediction_step(self, batch: Any) -> dict[str, Tensor]:
        """Return the outputs of one batch, by name."""

    def compute_metrics(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Return metrics of a whole validation from its outputs, by name."""
        return {}

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        if torch.is_grad_enabled() and self._training_module is not None:
            return self._training_module(*inputs, **named_inputs)
        return self._module(*inputs, **named_inputs)

    def validate(self, data: DataLoader) -> dict[str, float | None]:
        """Return metrics of the weights in place over all of `data`, with the loss.

        Raises:
            FloatingPointError: the loss or a logit is not finite, or a metric is NaN.
        """
        loss_sum, num_terms = 0.0, 0.0
        parts: list[dict[str, np.ndarray]] = []
        steps = self._evaluate(data, self.validation_step)
        # Shown on a terminal alone: a file has a line for each validation.
        is_hidden = None if self.processes.is_main else True
        title = "validation"
        for step in tqdm(steps, title, len(data), leave=False, unit="batch", disable=is_hidden):
            loss_sum += float(step.loss_sum)
            num_terms += float(step.num_terms)
            parts.append(to_numpy(step.outputs))
        outputs = self._of_all_processes(parts, data)
        if is_shared(data):
            loss_sum, num_terms = self.processes.total([loss_sum, num_terms])
        what = f"of the validation at iteration {self.state.iteration}"
        if not np.isfinite(loss_sum):
            raise FloatingPointError(f"the loss {what} is not finite: {_ADVICE}")
        _require_finite_logits(outputs, what)
        loss = loss_sum / num_terms if num_terms else None
        metrics = {"loss": loss} | self.compute_metrics(outputs)
        self._call("on_outputs", outputs, metrics)
        undefined = [
            name for name, value in metrics.items() if value is not None and value != value
        ]
        if undefined:
            raise FloatingPointError(f"{', '.join(undefined)} {what}: NaN, which is no score")
        return metrics

    def predict(self, data: DataLoader) -> dict[str, np.ndarray]:
        """Return outputs of the weights in place for all of `data`, by name, in its order.

        Raises:
            FloatingPointError: a logit is not finite.
        """
        parts = [to_numpy(outputs) for outputs in self._evaluate(data, self.prediction_step)]
        outputs = self._of_all_processes(parts, data)
        _require_finite_logits(outputs, f"of the weights of iteration {self.state.iteration}")
        return outputs

    def run_forward(self, data: Iterable[Any]) -> None:
        compiled, self._module = self._module, self.model  # not worth compiling anew for
        try:
            for _ in self._outputs(data, self.prediction_step):
                pass
        finally:
            self._module = compiled

    def _of_all_processes(
        self, parts: Sequence[dict[str, np.ndarray]], data: DataLoader
    ) -> dict[str, np.ndarray]:
        """Return the joined outputs of all processes, which had consecutive parts of the data."""
        own = joined(parts)
        return joined(self.processes.gathered(own)) if is_shared(data) else own

    def _evaluate(self, data: DataLoader, step: Callable[[Any], Any]) -> Iterator[Any]:
        self.model.eval()
        yield from self._outputs(data, step)
        if is_shared(data):
            # A process with a smaller part stays in step with the others.
            for _ in range(data.sampler.num_batches_less(data.batch_size)):  # type: ignore[attr-defined]
                self._check_stop()

    def _outputs(self, data: Iterable[Any], step: Callable[[Any], Any]) -> Iterator[Any]:
        with torch.inference_mode():
            for batch in data:
                with self._autocast():
                    output = step(self.to_device(batch))
                yield output
                self._check_stop()

    def _check_stop(self) -> None:
        """Stop all processes at the same place once one of them has been asked to."""
        number = int(self.processes.largest(self._stop_request.signal_number or 0))
        if number:
            raise StopAsked(number)

    def to_device(self, batch: Any) -> Any:
        """Return a batch on the device, 4-D tensors in the memory format of the model."""
        return to_device(batch, self.device, self.settings.channels_last)

    def _autocast(self) -> torch.autocast:
        dtype = self.settings.autocast_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)


def _require_finite_logits(outputs: Mapping[str, np.ndarray], what: str) -> None:
    """Raise FloatingPointError where outputs named `logits` are NaN or infinite.

    The loss may be finite all the same, as rows without a known label don't count in it.
    """
    logits = outputs.get("logits")
    if logits is None or np.isfinite(logits).all():
        return
    bad = ~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    raise FloatingPointError(
        f"the network predicted NaN or infinity for {int(bad.sum())} of {len(bad)} samples, in the "
        f"logits {what}: {_ADVICE}"
    )
