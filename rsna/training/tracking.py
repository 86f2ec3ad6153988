"""The stores that the flags name: for as long as a run lasts, and for what they missed of it."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from common.cli import script_command
from common.errors import InputError, Interrupted
from common.experiment import Experiment, experiment_id_of, fold_folders
from common.trackers import (
    Backend,
    FolderSender,
    MLflowBackend,
    NeptuneBackend,
    Status,
    TensorBoardBackend,
    Tracker,
    reason_of,
)
from config import Config
from rsna.training.preflight import require_clients

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def tracking(config: Config, experiment_folder: Path) -> Iterator[Tracker]:
    """Yield the tracker of a run and close it with the run's status; an empty one in dev mode."""
    # With all folds each has a run of its own.
    is_shown = not config.general.dev_enabled and config.data.data_fold != "all"
    backends = _backends(config, experiment_folder) if is_shown else []
    tracker = Tracker(experiment_folder, backends)
    status: Status = "failed"
    try:
        yield tracker
        status = "finished"
    except (Interrupted, KeyboardInterrupt):
        status = "killed"
        raise
    finally:
        tracker.close(status)
        if tracker.has_missed:
            which = _which(config, experiment_folder)
            command = script_command(*which, script="scripts/resend.py")
            logger.warning("to send it again: %s", command)


def monitor_command(config: Config, experiment_folder: Path) -> str | None:
    """Return the command that opens the page of a run's monitor, or None where it has none."""
    if config.general.dev_enabled or config.data.data_fold == "all":
        return None
    if config.monitor.mlflow_enabled:
        return script_command(*_which(config, experiment_folder), script="scripts/monitor.py")
    if config.monitor.tensorboard_enabled:
        return TensorBoardBackend(experiment_folder).ui_command()
    return None


def _which(config: Config, experiment_folder: Path) -> list[str]:
    """Return the flags that name an experiment, and where its store is if that is not usual."""
    which = ["--experiment_id", experiment_id_of(experiment_folder)]
    if config.general.output_dir != "output":
        which += ["--output_dir", config.general.output_dir]
    if config.monitor.mlflow_uri:
        which += ["--mlflow_uri", config.monitor.mlflow_uri]
    return which


def resend(config: Config) -> dict[str, tuple[int, int]]:
    """Send what the trackers of an experiment lack, from its metrics.jsonl; twice is as once.

    Args:
        config: the flags of the experiment, with those of the trackers as they are wanted now.

    Returns:
        By tracker, how many values were sent and how many were there.

    Raises:
        InputError: no tracker is asked for, one can't be reached, or the experiment is running.
    """
    require_clients(config)
    folder = config.existing_experiment_folder()
    if config.data.data_fold != "all":
        return _resend(config, Experiment(folder))
    totals: dict[str, tuple[int, int]] = {}
    for fold_folder in fold_folders(folder):
        for title, (num_sent, num_known) in _resend(config, Experiment(fold_folder)).items():
            sent, known = totals.get(title, (0, 0))
            totals[title] = (sent + num_sent, known + num_known)
    return totals


def _resend(config: Config, experiment: Experiment) -> dict[str, tuple[int, int]]:
    backends = _backends(config, experiment.folder)
    if not backends:
        raise InputError("no tracker is asked for: give --mlflow_enabled 1 or another")
    with experiment.running():
        return {backend.title: _resend_to(backend, experiment) for backend in backends}


def _resend_to(backend: Backend, experiment: Experiment) -> tuple[int, int]:
    sender = FolderSender(backend, experiment.folder)
    try:
        with sender.alone():
            sender.finish("finished" if experiment.predictor.is_dir() else "killed")
    except Exception as error:
        # Whatever a client throws: it is the store that can't be used.
        raise InputError(
            f"{backend.title} can't be reached ({reason_of(error)}): start it, or name another; "
            f"what has arrived is not sent again"
        ) from error
    return sender.num_sent, sender.num_known


def _backends(config: Config, experiment_folder: Path) -> list[Backend]:
    monitor = config.monitor
    backends: list[Backend] = []
    if monitor.mlflow_enabled:
        output_dir = Path(config.general.output_dir)
        backends.append(MLflowBackend(experiment_folder, output_dir, monitor.mlflow_uri))
    if monitor.tensorboard_enabled:
        backends.append(TensorBoardBackend(experiment_folder))
    if monitor.nml_enabled:
        neptune = NeptuneBackend(experiment_folder, monitor.nml_project)
        logger.info("Neptune: %s", neptune.where)
        backends.append(neptune)
    return backends
