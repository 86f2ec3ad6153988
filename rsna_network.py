"""The network of the task: the metric's loss, and the metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from common.callbacks import Callback
from common.errors import InputError
from common.metrics import auc, log_loss, weighted_log_loss
from common.networks import FitSettings, ImageClassifierNetwork
from common.optim import make_optimizer, make_schedule
from config import Config
from rsna_task import LABEL_WEIGHTS, LABELS

METRIC = "weighted_log_loss"


class RSNANetwork(ImageClassifierNetwork):
    """Six labels per slice, trained and validated with the weights of the challenge."""

    def __init__(self, model: nn.Module, settings: FitSettings, **options: Any) -> None:
        super().__init__(model, settings, LABEL_WEIGHTS, **options)

    def compute_metrics(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """The weighted log loss of the challenge over all slices; log loss and AUC per label."""
        labels, probabilities = outputs["labels"], expit(outputs["logits"].astype(np.float64))
        metrics = {METRIC: weighted_log_loss(labels, probabilities, LABEL_WEIGHTS)}
        for column, name in enumerate(LABELS):
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
        label_smoothing=config.training.tr_label_smoothing,
        sample_ids=sample_ids,
        optimizer=optimizer,
        scheduler=scheduler,
        callbacks=callbacks,
    )


def fit_settings(config: Config) -> FitSettings:
    """The settings of the fit loop that the flags name."""
    training = config.training
    return FitSettings(
        iteration_num=config.iteration_num,
        accumulation_step=training.tr_accumulation_step,
        clip_norm=training.tr_clip_norm,
        iteration_valid=training.tr_iteration_valid,
        iteration_valid_full=training.tr_iteration_valid_full,
        amp_dtype=training.tr_amp_dtype if training.tr_use_amp else None,
        channels_last=bool(training.tr_channels_last),
        device=find_device(config),
    )


def find_device(config: Config) -> torch.device:
    """The device that --device names; auto takes a GPU when there is one."""
    wanted = config.general.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    return torch.device(wanted)
