"""The interface of a store of runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

Status = Literal["finished", "failed", "killed"]


def reason_of(error: Exception) -> str:
    """Return kind and first line of an error of a store, at most 200 characters of it."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
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

    It is made in one process and used in another, so it is pickled before it is connected.
    What `common.trackers.public` does not let through never gets here.
    """

    title: str

    @abstractmethod
    def connect(self) -> None:
        """Find the run of the experiment in the store, or make it, and mark it as running."""

    def known_iterations(self, name: str) -> set[int]:
        """Return the iterations at which the store had the metric when it was connected."""
        return set()

    @abstractmethod
    def send_params(self, params: Mapping[str, str]) -> None:
        """Add the parameters that the run lacks."""

    @abstractmethod
    def send_points(self, points: Sequence[Point]) -> None:
        """Add values; a call that fails is repeated with the same ones first."""

    def send_file(self, path: Path) -> None:
        """Add or replace a file of the run; nothing where the store lies beside the file."""
        return

    @abstractmethod
    def end(self, status: Status) -> None:
        """Deliver all that is left, and mark the run as ended."""
