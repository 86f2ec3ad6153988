"""What a store of runs can do, whoever calls it: the process beside a training, or a resend."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.trackers.base import Status


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
        name: of the metric.
        value: a finite number.
        time_ms: milliseconds since 1970.
        iteration: optimizer steps done.
    """

    name: str
    value: float
    time_ms: int
    iteration: int


class Backend(ABC):
    """A store of runs, used by one thread. Any method may raise anything; it is called again then.

    Args of subclasses are plain types: they travel to another process as JSON. What has not been
    cleaned by `common.trackers.base.public_*` never gets here.
    """

    title: str

    @abstractmethod
    def connect(self) -> None:
        """Finds the run of the experiment in the store, or makes it, and marks it as running."""

    def known_iterations(self, name: str) -> set[int]:
        """The iterations at which the store had the metric when it was connected."""
        return set()

    @abstractmethod
    def send_params(self, params: Mapping[str, str]) -> None:
        """Adds the parameters that the run lacks."""

    @abstractmethod
    def send_points(self, points: Sequence[Point]) -> None:
        """Adds values; what fails in the middle may be sent again whole."""

    @abstractmethod
    def send_file(self, path: Path) -> None:
        """Adds or replaces a file of the run."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Delivers all that is left, and marks the run as ended."""


def make_backend(kind: str, options: Mapping[str, Any]) -> Backend:
    """Returns the backend `kind`, `module:Class`, made with plain options."""
    import importlib

    module, name = kind.split(":")
    backend = getattr(importlib.import_module(module), name)(**options)
    assert isinstance(backend, Backend)
    return backend
