"""Settings of a fit, its state, and the result of a step."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from common.distributed import Processes
from common.errors import InputError

logger = logging.getLogger(__name__)

# As many steps in a row halve the scale of the loss to nothing: it is not the scale that is wrong.
MOST_SKIPPED = 50


@dataclass
class StepOutput:
    """The result of a subclass for one batch.

    Attributes:
        loss_sum: sum of the loss over its terms, a scalar (with gradient while training).
        num_terms: number of terms in the sum; masked ones don't count.
        outputs: tensors by name whose first dimension is the sample.
    """

    loss_sum: Tensor
    num_terms: Tensor | float
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class FitSettings:
    """Settings of `AbstractNetwork.fit`; counts are of optimizer steps unless they say batch.

    Attributes:
        accumulation_step: batches whose gradients make one step.
        clip_norm: largest norm of the gradient, 0 for no clipping.
        iteration_valid: steps between validations; 0: after the last one only.
        validate_raw: where there are averages, validate the raw weights too.
        iteration_valid_full: steps between validations of the whole, those of `iteration_valid`
            between them being of a subset; 0: all are of the whole.
        amp_dtype: type of mixed precision, None for none; fp16 needs a GPU.
        channels_last: keep 4-D tensors in channels-last memory.
    """

    iteration_num: int
    accumulation_step: int = 1
    clip_norm: float = 0.0
    iteration_valid: int = 0
    validate_raw: bool = True
    iteration_valid_full: int = 0
    amp_dtype: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compile: bool = False
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        if self.amp_dtype == "fp16" and self.device.type != "cuda":
            raise InputError("--tr_amp_dtype fp16: needs a GPU; use bf16 on a CPU")

    def validation_at(self, iteration: int) -> Literal["whole", "subset"] | None:
        """Return the validation after `iteration`, if any; the last one is of the whole."""
        is_valid = self.iteration_valid > 0 and iteration % self.iteration_valid == 0
        every_full = self.iteration_valid_full
        is_whole = iteration % every_full == 0 if every_full else is_valid
        if is_whole or iteration == self.iteration_num:
            return "whole"
        return "subset" if is_valid else None

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[self.amp_dtype]

    def numerics(self) -> dict[str, str | int | bool]:
        """Settings that change the last bits of results without being part of the experiment."""
        return {
            "device": self.device.type,
            "num_threads": torch.get_num_threads(),
            "channels_last": self.channels_last,
            "amp_dtype": self.amp_dtype or "none",
            "compile": self.compile,
            "num_processes": self.processes.num,
            "torch": str(torch.__version__),
        }

    def warn_of_other_numerics(self, recorded: Mapping[str, Any]) -> None:
        """Log a warning where `numerics` differ from those recorded in a checkpoint."""
        for name, now in self.numerics().items():
            before = recorded.get(name)
            if before != now:
                logger.warning(
                    "%s was %s and is now %s: the last bits of the results will differ",
                    name,
                    before,
                    now,
                )


@dataclass
class FitState:
    """The state of a training: all that the loop itself has to remember.

    Attributes:
        iteration: optimizer steps done.
        micro_step: batches done.
        epoch: the epoch that the next batch belongs to.
        position: samples of that epoch that are done.
        num_samples: samples of a whole epoch; 0 until the first one begins.
        validated: the iteration of the last finished validation.
        num_skipped: steps that fp16 skipped; they are no iterations.
        num_skipped_in_row: those since the last iteration.
    """

    LATER_FIELDS: ClassVar[frozenset[str]] = frozenset({"num_skipped", "num_skipped_in_row"})
    """Fields that checkpoints of earlier versions lack."""

    iteration: int = 0
    micro_step: int = 0
    epoch: int = 0
    position: int = 0
    num_samples: int = 0
    validated: int = 0
    num_skipped: int = 0
    num_skipped_in_row: int = 0

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        sampler = {name: values.pop(name) for name in ("epoch", "position", "num_samples")}
        return {**values, "sampler": sampler}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        names = ("iteration", "micro_step", "validated")
        later = {name: state[name] for name in cls.LATER_FIELDS & state.keys()}
        return cls(**{name: state[name] for name in names}, **later, **state["sampler"])

    def count_batch(self, num_samples: int, ends_epoch: bool) -> None:
        self.micro_step += 1
        self.position += num_samples
        if ends_epoch:
            self.epoch += 1
            self.position = 0

    def count_step(self, is_skipped: bool) -> None:
        """Count a step, skipped or not; raise FloatingPointError after too many skipped ones."""
        self.num_skipped += is_skipped
        self.num_skipped_in_row = self.num_skipped_in_row + 1 if is_skipped else 0
        if self.num_skipped_in_row == MOST_SKIPPED:
            raise FloatingPointError(
                f"{MOST_SKIPPED} steps in a row after iteration {self.iteration} had a gradient "
                f"that is not finite in fp16: train with --tr_amp_dtype bf16 or --tr_use_amp 0, or "
                f"lower the learning rate"
            )
