"""AbstractNetwork: the one fit loop."""

import contextlib
import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.distributed import failing_together, shared_module
from common.errors import InputError, Interrupted
from common.networks.batches import TrainingBatch, prefixed, training_batches
from common.networks.evaluation import EvaluatedNetwork
from common.networks.hooks import Callback, WeightAverager
from common.networks.signals import StopAsked
from common.networks.state import FitSettings, FitState, StepOutput
from common.networks.unread import UnreadSteps
from common.optim import state_in_groups
from common.seeding import rng_state, set_rng_state

logger = logging.getLogger(__name__)

# Steps that the host prepares before it looks at an older one: with two the device always has work.
STEPS_AHEAD = 2


class AbstractNetwork(EvaluatedNetwork):
    """A model with its optimizer, and the loop that fits it.

    A subclass defines what a batch means: `training_step`, `validation_step`, `prediction_step`,
    `compute_metrics` and `batch_ids`. This class never looks inside a batch. Steps call
    `self.forward`, not the model: it may be compiled, or shared with other processes.

    A GPU is not waited for: whether loss and gradient are finite is read a few steps late, and
    always before a validation, a checkpoint and the end. On a CPU, and with fp16, whose scaler
    waits anyway, it is read before the optimizer step.

    Hooks of callbacks, in the order they run. Callbacks run in the order of their list: averages
    first, then monitors, checkpoints last.

    | hook | when |
    |---|---|
    | on_fit_begin | once, before the first step; a checkpoint has been loaded by then |
    | on_step_begin | before the first batch of an iteration, and again after a skipped step |
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
        optimizer: its optimizer; needed to fit, not to predict.
        scheduler: learning-rate schedule, stepped once an iteration.

    Attributes:
        step_values: loss, norm and speed of the last step, by name; loss and norm are tensors of
            the device where steps are read late.
        step_seconds: wall time of the last step.
        steps_ahead: steps that are not read yet while a next one is prepared; 0 reads at once.
        gauges: values of callbacks for the next line of the record.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__(model, settings, callbacks)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.step_values: dict[str, Any] = {}
        self.step_seconds = 0.0
        waits = self.device.type != "cuda" or settings.amp_dtype == "fp16"
        self.steps_ahead = 0 if waits else STEPS_AHEAD
        self._unread = UnreadSteps()
        self.gauges: dict[str, float] = {}
        self._ends_early = False
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp_dtype == "fp16")

    # Methods of subclasses

    @abstractmethod
    def training_step(self, batch: Any) -> StepOutput:
        """Return the loss of one batch."""

    def batch_ids(self, batch: Any) -> list[str]:
        """Return the names of the samples in a batch, for messages."""
        return []

    # Training

    def fit(
        self,
        train_data: DataLoader,
        valid_data: DataLoader | None = None,
        subset_data: DataLoader | None = None,
    ) -> None:
        """Train until `settings.iteration_num`, from where `self.state` stands.

        Args:
            train_data: loader whose sampler is an `EpochSampler`.
            subset_data: loader of some of them, for the validations between those of the whole.

        Raises:
            Interrupted: SIGINT or SIGTERM came, or a callback asked; everything is saved.
            PeerFailure: another process of the training failed.
            FloatingPointError: a loss or gradient is not finite, with fp16 fifty gradients in a
                row; the message names the iteration, and the samples where one is.
            InputError: a checkpoint of a training on other data was loaded.
        """
        with self._stop_request.listening(), failing_together():
            try:
                self._training_module = self._module
                if self.processes.are_many:
                    self._training_module = shared_module(self.model, self.settings.compile)
                self._call("on_fit_begin")
                self._validate_if_due(valid_data, subset_data)
                batches = training_batches(train_data, self.state, self.processes)
                while not self.is_done:
                    if self._train_iteration(batches):
                        self._validate_if_due(valid_data, subset_data)
                        self._call("on_iteration_end")
                    self._check_stop()
                self._unread.read()
                self._call("on_fit_end")
            except StopAsked as stop:
                self._unread.read()
                self._call("on_stop")
                raise Interrupted(stop.signal_number) from None
            finally:
                self._call("close")

    @property
    def is_done(self) -> bool:
        return self._ends_early or self.state.iteration >= self.settings.iteration_num

    def end_early(self) -> None:
        self._ends_early = True

    def ask_to_stop(self) -> None:
        self._stop_request.ask()

    def _train_iteration(self, batches: Iterator[TrainingBatch]) -> bool:
        """Take one optimizer step over up to `accumulation_step` batches of one epoch.

        Return whether it was taken. A step skipped with fp16 is no iteration: its batches are done,
        and schedule, averages and records do not see it.
        """
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
        learning_rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        loss, norm = self._mean(steps, ids)
        if not self._step(norm):
            return False
        self.step_seconds = seconds = time.perf_counter() - started
        self.step_values = {
            "loss": loss if self.steps_ahead else float(loss),
            "learning_rate": learning_rate,
            "gradient_norm": norm.double() if self.steps_ahead else float(norm),
            "samples_per_second": num_samples / seconds,
            "data_wait_share": waited / seconds,
        }
        self.state.iteration += 1
        self._call("on_step_end")
        return True

    def _backward(self, batch: TrainingBatch) -> StepOutput:
        """Add the gradients of one batch; return its loss, without outputs."""
        with self._autocast():
            step = self.training_step(self.to_device(batch.content))
        if batch.is_stand_in:
            step = StepOutput(step.loss_sum * 0, 0.0, {})
        self._scaler.scale(step.loss_sum).backward()
        return StepOutput(step.loss_sum.detach(), step.num_terms, {})

    def _mean(self, steps: list[StepOutput], ids: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Turn summed gradients into means over all terms of all batches of all processes, clipped.

        Return the mean loss and the norm of the gradient, on the device. Nothing is waited for
        unless steps are read at once. A group without any term (all labels unknown) has a zero
        gradient; only weight decay and momentum change the weights.
        """
        assert self.optimizer is not None
        losses = torch.stack([step.loss_sum for step in steps])
        is_finite = losses.isfinite()
        # In float64 whatever the type of the loss, one batch after the other.
        terms = [_as_double(step.num_terms, losses.device) for step in steps]
        zero = torch.zeros_like(terms[0])
        sums = [sum(values, zero) for values in (losses.double().unbind(), terms)]
        values = torch.stack([*sums, (~is_finite).any().double()])
        loss_sum, num_terms, num_failing = self.processes.summed(values)
        num_terms = num_terms.clamp(min=1e-12)
        self._scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # The average over the processes becomes the sum over them, then the mean over all terms.
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        torch._foreach_div_(gradients, (num_terms / self.processes.num).to(dtype))
        if self.settings.clip_norm:
            norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        else:
            norm = nn.utils.get_total_norm(gradients)
        self.processes.average([b for b in self.model.buffers() if b.is_floating_point()])
        # With fp16 a gradient that is not finite is no failure: its step is skipped.
        is_usable = norm.isfinite() | self._scaler.is_enabled()
        verdict = torch.cat([is_finite, torch.stack([num_failing == 0, is_usable])])
        self._unread.add(self.state.iteration + 1, ids, verdict)
        self._unread.read(self.steps_ahead)
        return loss_sum / num_terms, norm

    def _gradients_kept_back(self, is_wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Keep gradients in this process inside the block, to be averaged with later ones."""
        if is_wanted and self.processes.are_many:
            return self._training_module.no_sync()
        return contextlib.nullcontext()

    def _step(self, norm: Tensor) -> bool:
        """Step and return True, or False where fp16 has overflowed.

        The step is then skipped, and the scale of the loss falls.
        """
        assert self.optimizer is not None
        is_taken = not self._scaler.is_enabled() or bool(norm.isfinite())
        if is_taken:
            self._scaler.step(self.optimizer)
        self._scaler.update()
        self.state.count_step(not is_taken)
        if not is_taken:
            logger.info(
                "a step after iteration %d is skipped: the gradient is too large for fp16; the "
                "loss is scaled by %g from here on (skipped so far: %d)",
                self.state.iteration,
                self._scaler.get_scale(),
                self.state.num_skipped,
            )
        elif self.scheduler is not None:
            self.scheduler.step()
        return is_taken

    def _validate_if_due(
        self, valid_data: DataLoader | None, subset_data: DataLoader | None
    ) -> None:
        """Validate if due by the settings, on the subset or on the whole, once an iteration."""
        state = self.state
        kind = self.settings.validation_at(state.iteration)
        data = subset_data if kind == "subset" else valid_data
        if data is None or kind is None or state.validated == state.iteration:
            return
        self._unread.read()
        metrics = self._validate_all_weights(data)
        state.validated = state.iteration
        self._call("on_metrics" if kind == "whole" else "on_subset_metrics", metrics)

    def _validate_all_weights(self, data: DataLoader) -> dict[str, float | None]:
        """Return metrics of the weights to predict with; others are named `raw_<name>` etc.

        The weights to predict with come last, so that callbacks see their metrics last.
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
        """Averages that have begun; the first one predicts."""
        return [
            callback
            for callback in self.callbacks
            if isinstance(callback, WeightAverager) and callback.num_updates
        ]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the weights to predict with (an average if there is one) in place inside the block.

        `weights_name` names them.
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
        """The weights to predict with: `raw`, or the label of an average."""
        return next((average.label for average in self.averages), "raw")

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return all that `fit` needs to resume exactly; tensors and plain types.

        All processes call it together.

        Raises:
            FloatingPointError: a step that was not read yet is not finite; see `fit`.
        """
        assert self.optimizer is not None
        self._unread.read()
        return {
            "model": self.model.state_dict(),
            **self.state.as_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scaler": self._scaler.state_dict(),
            "averages": self._callback_states(of_averages=True),
            "callbacks": self._callback_states(of_averages=False),
            "rng": self.processes.gathered(rng_state()),
            "numerics": self.settings.numerics(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.optimizer is not None
        self._unread.forget()
        missing = self.state_dict().keys() - state.keys() - FitState.LATER_FIELDS
        if missing:
            raise InputError(f"the checkpoint lacks {', '.join(sorted(missing))}: restore it")
        self.model.load_state_dict(state["model"])
        self.state = FitState.from_dict(state)
        recorded_optimizer = state_in_groups(state["optimizer"], self.optimizer, self.model)
        self.optimizer.load_state_dict(dict(recorded_optimizer))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        recorded = state["averages"] | state["callbacks"]
        for callback in self.callbacks:
            if callback.name in recorded:
                callback.load_state_dict(recorded[callback.name])
        if self.processes.rank < len(state["rng"]):
            set_rng_state(state["rng"][self.processes.rank])
        self.settings.warn_of_other_numerics(state["numerics"])

    def _callback_states(self, of_averages: bool) -> dict[str, Any]:
        return {
            callback.name: callback.state_dict()
            for callback in self.callbacks
            if callback.is_average == of_averages
        }


def _as_double(value: Tensor | float, device: torch.device) -> Tensor:
    """Return a number in float64 on a device; filling waits for nothing, as copying would."""
    if isinstance(value, Tensor):
        return value.detach().double()
    return torch.full((), float(value), dtype=torch.float64, device=device)
