"""The network of the task: the metric's loss, and the metric."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from common.callbacks import AveragedWeights, Callback, StochasticWeightAverage, WeightAverage
from common.distributed import Processes
from common.errors import InputError
from common.metrics import auc, log_loss, weighted_log_loss
from common.networks import FitSettings, ImageClassifierNetwork
from common.optim import Schedule, make_optimizer, make_schedule
from common.transforms.device import DeviceTransform
from config import Config
from rsna_task import CHALLENGE, TASKS, Task

METRIC = "weighted_log_loss"

# Weight of `any` in the loss by fifths of the training, where that is asked for: that of the 2019
# framework. The metric's is 2.
ANY_WEIGHTS = (2.6, 2.4, 2.2, 2.0, 1.0)


class RSNANetwork(ImageClassifierNetwork):
    """The labels of a task, trained and validated with its weights.

    Args:
        task: the six labels of the challenge, or `any` alone.
        any_weight_schedule: the weight of `any` in the loss follows `ANY_WEIGHTS` in its place.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        task: Task = CHALLENGE,
        any_weight_schedule: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, settings, task.label_weights, **options)
        self.task = task
        self.any_weight_schedule = any_weight_schedule

    def loss_weights(self) -> Tensor:
        """The weights of the task, but for `any` where it has a schedule."""
        if not self.any_weight_schedule:
            return self.label_weights
        fifth = len(ANY_WEIGHTS) * self.state.iteration // self.settings.iteration_num
        weights = self.label_weights.clone()
        weights[self.task.label_names.index("any")] = ANY_WEIGHTS[min(fifth, len(ANY_WEIGHTS) - 1)]
        return weights

    def compute_metrics(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """The weighted log loss of the challenge over all slices; log loss and AUC per label."""
        labels, probabilities = outputs["labels"], expit(outputs["logits"].astype(np.float64))
        metrics = {METRIC: weighted_log_loss(labels, probabilities, self.task.label_weights)}
        for column, name in enumerate(self.task.label_names):
            metrics[f"log_loss.{name}"] = log_loss(labels[:, column], probabilities[:, column])
            metrics[f"auc.{name}"] = auc(labels[:, column], probabilities[:, column])
        return metrics


def build_network(
    config: Config,
    model: nn.Module,
    settings: FitSettings,
    sample_ids: Sequence[str],
    callbacks: Sequence[Callback],
    batch_transform: DeviceTransform | None = None,
    network_class: type[RSNANetwork] = RSNANetwork,
    **options: Any,
) -> RSNANetwork:
    """The network with the optimizer and schedule that the flags name.

    Args:
        config: the flags.
        model: the module.
        settings: how it is fitted.
        sample_ids: names of the training samples by index, for messages.
        callbacks: what averages, watches and saves.
        batch_transform: see `ImageClassifierNetwork`.
        network_class: the kind of network.
        options: what that kind takes beside.
    """
    optim, training = config.optimizer, config.training
    optimizer = make_optimizer(
        optim.optim,
        model,
        config.base_lr,
        optim.optim_weight_decay,
        optim.optim_momentum,
        bool(optim.optim_nesterov),
        layer_decay=optim.optim_layer_decay,
        lookahead=bool(optim.optim_lookahead_enabled),
        fused=settings.device.type == "cuda",
    )
    return network_class(
        model,
        settings,
        TASKS[config.network.net_num_classes],
        any_weight_schedule=bool(training.tr_any_weight_schedule),
        label_smoothing=training.tr_label_smoothing,
        focal_gamma=training.tr_focal_gamma if training.tr_loss == "focal" else None,
        sample_ids=sample_ids,
        batch_transform=batch_transform,
        optimizer=optimizer,
        scheduler=make_schedule(optimizer, build_schedule(config)),
        callbacks=callbacks,
        **options,
    )


def build_schedule(config: Config) -> Schedule:
    """The learning rate of every iteration that the flags name."""
    optim = config.optimizer
    return Schedule(
        optim.optim_scheduler,
        config.iteration_num,
        config.base_lr,
        min_lr=optim.optim_scheduler_min_lr,
        pct_start=optim.optim_scheduler_pct_start,
        warmup=optim.optim_scheduler_warmup,
        milestones=[config.dev_scaled(step) for step in optim.optim_scheduler_milestones],
        gamma=optim.optim_scheduler_gamma,
        num_cycles=optim.optim_scheduler_num_cycles,
        cycle_factor=optim.optim_scheduler_cycle_factor,
        swa_start=config.dev_scaled(optim.optim_swa_start) if optim.optim_swa_enabled else None,
        swa_lr=optim.optim_swa_lr,
    )


def build_averages(
    config: Config, model: nn.Module, make_statistics_data: Callable[[], Any]
) -> list[AveragedWeights]:
    """The averages of the weights that the flags name; the first to begin is predicted with.

    Args:
        config: the flags.
        model: whose weights are averaged.
        make_statistics_data: returns the batches for the batch-norm statistics, None for none.
    """
    optim = config.optimizer
    averages: list[AveragedWeights] = []
    if optim.optim_swa_enabled:
        start = config.dev_scaled(optim.optim_swa_start)
        averages.append(StochasticWeightAverage(model, start, make_statistics_data()))
    if optim.optim_ema_decay:
        averages.append(WeightAverage(model, optim.optim_ema_decay, make_statistics_data()))
    return averages


def fit_settings(config: Config) -> FitSettings:
    """The settings of the fit loop that the flags name."""
    training, processes = config.training, Processes.from_environment()
    return FitSettings(
        iteration_num=config.iteration_num,
        accumulation_step=training.tr_accumulation_step,
        clip_norm=training.tr_clip_norm,
        iteration_valid=training.tr_iteration_valid,
        validate_raw=bool(training.tr_valid_raw),
        iteration_valid_full=training.tr_iteration_valid_full,
        amp_dtype=training.tr_amp_dtype if training.tr_use_amp else None,
        channels_last=bool(training.tr_channels_last),
        device=find_device(config, processes),
        compile=bool(training.tr_compile),
        processes=processes,
    )


def find_device(config: Config, processes: Processes | None = None) -> torch.device:
    """The device that --device names; auto takes a GPU when there is one, its own for a process."""
    wanted = config.general.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    if wanted == "cuda" and processes is not None and processes.are_many:
        if processes.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"--device cuda: {torch.cuda.device_count()} GPUs here are fewer than processes: "
                f"lower --nproc_per_node of torchrun"
            )
        return torch.device(wanted, processes.local_rank)
    return torch.device(wanted)


def transforms_on_device(config: Config, device: torch.device) -> bool:
    """Whether --data_transform_device makes the training images where the network runs.

    Raises:
        InputError: it says cuda, but the network does not run on a GPU.
    """
    wanted = config.data.data_transform_device
    if wanted == "cuda" and device.type != "cuda":
        reason = "torch sees no GPU here" if not torch.cuda.is_available() else "--device is cpu"
        raise InputError(
            f"--data_transform_device cuda: the network runs on the CPU ({reason}); use cpu or auto"
        )
    return wanted != "cpu" and device.type == "cuda"
