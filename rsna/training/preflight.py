"""Refuses, before any work, what the flags and the data of a training do not allow."""

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from common.callbacks.multilabel import metric_names
from common.callbacks.telemetry import find_module
from common.errors import InputError
from common.slices.folds import folds_path, read_folds
from common.slices.leakage import folds_digest, origins_of_weights, require_unseen_start
from config import Config
from rsna_network import METRIC


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


def _metric_flags(config: Config) -> dict[str, str]:
    flags = {"tr_best_metric": config.training.tr_best_metric}
    if config.callbacks.cb_early_stopping_patience:
        flags["cb_early_stopping_metric"] = config.callbacks.cb_early_stopping_metric
    return flags


# Clients that not every training needs: flag -> (module, extra).
CLIENTS = {
    "tensorboard_enabled": ("tensorboard", "tensorboard"),
    "nml_enabled": ("neptune", "neptune"),
}


def require_clients(config: Config) -> None:
    """Raises InputError where a tracker is asked for whose client is not installed."""
    flags = config.flags()
    for flag, (module, extra) in CLIENTS.items():
        if flags[flag] and find_spec(module) is None:
            raise InputError(
                f"--{flag} 1: the package {module} is not installed: "
                f"{install_command(extra)}, or leave the flag out"
            )


def digest_of_folds(config: Config) -> str:
    """Returns the digest of the fold table that the rows of one fold are split by."""
    fold = config.data.data_fold
    assert isinstance(fold, int)
    return folds_digest(read_folds(folds_path(config.dataset_folder, fold)))


def require_unseen_weights(config: Config) -> None:
    """Raises InputError where --net_weight_file is missing, or saw what the fold validates.

    As far as the experiment that it lies in recorded its training; see `require_unseen_start`.
    """
    name, fold = config.network.net_weight_file, config.data.data_fold
    if name is None or not isinstance(fold, int):
        return
    if not Path(name).is_file():
        raise InputError(f"--net_weight_file {name}: no such file")
    origins, dataset = origins_of_weights(Path(name)), config.data.data_dataset
    if origins:
        require_unseen_start(name, origins, dataset, digest_of_folds(config), fold)
