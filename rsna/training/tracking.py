"""The trackers that the flags name: for as long as a run lasts, and for what they missed of it."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.cli import script_command
from common.errors import InputError, Interrupted
from common.experiment import PREDICTOR_FOLDER, Experiment, experiment_id_of, fold_folders
from common.trackers import (
    EVENTS_FOLDER,
    Backend,
    Delivery,
    MLflowBackend,
    MLflowTracker,
    NeptuneBackend,
    NeptuneTracker,
    TensorBoardBackend,
    TensorBoardTracker,
    Tracker,
    TrackerGroup,
    mlflow_options,
    neptune_options,
)
from common.trackers.base import Status
from config import Config
from rsna.training.preflight import require_clients

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def tracking(config: Config, experiment_folder: Path) -> Iterator[Tracker]:
    """Yields the trackers of a run and closes them with its status; none in dev mode."""
    tracker = TrackerGroup(_trackers(config, experiment_folder))
    try:
        yield tracker
    except (Interrupted, KeyboardInterrupt):
        _close(tracker, "killed", config, experiment_folder)
        raise
    except BaseException:
        _close(tracker, "failed", config, experiment_folder)
        raise
    _close(tracker, "finished", config, experiment_folder)


def monitor_command(config: Config, experiment_folder: Path) -> str | None:
    """Return the command that opens the page of a run's monitor, or None where it has none."""
    if config.general.dev_enabled or config.data.data_fold == "all":
        return None
    if config.monitor.mlflow_enabled:
        return script_command(*_which(config, experiment_folder), script="scripts/monitor.py")
    if config.monitor.tensorboard_enabled:
        return TensorBoardTracker(experiment_folder).ui_command()
    return None


def _which(config: Config, experiment_folder: Path) -> list[str]:
    """Return the flags that name an experiment, and where its store is if that is not usual."""
    which = ["--experiment_id", experiment_id_of(experiment_folder)]
    if config.general.output_dir != "output":
        which += ["--output_dir", config.general.output_dir]
    if config.monitor.mlflow_uri:
        which += ["--mlflow_uri", config.monitor.mlflow_uri]
    return which


def _close(tracker: Tracker, status: Status, config: Config, experiment_folder: Path) -> None:
    """Closes the trackers; tells how to send what they have missed."""
    tracker.close(status)
    if tracker.has_missed:
        command = script_command(*_which(config, experiment_folder), script="scripts/resend.py")
        logger.warning("to send it again: %s", command)


def resend(config: Config) -> dict[str, tuple[int, int]]:
    """Sends what the trackers of an experiment lack, from its metrics.jsonl; twice is as once.

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
        for title, counts in _resend(config, Experiment(fold_folder)).items():
            before = totals.get(title, (0, 0))
            totals[title] = (before[0] + counts[0], before[1] + counts[1])
    return totals


def _resend(config: Config, experiment: Experiment) -> dict[str, tuple[int, int]]:
    backends = list(_backends(config, experiment.folder))
    if not backends:
        raise InputError("no tracker is asked for: give --mlflow_enabled 1 or another")
    counts = {}
    with experiment.running():
        for backend in backends:
            counts[backend.title] = _resend_to(backend, experiment, config.flags())
    return counts


def _resend_to(
    backend: Backend, experiment: Experiment, flags: Mapping[str, Any]
) -> tuple[int, int]:
    delivery = Delivery(backend)
    delivery.add_params(flags)
    delivery.follow(experiment.metrics_log)
    for name in ("metrics.json", "report.html"):
        if (experiment.folder / name).is_file():
            delivery.add_file(experiment.folder / name)
    is_finished = (experiment.folder / PREDICTOR_FOLDER).is_dir()
    try:
        delivery.deliver()
        backend.end("finished" if is_finished else "killed")
    except Exception as error:
        # Whatever a client throws: it is the store that can't be used.
        reason = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            f"{backend.title} can't be reached ({type(error).__name__}: {reason}): start it, or "
            f"name another; what has arrived is not sent again"
        ) from error
    return delivery.num_sent, delivery.num_known


def _trackers(config: Config, experiment_folder: Path) -> Iterator[Tracker]:
    monitor = config.monitor
    # With all folds each has a run of its own.
    if config.general.dev_enabled or config.data.data_fold == "all":
        return
    if monitor.mlflow_enabled:
        output_dir = Path(config.general.output_dir)
        yield MLflowTracker(experiment_folder, output_dir, monitor.mlflow_uri)
    if monitor.tensorboard_enabled:
        yield TensorBoardTracker(experiment_folder)
    if monitor.nml_enabled:
        yield NeptuneTracker(experiment_folder, monitor.nml_project)


def _backends(config: Config, experiment_folder: Path) -> Iterator[Backend]:
    monitor = config.monitor
    if monitor.mlflow_enabled:
        output_dir = Path(config.general.output_dir)
        yield MLflowBackend(**mlflow_options(experiment_folder, output_dir, monitor.mlflow_uri))
    if monitor.tensorboard_enabled:
        yield TensorBoardBackend(str((experiment_folder / EVENTS_FOLDER).resolve()))
    if monitor.nml_enabled:
        arguments, where = neptune_options(experiment_folder, monitor.nml_project)
        logger.info("Neptune: %s", where)
        yield NeptuneBackend(**arguments)
