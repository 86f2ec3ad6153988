"""Build network, callbacks, sampler and schedule of a training from its flags."""

import logging
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import nn

from common.callbacks import (
    ActivationTelemetry,
    AveragedWeights,
    Callback,
    CheckpointSaver,
    DeviceMemory,
    EarlyStopping,
    LearningRates,
    MaxTime,
    MultiLabelMetrics,
    OutputSaver,
    StochasticWeightAverage,
    TrainingMonitor,
    WeightAverage,
)
from common.datasets.samplers import EpochSampler
from common.datasets.weighted_samplers import (
    BalancedSampler,
    GroupSampler,
    PositiveRangeSampler,
    middle_weights,
)
from common.distributed import Processes
from common.errors import InputError
from common.experiment import Experiment
from common.networks import FitSettings
from common.optim import Schedule, make_optimizer, make_schedule
from common.trackers import Tracker
from common.transforms.device import DeviceTransform
from config import Config
from flags.parsing import AUTO
from rsna_dataset import RSNADataset
from rsna_network import RSNANetwork
from rsna_task import METRIC, TASKS

logger = logging.getLogger(__name__)

# Iterations from one line of metrics.jsonl to the next, and metrics that the log shows.
LOG_EVERY = 10
SHOWN = (METRIC, "auc.any")
# A share of positives whose odds are this much off those of the training slices earns a warning,
# unless so few slices are drawn that it may be chance (three standard errors).
_NOTABLE_ODDS_RATIO = 1.1


def build_callbacks(
    config: Config,
    model: nn.Module,
    label_names: Sequence[str],
    is_main: bool,
    experiment: Experiment,
    tracker: Tracker,
) -> list[Callback]:
    """Return the callbacks between averages and checkpoints: watchers, the record, deciders.

    Args:
        is_main: whether this process records; all processes decide alike.
    """
    flags = config.callbacks
    callbacks: list[Callback] = []
    if flags.cb_metrics_enabled:
        callbacks.append(MultiLabelMetrics(label_names, flags.cb_metrics_threshold))
    if is_main:
        callbacks += _records(config, model, experiment, tracker)
    if flags.cb_early_stopping_patience:
        callbacks.append(
            EarlyStopping(
                flags.cb_early_stopping_metric,
                flags.cb_early_stopping_patience,
                flags.cb_early_stopping_min_delta,
            )
        )
    if config.training.tr_max_hours:
        callbacks.append(MaxTime(3600 * config.training.tr_max_hours))
    return callbacks


def _records(
    config: Config, model: nn.Module, experiment: Experiment, tracker: Tracker
) -> list[Callback]:
    flags = config.callbacks
    callbacks: list[Callback] = []
    if flags.cb_learning_rates_enabled:
        callbacks.append(LearningRates(LOG_EVERY))
    if flags.cb_device_memory_enabled:
        callbacks.append(DeviceMemory(LOG_EVERY))
    if flags.cb_telemetry_enabled:
        name = str(flags.cb_telemetry_module_name)
        callbacks.append(ActivationTelemetry(model, name, flags.cb_telemetry_log_every))
    shown = tuple(dict.fromkeys([*SHOWN, config.training.tr_best_metric]))
    callbacks.append(TrainingMonitor(experiment.metrics_log, tracker, LOG_EVERY, shown))
    if flags.cb_outputs_num:
        callbacks.append(OutputSaver(experiment.outputs, flags.cb_outputs_num))
    return callbacks


def checkpoint_saver(config: Config, experiment: Experiment) -> CheckpointSaver:
    """Return the callback that writes last.pt and the best checkpoints."""
    training = config.training
    return CheckpointSaver(
        experiment.checkpoints,
        training.tr_iteration_checkpoint,
        training.tr_best_metric,
        training.tr_num_best,
        config.flags(),
    )


def make_sampler(config: Config, train: RSNADataset, num_processes: int = 1) -> EpochSampler:
    """Return the sampler that the flags name; a slice is positive where any of its labels is.

    A label that is a share of raters, or a probability by a model, counts above 0.5.

    Raises:
        InputError: the sampler needs positive and negative slices, and there are none.
    """
    data, training, seed = config.data, config.training, config.general.seed
    if data.data_sampler == "balanced":
        return BalancedSampler(_is_positive(train), seed)
    if data.data_sampler == "pos_range":
        return PositiveRangeSampler(
            _is_positive(train),
            seed,
            data.data_sampler_pos_start,
            data.data_sampler_pos_end,
            config.iteration_num,
            training.tr_batch_size * num_processes,
            training.tr_accumulation_step,
        )
    if data.data_sampler == "slices_per_study":
        studies = train.table.frame["study_id"].to_numpy(dtype=object)[train.rows].astype(str)
        weights = middle_weights(*train.table.places(train.rows))
        return GroupSampler(studies, data.data_sampler_num_slices, weights, seed)
    return EpochSampler(len(train), seed)


def log_sampler(
    config: Config, sampler: EpochSampler, train: RSNADataset, num_processes: int = 1
) -> None:
    """Log what the training draws, counted in its first and its last epoch.

    Nothing is logged of the plain sampler, which leaves nothing out.
    """
    if config.data.data_sampler is None:
        return
    is_positive = _is_positive(train)
    first, last = _drawn(config, sampler, num_processes)
    logger.info(
        "--data_sampler %s: an epoch has %d draws from %d training slices; in the first epoch %d "
        "are left out and %d repeated; positive are %.1f %% of the first %d draws, %.1f %% of the "
        "last %d, %.1f %% of all slices",
        config.data.data_sampler,
        sampler.num_samples,
        len(is_positive),
        len(is_positive) - len(np.unique(sampler.order(0))),
        sampler.num_samples - len(np.unique(sampler.order(0))),
        100 * is_positive[first].mean(),
        len(first),
        100 * is_positive[last].mean(),
        len(last),
        100 * is_positive.mean(),
    )
    drawn, share = is_positive[last].mean(), is_positive.mean()
    ratio = _odds(drawn) / _odds(share)
    chance = 3 * sqrt(share * (1 - share) / len(last))
    if max(ratio, 1 / ratio) > _NOTABLE_ODDS_RATIO and abs(drawn - share) > chance:
        logger.warning(
            "probabilities will be those of the slices drawn, of which %.1f %% are positive at the "
            "end of the training, not those of slices as they come (%.1f %%): log loss and "
            "calibration suffer; see docs/how_to/samplers.md",
            100 * drawn,
            100 * share,
        )


def _drawn(
    config: Config, sampler: EpochSampler, num_processes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the first and of the last draws of the training, an epoch at most."""
    training, num_steps = config.training, config.iteration_num
    sampler.share(training.tr_batch_size, 0, num_processes)
    sampler.start(0)
    ends = np.cumsum([size for size, _ in sampler.batch_sizes()])
    per_step = training.tr_accumulation_step
    # The end of an epoch ends a step too.
    step_ends = np.append(ends[:-1][per_step - 1 :: per_step], ends[-1])
    num_whole, num_left = divmod(num_steps, len(step_ends))
    in_last = int(step_ends[num_left - 1]) if num_left else 0
    orders = [sampler.order(epoch) for epoch in range(max(0, num_whole - 1), num_whole)]
    last = np.concatenate([*orders, sampler.order(num_whole)[:in_last]])
    return (sampler.order(0) if num_whole else last), last[-sampler.num_samples :]


def _is_positive(train: RSNADataset) -> np.ndarray:
    return np.asarray((train.labels > 0.5).any(axis=1))


def _odds(share: float) -> float:
    share = min(max(float(share), 1e-6), 1 - 1e-6)
    return share / (1 - share)


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
    """Return the network with the optimizer and schedule that the flags name.

    See `ImageClassifierNetwork` for `sample_ids` and `batch_transform`.
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
    """Return the learning rate of every iteration that the flags name."""
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
        swa_start=config.swa_start,
        swa_lr=optim.optim_swa_lr,
    )


def build_averages(
    config: Config, model: nn.Module, make_statistics_data: Callable[[], Any]
) -> list[AveragedWeights]:
    """Return the averages of the weights that the flags name; the first to begin is predicted with.

    Args:
        make_statistics_data: returns the batches for the batch-norm statistics, None for none.
    """
    optim = config.optimizer
    averages: list[AveragedWeights] = []
    if (start := config.swa_start) is not None:
        averages.append(StochasticWeightAverage(model, start, make_statistics_data()))
    if optim.optim_ema_decay:
        averages.append(WeightAverage(model, optim.optim_ema_decay, make_statistics_data()))
    return averages


def fit_settings(config: Config) -> FitSettings:
    """Return the settings of the fit loop that the flags name."""
    training, processes = config.training, Processes.from_environment()
    assert AUTO not in vars(training).values(), "the flags are resolved first"
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
    """Return the device of --device; auto takes a GPU if there is one, its own per process."""
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
    """Return whether --data_transform_device makes the training images where the network runs.

    Raises:
        InputError: it says cuda, but the network does not run on a GPU.
    """
    wanted = config.data.data_transform_device
    if wanted == "cuda" and device.type != "cuda":
        reason = "torch sees no GPU here" if not torch.cuda.is_available() else "--device is cpu"
        raise InputError(
            f"--data_transform_device cuda: the network runs on the CPU ({reason}); use cpu or auto"
        )
    return wanted == "cuda"
