"""Sends an experiment folder to a store, each value once."""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path

from common.experiment import Experiment
from common.files import parse_yaml
from common.trackers.backend import Backend, Point, Status
from common.trackers.public import ARTIFACTS, public_metrics, public_params

# The most values that MLflow takes in one call.
MAX_POINTS = 1000
# What places a line of metrics.jsonl; all else in it are values.
PLACE_KEYS = frozenset({"iteration", "micro_step", "epoch", "time"})
# How long to wait for another process that sends the same run, such as that of a killed training.
LOCK_SECONDS = 30.0


class FolderSender:
    """Sends config.yaml, metrics.jsonl, metrics.json and report.html as far as they are there.

    Whatever raises is sent by the next call, and only that: values that a call of the store took
    are not sent again.
    """

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.experiment = Experiment(folder)
        self.num_sent = 0
        self.num_known = 0
        self._is_connected = False
        self._offset = 0
        self._waiting: list[Point] = []
        self._known: dict[str, set[int]] = {}

    def send(self) -> None:
        """Send the flags and all values that are there now."""
        if not self._is_connected:
            path = self.experiment.config_file
            text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
            self.backend.connect()
            self.backend.send_params(public_params(parse_yaml(text)))
            self._is_connected = True
        self._read()
        while points := self._waiting[:MAX_POINTS]:
            self.backend.send_points(points)
            self.num_sent += len(points)
            del self._waiting[:MAX_POINTS]

    def finish(self, status: Status) -> None:
        """Send what is left and the files, and end the run."""
        self.send()
        for name in ARTIFACTS:
            if (self.experiment.folder / name).is_file():
                self.backend.send_file(self.experiment.folder / name)
        self.backend.end(status)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of this run and store; go on without it after `LOCK_SECONDS`."""
        name = f".{self.backend.title.lower()}.lock"
        with open(self.experiment.folder / name, "w") as lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.2)
            yield

    def _read(self) -> None:
        """Add the values that the store lacks of the whole lines after the last that was read."""
        path = self.experiment.metrics_log
        if not path.is_file():
            return
        with open(path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        points = [point for line in data.splitlines() for point in _points(line)]
        for name in {point.name for point in points} - self._known.keys():
            self._known[name] = self.backend.known_iterations(name)
        new = [point for point in points if point.iteration not in self._known[point.name]]
        self.num_known += len(points) - len(new)
        self._waiting += new
        self._offset += len(data)


def _points(line: bytes) -> Iterator[Point]:
    try:
        record = json.loads(line)
        iteration, time_ms = int(record["iteration"]), round(1000 * record["time"])
    except (ValueError, KeyError, TypeError):
        return
    own = {name: value for name, value in record.items() if name not in PLACE_KEYS}
    values = {name: value for name, value in own.items() if isinstance(value, int | float)}
    for name, value in public_metrics(values).items():
        yield Point(name, value, time_ms, iteration)
