"""A tracker whose store is dealt with by a process of its own."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.trackers.base import Status, Tracker, is_public_artifact, public_params

logger = logging.getLogger(__name__)

# What a pipe takes whole or not at all (Linux), in bytes.
MAX_MESSAGE = 4096


class RemoteTracker(Tracker):
    """Starts the process beside the training (`common.trackers.sidecar`), and talks to it.

    The process starts with the first thing that there is to show. No call waits: a message that the
    process does not take at once is dropped, and values come from metrics.jsonl, so they wait there
    for a store that is dead or slow. Only `close` waits, for at most `close_seconds`.

    Args:
        kind: `module:Class` of the backend.
        options: its arguments, plain types.
        title: name of the store, for messages.
        lock_path: a file that only one process of this run and store holds.
        close_seconds: the longest wait for what is left at the end.
        batch_seconds: how often metrics.jsonl is looked at.
        retry_seconds: how long a failed store is left alone.
    """

    def __init__(
        self,
        kind: str,
        options: Mapping[str, Any],
        title: str,
        lock_path: Path,
        *,
        close_seconds: float = 60.0,
        batch_seconds: float = 2.0,
        retry_seconds: float = 60.0,
    ) -> None:
        self.title = title
        self.num_left: int | None = None
        self._close_seconds = close_seconds
        self._is_closed = False
        self._heard = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._has_started = False
        self._order = {
            "kind": kind,
            "options": dict(options),
            "lock": str(lock_path.resolve()),
            "parent": os.getpid(),
            "batch_seconds": batch_seconds,
            "retry_seconds": retry_seconds,
        }

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Shows the parameters that are plain words and numbers."""
        message: dict[str, str] = {}
        for name, value in public_params(params).items():
            if len(json.dumps({"params": message | {name: value}})) >= MAX_MESSAGE:
                self._say({"params": message})
                message = {}
            message[name] = value
        self._say({"params": message})

    def follow(self, path: Path) -> None:
        """Shows every line of a metrics.jsonl, those that are there and those that will be."""
        self._say({"follow": str(path.resolve())})

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Sends nothing, since metrics.jsonl is followed; warns once of a store that fails."""
        self._hear()

    def log_artifact(self, path: Path) -> None:
        """Shows a report or a table of metrics; no other file is sent."""
        if is_public_artifact(path):
            self._say({"file": str(path.resolve())})

    def close(self, status: Status = "finished") -> None:
        """Waits until the rest has arrived, `close_seconds` at most; warns of what has not."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._has_started:
            return
        self._say({"close": status})
        if self._process is not None:
            deadline = time.monotonic() + self._close_seconds
            while self._process.poll() is None and time.monotonic() < deadline:
                self._hear()
                time.sleep(0.02)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._hear()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.num_left is None:
            logger.warning("%s did not take everything in time; metrics.jsonl has it", self.title)
        elif self.num_left:
            logger.warning(
                "%d values and files did not reach %s; metrics.jsonl has all values",
                self.num_left,
                self.title,
            )

    @property
    def has_missed(self) -> bool:
        """Whether, after `close`, something is known not to have arrived."""
        return self._is_closed and self._has_started and self.num_left != 0

    def _start(self) -> subprocess.Popen[bytes] | None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "common.trackers.sidecar"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                # Ctrl+C and the signals of a cluster are for the training.
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("%s: its process does not start: %s", self.title, error)
            return None
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _say(self, message: Mapping[str, Any]) -> None:
        if not self._has_started:
            self._has_started = True
            self._process = self._start()
            self._say(self._order)
        if self._process is None or self._process.stdin is None:
            return
        line = (json.dumps(message) + "\n").encode()
        if len(line) > MAX_MESSAGE:
            logger.warning("%s: a path is too long to be passed on", self.title)
            return
        # A process that is gone or stuck is noticed at the end.
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), line)

    def _hear(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with contextlib.suppress(OSError):
            while part := os.read(self._process.stdout.fileno(), 2**16):
                self._heard += part
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                logger.warning(
                    "%s fails, and the run goes on without it: %s", self.title, message["error"]
                )
            if "left" in message:
                self.num_left = message["left"]
