"""Brings a metrics.jsonl, parameters and files to a store, each value once."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.trackers.backend import Backend, Point
from common.trackers.base import is_public_artifact, public_metrics, public_params

# What is read of metrics.jsonl at once, in bytes, and what MLflow takes in one call.
CHUNK_SIZE = 2**18
MAX_POINTS = 1000
# What places a line; all else in it are values.
PLACE_KEYS = frozenset({"iteration", "micro_step", "epoch", "time"})


class Delivery:
    """Remembers what a store has, so that everything arrives once, whenever it can be reached.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.num_sent = 0
        self.num_known = 0
        self._is_connected = False
        self._path: Path | None = None
        self._offset = 0
        self._params: dict[str, str] = {}
        self._files: list[Path] = []
        self._known: dict[str, set[int]] = {}

    def follow(self, path: Path) -> None:
        """Takes the values from a metrics.jsonl, from its beginning."""
        self._path, self._offset = path, 0

    def add_params(self, params: Mapping[str, Any]) -> None:
        """Adds the parameters that are plain words and numbers."""
        self._params |= public_params(params)

    def add_file(self, path: Path) -> None:
        """Adds a file, if it may be shown."""
        if is_public_artifact(path):
            self._files.append(path)

    def deliver(self) -> None:
        """Sends all there is now. Raises what the store raises; the rest is sent next time."""
        if not self._is_connected:
            self.backend.connect()
            self._is_connected = True
        if self._params:
            self.backend.send_params(self._params)
            self._params = {}
        for lines, end in self._chunks():
            for points in _batches(self._new_points(lines)):
                self.backend.send_points(points)
                self.num_sent += len(points)
            self._offset = end
        while self._files:
            self.backend.send_file(self._files[0])
            del self._files[0]

    def num_left(self) -> int:
        """The values and files that wait; values count that the store may have, but has not said.

        After a failure in mid-chunk the whole chunk counts.
        """
        lines = (line for chunk, _ in self._chunks() for line in chunk)
        return sum(1 for line in lines for _ in _points(line)) + len(self._files)

    def _chunks(self) -> Iterator[tuple[list[bytes], int]]:
        """Yields the whole lines from the offset on, some at a time, and where they end."""
        if self._path is None or not self._path.is_file():
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            while lines := file.readlines(CHUNK_SIZE):
                if not lines[-1].endswith(b"\n"):
                    lines.pop()
                    file.seek(0, 2)
                if lines:
                    yield lines, self._offset + sum(map(len, lines))

    def _new_points(self, lines: list[bytes]) -> Iterator[Point]:
        for line in lines:
            for point in _points(line):
                if point.name not in self._known:
                    self._known[point.name] = self.backend.known_iterations(point.name)
                if point.iteration in self._known[point.name]:
                    self.num_known += 1
                else:
                    yield point


def _points(line: bytes) -> Iterator[Point]:
    try:
        record = json.loads(line)
        iteration, time_ms = int(record["iteration"]), round(1000 * record["time"])
    except (ValueError, KeyError, TypeError):
        return
    values = {
        name: value
        for name, value in record.items()
        if name not in PLACE_KEYS and isinstance(value, int | float)
    }
    for name, value in public_metrics(values).items():
        yield Point(name, value, time_ms, iteration)


def _batches(points: Iterator[Point]) -> Iterator[list[Point]]:
    batch: list[Point] = []
    for point in points:
        batch.append(point)
        if len(batch) == MAX_POINTS:
            yield batch
            batch = []
    if batch:
        yield batch
