"""Stores of runs that remember, hang, refuse or are full; used in another process."""

import errno
import json
import os
import time
from pathlib import Path

from common.trackers import Backend


class RecordingBackend(Backend):
    """Appends what it gets to a file, a JSON line a call; knows the points that are in it."""

    title = "the recorder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before: list[list] = []

    def calls(self, kind: str) -> list:
        text = self.path.read_text() if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [value for name, value in lines if name == kind]

    def connect(self) -> None:
        self._before = [point for points in self.calls("points") for point in points]
        self._write("connect", os.getpid())

    def known_iterations(self, name):
        return {point[3] for point in self._before if point[0] == name}

    def send_params(self, params):
        self._write("params", dict(params))

    def send_points(self, points):
        self._write("points", [list(point) for point in points])

    def send_file(self, path):
        self._write("file", path.name)

    def end(self, status):
        self._write("end", status)

    def _write(self, name, value):
        with open(self.path, "a") as file:
            file.write(json.dumps([name, value]) + "\n")


class StuckBackend(RecordingBackend):
    """Never returns."""

    def connect(self) -> None:
        time.sleep(1000)


class RefusingBackend(RecordingBackend):
    """Is never there."""

    def connect(self) -> None:
        raise ConnectionError("nobody answers")


class FullBackend(RecordingBackend):
    """Has no space left."""

    def send_points(self, points):
        raise OSError(errno.ENOSPC, "No space left on device")


class BrokenBackend(RecordingBackend):
    """Can't be made in another process."""

    def __setstate__(self, state) -> None:
        raise ImportError("no such client")
