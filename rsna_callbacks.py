"""The callbacks of a training, as the flags name them."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from common.callbacks import (
    ActivationTelemetry,
    Callback,
    CheckpointSaver,
    DeviceMemory,
    EarlyStopping,
    LearningRates,
    MaxTime,
    MultiLabelMetrics,
    OutputSaver,
    TrainingMonitor,
)
from common.callbacks.multilabel import metric_names
from common.callbacks.telemetry import find_module
from common.errors import InputError
from common.experiment import Experiment
from common.trackers import Tracker
from config import Config
from rsna_network import METRIC

# Iterations from one line of metrics.jsonl to the next, and metrics that the log shows.
LOG_EVERY = 10
SHOWN = (METRIC, "auc.any")


def require_usable(config: Config, model: nn.Module, label_names: Sequence[str]) -> None:
    """Raises InputError where a flag names a metric or a module that there is not."""
    flags = config.callbacks
    for flag, metric in _metric_flags(config).items():
        known = ["loss", METRIC]
        known += [f"{family}.{label}" for family in ("log_loss", "auc") for label in label_names]
        known += metric_names(label_names) if flags.cb_metrics_enabled else []
        if metric not in known:
            near = difflib.get_close_matches(metric, known, 5, cutoff=0.3)
            raise InputError(
                f"--{flag} {metric}: no validation reports it; near are {', '.join(near)}"
            )
    if flags.cb_telemetry_enabled:
        find_module(model, str(flags.cb_telemetry_module_name))


def build_callbacks(
    config: Config,
    model: nn.Module,
    label_names: Sequence[str],
    is_main: bool,
    experiment: Experiment,
    tracker: Tracker,
) -> list[Callback]:
    """The callbacks between averages and checkpoints: what is watched, the record, what decides.

    Args:
        config: the flags.
        model: the network's module.
        label_names: those of the task.
        is_main: whether this process records; all of several decide alike.
        experiment: where things are written.
        tracker: follows the record.
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
        callbacks.append(OutputSaver(_outputs_folder(experiment), flags.cb_outputs_num))
    return callbacks


def checkpoint_saver(config: Config, experiment: Experiment) -> CheckpointSaver:
    """What writes last.pt and the best checkpoints."""
    training = config.training
    return CheckpointSaver(
        experiment.checkpoints,
        training.tr_iteration_checkpoint,
        training.tr_best_metric,
        training.tr_num_best,
        config.flags(),
    )


def _metric_flags(config: Config) -> dict[str, str]:
    flags = {"tr_best_metric": config.training.tr_best_metric}
    if config.callbacks.cb_early_stopping_patience:
        flags["cb_early_stopping_metric"] = config.callbacks.cb_early_stopping_metric
    return flags


def _outputs_folder(experiment: Experiment) -> Path:
    return experiment.folder / "outputs"
