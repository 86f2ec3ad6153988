"""The tracker that does nothing, the one that fans out, and what may leave an experiment at all."""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Status = Literal["finished", "failed", "killed"]

# Names that code chooses: no DICOM UID starts with a letter, and no RSNA id with a small one.
METRIC_NAME = re.compile(r"[a-z][a-z0-9_./-]*")
# Words and numbers such as a model's name, without the separators of paths and DICOM names.
PARAMETER_TEXT = re.compile(r"[A-Za-z0-9_.,+:=\[\]() -]*")
# What of the experiment folder holds no patient, no id but those of images, and no path.
ARTIFACTS = frozenset({"metrics.json", "metrics.jsonl", "report.html"})


class Tracker:
    """Shows a run somewhere. This one shows it nowhere, so that nobody needs to ask for one.

    A tracker never raises into a training and never holds it up. Only what the functions
    `public_*` of this module let through may be sent.

    | method | called |
    |---|---|
    | log_params | once, before the training |
    | follow | when a fit begins: metrics.jsonl is whole up to there, and grows from now on |
    | log_metrics | each time metrics.jsonl gets a line |
    | log_artifact | for a finished file of the experiment folder |
    | close | once, at the end |
    """

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Shows the parameters of the run."""

    def follow(self, path: Path) -> None:
        """Shows every line of a metrics.jsonl, those that are there and those that will be."""

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Shows values at an iteration (optimizer step), where the tracker follows no file."""

    def log_artifact(self, path: Path) -> None:
        """Shows a copy of a file."""

    def close(self, status: Status = "finished") -> None:
        """Delivers what is left and ends the run with a status."""

    @property
    def has_missed(self) -> bool:
        """Whether, after `close`, something is known not to have arrived."""
        return False


class TrackerGroup(Tracker):
    """Passes everything on to each of its trackers, in their order; it may be empty."""

    def __init__(self, trackers: Iterable[Tracker] = ()) -> None:
        self.trackers = tuple(trackers)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Passes the parameters on."""
        for tracker in self.trackers:
            tracker.log_params(params)

    def follow(self, path: Path) -> None:
        """Passes the path on."""
        for tracker in self.trackers:
            tracker.follow(path)

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Passes the values on."""
        for tracker in self.trackers:
            tracker.log_metrics(iteration, metrics)

    def log_artifact(self, path: Path) -> None:
        """Passes the file on."""
        for tracker in self.trackers:
            tracker.log_artifact(path)

    def close(self, status: Status = "finished") -> None:
        """Closes all trackers."""
        for tracker in self.trackers:
            tracker.close(status)

    @property
    def has_missed(self) -> bool:
        """Whether any of them has missed something."""
        return any(tracker.has_missed for tracker in self.trackers)


def public_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns the numbers, switches and plain words among the parameters, as text.

    Paths and whatever else could name a person or a place of one machine are left out.
    """
    public = {}
    for name, value in params.items():
        text = "" if value is None else str(value)
        if METRIC_NAME.fullmatch(name) and _is_plain(value) and PARAMETER_TEXT.fullmatch(text):
            public[name] = text
        else:
            logger.debug("parameter %s stays in the experiment folder", name)
    return public


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def public_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the finite numbers under names that code chooses."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if METRIC_NAME.fullmatch(name) and math.isfinite(value)
    }


def is_public_artifact(path: Path) -> bool:
    """Whether a file may be shown; a warning in the log says so where it may not."""
    if path.name in ARTIFACTS:
        return True
    logger.warning("%s stays in the experiment folder: it may hold patient ids", path.name)
    return False
