"""The network of the task: the metric's loss, and the metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from common.callbacks import Callback
from common.distributed import Processes
from common.errors import InputError
from common.metrics import auc, log_loss, weighted_log_loss
from common.networks import FitSettings, ImageClassifierNetwork
from common.optim import make_optimizer, make_schedule
from config import Config
from rsna_task import CHALLENGE, TASKS, Task

METRIC = "weighted_log_loss"


class RSNANetwork(ImageClassifierNetwork):
    """The labels of a task, trained and validated with its weights.

    Args:
        task: the six labels of the challenge, or `any` alone.
    """

    def __init__(
        self, model: nn.Module, settings: FitSettings, task: Task = CHALLENGE, **options: Any
    ) -> None:
        super().__init__(model, settings, task.label_weights, **options)
        self.task = task

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
) -> RSNANetwork:
    """The network with the optimizer and schedule that the flags name."""
    optim = config.optimizer
    optimizer = make_optimizer(
        optim.optim,
        model,
        optim.optim_lr,
        optim.optim_weight_decay,
        optim.optim_momentum,
        bool(optim.optim_nesterov),
    )
    scheduler = make_schedule(
        optim.optim_scheduler,
        optimizer,
        config.iteration_num,
        optim.optim_scheduler_max_lr,
        optim.optim_scheduler_min_lr,
        optim.optim_scheduler_pct_start,
        optim.optim_scheduler_warmup,
    )
    return RSNANetwork(
        model,
        settings,
        TASKS[config.network.net_num_classes],
        label_smoothing=config.training.tr_label_smoothing,
        sample_ids=sample_ids,
        optimizer=optimizer,
        scheduler=scheduler,
        callbacks=callbacks,
    )


def fit_settings(config: Config) -> FitSettings:
    """The settings of the fit loop that the flags name."""
    training, processes = config.training, Processes.from_environment()
    return FitSettings(
        iteration_num=config.iteration_num,
        accumulation_step=training.tr_accumulation_step,
        clip_norm=training.tr_clip_norm,
        iteration_valid=training.tr_iteration_valid,
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
