"""AbstractNetwork: the one fit loop, and the validation and prediction that go with it."""

import contextlib
import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from common.distributed import failing_together, wait_for_failure
from common.errors import InputError, Interrupted
from common.networks.batches import (
    TrainingBatch,
    is_shared,
    joined,
    prefixed,
    to_numpy,
    training_batches,
)
from common.networks.hooks import Callback, WeightAverager
from common.networks.signals import StopAsked, StopRequest
from common.networks.state import FitSettings, FitState, StepOutput
from common.seeding import rng_state, set_rng_state

logger = logging.getLogger(__name__)


class AbstractNetwork(ABC):
    """A model with its optimizer, and the loop that fits it.

    A subclass says what a batch means: `training_step`, `validation_step`, `prediction_step`,
    `compute_metrics` and `batch_ids`. This class never looks inside a batch. Steps call
    `self.forward`, not the model: it may be compiled, or shared with other processes.

    Hooks of callbacks, in the order they run. Callbacks run in the order of their list: averages
    first, then monitors, checkpoints last.

    | hook | when |
    |---|---|
    | on_fit_begin | once, before the first step; a checkpoint has been loaded by then |
    | on_step_begin | before the first batch of an iteration |
    | on_step_end | after each optimizer step: averages are updated |
    | on_validation_begin | before a validation or prediction; an average is in place by then |
    | on_outputs | with the outputs and the metrics of a validation: metrics are added |
    | on_validation_end | after it, also after an error, before the weights come back |
    | on_subset_metrics | after a validation of the subset: they are recorded, and decide nothing |
    | on_metrics | after a validation of the whole: they are recorded; the best are kept |
    | on_iteration_end | after a step and the validation that may follow: log, save |
    | on_stop | a signal asked to stop: save |
    | on_fit_end | once, after the last iteration |
    | close | always, also after an error |

    Args:
        model: the module; moved to the device of the settings.
        settings: how `fit` runs.
        optimizer: its optimizer; needed to fit, not to predict.
        scheduler: learning-rate schedule, stepped once an iteration.
        callbacks: what averages, watches and saves.

    Attributes:
        step_values: loss, norm and speed of the last step, by name.
        gauges: what callbacks have seen in it and want in the record; the record takes them.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.settings = settings
        self.device = settings.device
        self.processes = settings.processes
        self.model = model.to(self.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.callbacks = list(callbacks)
        self.state = FitState()
        self.step_values: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self._ends_early = False
        self._stop_request = StopRequest()
        self._module: Any = torch.compile(self.model) if settings.compile else self.model
        self._training_module: Any = None
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp_dtype == "fp16")

    # What a subclass says

    @abstractmethod
    def training_step(self, batch: Any) -> StepOutput:
        """The loss of one batch."""

    @abstractmethod
    def validation_step(self, batch: Any) -> StepOutput:
        """The loss and the outputs of one batch."""

    @abstractmethod
    def prediction_step(self, batch: Any) -> dict[str, Tensor]:
        """The outputs of one batch, by name."""

    def compute_metrics(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Metrics of a whole validation from its outputs, by name."""
        return {}

    def batch_ids(self, batch: Any) -> list[str]:
        """Names of the samples in a batch, for messages."""
        return []

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """What the model makes of a batch."""
        if torch.is_grad_enabled() and self._training_module is not None:
            return self._training_module(*inputs, **named_inputs)
        return self._module(*inputs, **named_inputs)

    # Training

    def fit(
        self,
        train_data: DataLoader,
        valid_data: DataLoader | None = None,
        subset_data: DataLoader | None = None,
    ) -> None:
        """Trains until `settings.iteration_num`, from where `self.state` stands.

        Args:
            train_data: loader whose sampler is an `EpochSampler`.
            valid_data: loader of the samples to validate on.
            subset_data: loader of some of them, for the validations between those of the whole.

        Raises:
            Interrupted: SIGINT or SIGTERM came, or a callback asked; everything is saved.
            PeerFailure: another process of the training failed.
            FloatingPointError: a loss or gradient is not finite; the message names the iteration,
                and the samples where one is.
            InputError: a checkpoint of a training on other data was loaded.
        """
        with self._stop_request.listening(), failing_together():
            try:
                self._training_module = self._shared_module()
                self._call("on_fit_begin")
                self._validate_if_due(valid_data, subset_data)
                batches = training_batches(train_data, self.state, self.processes)
                while not self.is_done:
                    self._train_iteration(batches)
                    self._validate_if_due(valid_data, subset_data)
                    self._call("on_iteration_end")
                    self._check_stop()
                self._call("on_fit_end")
            except StopAsked as stop:
                self._call("on_stop")
                raise Interrupted(stop.signal_number) from None
            finally:
                self._call("close")

    def _shared_module(self) -> Any:
        """The module that training calls: gradients are averaged over the processes."""
        if not self.processes.are_many:
            return self._module
        # Statistics of batches are averaged after each step instead, so that all are alike then.
        # The option has another name since torch 2.12.
        known = inspect.signature(DistributedDataParallel).parameters
        name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        options: dict[str, Any] = {name: False}
        shared = DistributedDataParallel(self.model, **options)
        return torch.compile(shared) if self.settings.compile else shared

    @property
    def is_done(self) -> bool:
        """Whether the last iteration has been trained, or a callback has ended the training."""
        return self._ends_early or self.state.iteration >= self.settings.iteration_num

    def end_early(self) -> None:
        """For callbacks: this iteration is the last; the training counts as done."""
        self._ends_early = True

    def ask_to_stop(self) -> None:
        """For callbacks: stops after this iteration as SIGTERM does: another run goes on."""
        self._stop_request.ask()

    def _train_iteration(self, batches: Iterator[TrainingBatch]) -> None:
        """One optimizer step over up to `accumulation_step` batches of one epoch."""
        assert self.optimizer is not None
        started, waited, num_samples = time.perf_counter(), 0.0, 0
        steps: list[StepOutput] = []
        ids: list[list[str]] = []
        self._call("on_step_begin")
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(1, self.settings.accumulation_step + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            is_last = batch.ends_epoch or number == self.settings.accumulation_step
            with self._gradients_kept_back(not is_last):
                steps.append(self._backward(batch))
            ids.append(self.batch_ids(batch.content))
            self.state.count_batch(batch.num_samples, batch.ends_epoch)
            num_samples += batch.num_samples
            if is_last:
                break
        loss_sum, num_terms = self._total(steps, ids)
        learning_rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        norm = self._step(num_terms, ids)
        seconds = time.perf_counter() - started
        self.step_values = {
            "loss": loss_sum / max(num_terms, 1e-12),
            "learning_rate": learning_rate,
            "gradient_norm": norm,
            "samples_per_second": num_samples / seconds,
            "data_wait_share": waited / seconds,
        }
        self.state.iteration += 1
        self._call("on_step_end")

    def _backward(self, batch: TrainingBatch) -> StepOutput:
        """Adds the gradients of one batch; returns its loss, without outputs."""
        with self._autocast():
            step = self.training_step(self.to_device(batch.content))
        if batch.is_stand_in:
            step = StepOutput(step.loss_sum * 0, 0.0, {})
        self._scaler.scale(step.loss_sum).backward()
        return StepOutput(step.loss_sum.detach(), step.num_terms, {})

    def _total(self, steps: list[StepOutput], ids: list[list[str]]) -> tuple[float, float]:
        """The loss and the number of terms of all batches of all processes."""
        losses = torch.stack([step.loss_sum for step in steps])
        finite = torch.isfinite(losses).tolist()
        num_terms = sum(float(step.num_terms) for step in steps)
        # In float64 whatever the type of the loss, one batch after the other.
        values = [sum(losses.double().tolist()), num_terms, float(not all(finite))]
        loss_sum, num_terms, num_failing = self.processes.total(values)
        self._refuse_non_finite("loss", finite, ids)
        if num_failing:
            wait_for_failure()
        return loss_sum, num_terms

    def _gradients_kept_back(self, is_wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Inside the block gradients stay in this process, to be averaged with later ones."""
        if is_wanted and self.processes.are_many:
            return self._training_module.no_sync()
        return contextlib.nullcontext()

    def _step(self, num_terms: float, ids: list[list[str]]) -> float:
        """Turns summed gradients into means, clips them and steps; returns their norm.

        A group without any term (all labels unknown) has a zero gradient and changes nothing but
        what weight decay and momentum do.
        """
        assert self.optimizer is not None
        self._scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # The average over the processes becomes the sum over them, then the mean over all terms.
        torch._foreach_div_(gradients, max(num_terms, 1e-12) / self.processes.num)
        if self.settings.clip_norm:
            norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        else:
            norm = nn.utils.get_total_norm(gradients)
        if not self._scaler.is_enabled():  # it skips such steps itself
            self._refuse_non_finite("gradient", [bool(norm.isfinite())] * len(ids), ids)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        self.processes.average([b for b in self.model.buffers() if b.is_floating_point()])
        return float(norm)

    def _refuse_non_finite(self, what: str, finite: list[bool], ids: list[list[str]]) -> None:
        if all(finite):
            return
        bad = [name for names, is_ok in zip(ids, finite) if not is_ok for name in names]
        raise FloatingPointError(
            f"the {what} is not finite at iteration {self.state.iteration + 1}, in a batch of "
            f"{', '.join(bad) or 'unnamed samples'}: look at these images, lower the learning "
            f"rate, or train without mixed precision"
        )

    # Validation and prediction

    def _validate_if_due(
        self, valid_data: DataLoader | None, subset_data: DataLoader | None
    ) -> None:
        """Validates where the settings say so, on the subset or on the whole, once an iteration."""
        state = self.state
        kind = self.settings.validation_at(state.iteration)
        data = subset_data if kind == "subset" else valid_data
        if data is None or kind is None or state.validated == state.iteration:
            return
        metrics = self._validate_all_weights(data)
        state.validated = state.iteration
        self._call("on_metrics" if kind == "whole" else "on_subset_metrics", metrics)

    def _validate_all_weights(self, data: DataLoader) -> dict[str, float | None]:
        """Metrics of the weights that are predicted with; of the others as `raw_<name>` and such.

        The weights that are predicted with come last, so that what callbacks see last is of them.
        """
        others: dict[str, float | None] = {}
        averages = self.averages
        if averages and self.settings.validate_raw:
            others |= prefixed("raw", self.validate(data))
        for average in averages[1:]:
            with average.in_place(self):
                others |= prefixed(average.label, self.validate(data))
        with self.averaged():
            return self.validate(data) | others

    @property
    def averages(self) -> list[WeightAverager]:
        """Averages that have begun; the first one is what is predicted with."""
        return [
            callback
            for callback in self.callbacks
            if isinstance(callback, WeightAverager) and callback.num_updates
        ]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block, the weights to predict with (an average if there is one) are in place.

        `weights_name` says which they are.
        """
        averages = self.averages
        with averages[0].in_place(self) if averages else contextlib.nullcontext():
            try:
                self._call("on_validation_begin")
                yield
            finally:
                self._call("on_validation_end")

    @property
    def weights_name(self) -> str:
        """The weights that are predicted with: `raw`, or the label of an average."""
        return next((average.label for average in self.averages), "raw")

    def validate(self, data: DataLoader) -> dict[str, float | None]:
        """Metrics of the weights in place, computed once over all of `data`, with the loss."""
        loss_sum, num_terms = 0.0, 0.0
        parts: list[dict[str, np.ndarray]] = []
        for step in self._evaluate(data, self.validation_step):
            loss_sum += float(step.loss_sum)
            num_terms += float(step.num_terms)
            parts.append(to_numpy(step.outputs))
        outputs = self._of_all_processes(parts, data)
        if is_shared(data):
            loss_sum, num_terms = self.processes.total([loss_sum, num_terms])
        if not np.isfinite(loss_sum):
            raise FloatingPointError(
                f"the loss of the validation at iteration {self.state.iteration} is not finite: "
                f"lower the learning rate, or train without mixed precision"
            )
        loss = loss_sum / num_terms if num_terms else None
        metrics = {"loss": loss} | self.compute_metrics(outputs)
        self._call("on_outputs", outputs, metrics)
        return metrics

    def predict(self, data: DataLoader) -> dict[str, np.ndarray]:
        """Outputs of the weights in place for all of `data`, by name, in its order."""
        parts = [to_numpy(outputs) for outputs in self._evaluate(data, self.prediction_step)]
        return self._of_all_processes(parts, data)

    def _of_all_processes(
        self, parts: Sequence[dict[str, np.ndarray]], data: DataLoader
    ) -> dict[str, np.ndarray]:
        """The joined outputs of all processes, which had consecutive parts of the data."""
        own = joined(parts)
        return joined(self.processes.gathered(own)) if is_shared(data) else own

    def run_forward(self, data: Iterable[Any]) -> None:
        """Runs all of `data` through the model as its modules are now, for what they gather."""
        compiled, self._module = self._module, self.model  # not worth compiling anew for
        try:
            for _ in self._outputs(data, self.prediction_step):
                pass
        finally:
            self._module = compiled

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
        """Stops all processes at the same place once one of them has been asked to."""
        number = int(self.processes.largest(self._stop_request.signal_number or 0))
        if number:
            raise StopAsked(number)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that `fit` needs to go on as if it had never stopped; tensors and plain types.

        All processes call it together.
        """
        assert self.optimizer is not None
        return {
            "model": self.model.state_dict(),
            "iteration": self.state.iteration,
            "micro_step": self.state.micro_step,
            "validated": self.state.validated,
            "sampler": {
                "epoch": self.state.epoch,
                "position": self.state.position,
                "num_samples": self.state.num_samples,
            },
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scaler": self._scaler.state_dict(),
            "averages": self._callback_states(of_averages=True),
            "callbacks": self._callback_states(of_averages=False),
            "rng": self.processes.gathered(rng_state()),
            "numerics": self.settings.numerics(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        assert self.optimizer is not None
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise InputError(f"the checkpoint lacks {', '.join(sorted(missing))}: restore it")
        self.model.load_state_dict(state["model"])
        self.state = FitState(
            iteration=state["iteration"],
            micro_step=state["micro_step"],
            validated=state["validated"],
            **state["sampler"],
        )
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        recorded = state["averages"] | state["callbacks"]
        for callback in self.callbacks:
            if callback.name in recorded:
                callback.load_state_dict(recorded[callback.name])
        if self.processes.rank < len(state["rng"]):
            set_rng_state(state["rng"][self.processes.rank])
        for name, now in self.settings.numerics().items():
            before = state["numerics"].get(name)
            if before != now:
                logger.warning(
                    "%s was %s and is now %s: the last bits of the results will differ",
                    name,
                    before,
                    now,
                )

    def _callback_states(self, of_averages: bool) -> dict[str, Any]:
        return {
            callback.name: callback.state_dict()
            for callback in self.callbacks
            if callback.is_average == of_averages
        }

    # Small things

    def to_device(self, batch: Any) -> Any:
        """`batch` with its tensors on the device, 4-D ones in the memory format of the model."""
        if isinstance(batch, Tensor):
            batch = batch.to(self.device, non_blocking=True)
            if self.settings.channels_last and batch.ndim == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            return batch
        if isinstance(batch, Mapping):
            return {key: self.to_device(value) for key, value in batch.items()}
        if isinstance(batch, list | tuple):
            return type(batch)(self.to_device(value) for value in batch)
        return batch

    def _autocast(self) -> torch.autocast:
        dtype = self.settings.autocast_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)
