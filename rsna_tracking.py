"""The trackers that the flags name, for as long as a run lasts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import Interrupted
from common.trackers import MLflowTracker, Tracker, TrackerGroup
from config import Config


@contextlib.contextmanager
def tracking(config: Config, experiment_folder: Path) -> Iterator[Tracker]:
    """Yields the trackers of a run and closes them with its status; none in dev mode."""
    tracker = TrackerGroup(_trackers(config, experiment_folder))
    try:
        yield tracker
    except (Interrupted, KeyboardInterrupt):
        tracker.close("killed")
        raise
    except BaseException:
        tracker.close("failed")
        raise
    tracker.close("finished")


def _trackers(config: Config, experiment_folder: Path) -> Iterator[Tracker]:
    if config.monitor.mlflow_enabled and not config.general.dev_enabled:
        output_dir = Path(config.general.output_dir)
        yield MLflowTracker(experiment_folder, output_dir, config.monitor.mlflow_uri)
