"""Flags of the fit loop and its callbacks."""

from dataclasses import dataclass
from typing import Literal

from common.errors import InputError
from flags.parsing import AUTO, AutoSwitch, Switch, at_least, between, require


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how training runs; an iteration is an optimizer step, not a batch."""

    tr_use_amp: AutoSwitch = AUTO
    """1: mixed precision. auto: with bf16, on GPUs of compute capability 8.0 or more."""
    tr_amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """Type of mixed precision; fp16 scales the loss and needs a GPU."""
    tr_iteration_num: int = 260
    """Iterations to train. With --tr_resume 1 more than before lengthen a training, where that
    leaves the learning rates of the iterations done as they were."""
    tr_batch_size: int = 16
    """Slices in a training batch."""
    tr_accumulation_step: int = 1
    """Batches whose gradients make one iteration."""
    tr_clip_norm: float = 1.0
    """Largest norm of the gradient (0: no clipping)."""
    tr_iteration_valid: int = 130
    """Iterations from one validation to the next (0: at the end only)."""
    tr_iteration_valid_full: int = 0
    """Iterations from one validation of the whole fold to the next; those of tr_iteration_valid
    between them are then of a fixed subset (0: all are of the whole; the last one always is)."""
    tr_valid_subset: int = 64
    """Studies in that subset, drawn from the seed, with positives of each label if there are."""
    tr_iteration_checkpoint: int = 100
    """Iterations from one last.pt to the next."""
    tr_num_best: int = 1
    """How many of the best checkpoints are kept."""
    tr_best_metric: str = "weighted_log_loss"
    """Metric of validations of the whole fold that says which are best: loss, weighted_log_loss, or
    auc, log_loss, precision, recall or f1 of a label or of their mean, such as auc.any or f1.mean;
    whether smaller or greater is better is known by its name."""
    tr_max_hours: float = 0.0
    """Hours after which a run saves and stops, with status 143; --tr_resume 1 goes on, with the
    same time anew (0: no limit). Leave room for one validation."""
    tr_resume: Switch = 0
    """1: go on with --experiment_id from its last.pt."""
    tr_valid_raw: Switch = 1
    """1: where there are averages, validate the raw weights too (valid_raw_* in metrics.jsonl).
    Validation then takes twice as long."""
    tr_loss: Literal["bce", "focal"] = "bce"
    """What training minimises: bce is the metric itself, focal weighs easy slices less. Validation
    reports the metric in either case, beside the loss."""
    tr_focal_gamma: float = 2.0
    """Gamma of the focal loss (0: bce)."""
    tr_any_weight_schedule: Switch = 0
    """1: the weight of `any` in the loss is 2.6, 2.4, 2.2, 2.0 and 1.0 by fifths of the training;
    0: 2, as in the metric."""
    tr_label_smoothing: float = 0.0
    """Training labels y become y (1 - s) + s / 2; the reported metric keeps the true ones."""
    tr_channels_last: AutoSwitch = AUTO
    """1: images in channels-last memory. auto: on a CPU, and on GPUs of compute capability 7.0 or
    more, which are faster with it."""
    tr_compile: AutoSwitch = AUTO
    """1: compile the network with torch.compile: minutes at the start, faster steps. auto: for
    slices, in trainings of 20,000 batches or more, by one process on a GPU of compute capability
    7.0 or more where a compiler is installed."""
    tr_tf32: AutoSwitch = AUTO
    """1: a GPU may round the factors of float32 products to TF32. auto: where it has TF32."""
    tr_pin_memory: AutoSwitch = AUTO
    """1: batches wait in pinned memory, which a GPU copies from directly. auto: on a GPU."""
    tr_deterministic: Switch = 0
    """1: the same bits on every run on the same hardware, at some cost of speed."""
    tr_sync_bn: Switch = 0
    """1: batch norm over the batches of all processes (torchrun on GPUs)."""
    tr_features: Switch = 1
    """1: --data_fold all also writes what the networks see in slices (features/), for sequence
    networks; at 2048 features a slice takes about 3 KB, twice."""

    def __post_init__(self) -> None:
        at_least(
            self,
            1,
            "tr_iteration_num",
            "tr_batch_size",
            "tr_accumulation_step",
            "tr_iteration_checkpoint",
            "tr_num_best",
        )
        at_least(self, 1, "tr_valid_subset")
        at_least(self, 0, "tr_iteration_valid", "tr_clip_norm", "tr_focal_gamma", "tr_max_hours")
        between(self, 0, 0.5, "tr_label_smoothing")
        require(
            self,
            "tr_iteration_valid_full",
            self.tr_iteration_valid_full == 0
            or self.tr_iteration_valid_full >= max(self.tr_iteration_valid, 1),
            f"0, or at least --tr_iteration_valid ({self.tr_iteration_valid})",
        )


@dataclass(frozen=True)
class CallbackConfig:
    """What can be watched while training."""

    cb_metrics_enabled: Switch = 1
    """1: validations report precision, recall and F1 of each label, and means over the labels."""
    cb_metrics_threshold: float = 0.5
    """Probability from which a label counts as called, in precision, recall and F1."""
    cb_early_stopping_patience: int = 0
    """Validations of the whole fold without improvement after which training ends (0: never)."""
    cb_early_stopping_metric: str = "weighted_log_loss"
    """Metric that has to improve; see tr_best_metric."""
    cb_early_stopping_min_delta: float = 0.0
    """The least improvement that counts, in units of the metric."""
    cb_outputs_num: int = 0
    """How many validations of the whole fold keep their raw outputs, in outputs/ (the newest)."""
    cb_learning_rates_enabled: Switch = 0
    """1: record the learning rate of every parameter group."""
    cb_device_memory_enabled: Switch = 1
    """1: record the peaks of GPU memory so far; nothing on a CPU."""
    cb_telemetry_enabled: Switch = 0
    """1: record mean, spread and share of dead units of a module's activations."""
    cb_telemetry_module_name: str | None = None
    """Module whose activations are watched, by its name in the network."""
    cb_telemetry_log_every: int = 500
    """Iterations between two looks at the activations."""

    def __post_init__(self) -> None:
        between(self, 0, 1, "cb_metrics_threshold")
        at_least(self, 0, "cb_early_stopping_patience", "cb_early_stopping_min_delta")
        at_least(self, 0, "cb_outputs_num")
        at_least(self, 1, "cb_telemetry_log_every")
        if self.cb_telemetry_enabled and not self.cb_telemetry_module_name:
            raise InputError(
                "--cb_telemetry_enabled 1 needs --cb_telemetry_module_name: say which module"
            )
