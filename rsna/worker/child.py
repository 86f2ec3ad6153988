"""The process that holds the network: warm, watched, and started again when it dies.

Parent and child exchange lines of JSON over pipes. The child alone opens pixels, so that a codec
that crashes, hangs or takes all memory costs one study.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from common.errors import InputError
from common.preparation.workers.limits import Limits

START_S = 120.0
"""Time for imports and for loading the network."""
POLL_S = 0.1
MOST_REPLY_BYTES = 16 << 20
CRASHED, KILLED = "crashed", "killed"
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
_ROOT = Path(__file__).resolve().parents[2]


class Stopped(Exception):
    """The worker is to end: what it is at is left for its next start."""


class ChildDied(Exception):
    """The child died over a request: TIMEOUT or MEMORY, CRASHED, or KILLED from outside."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Child:
    """The process, started when it is needed.

    Args:
        module: name of the module whose `open_analysis(settings)` makes the function that the
            child runs for each request.
        settings: for that function; plain values.
        limits: of one request.

    `is_over` says when nothing is waited for any more: whoever waits gets `Stopped`.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], limits: Limits) -> None:
        self.module, self.settings, self.limits = module, settings, limits
        self.process: subprocess.Popen[bytes] | None = None
        self.is_over: Callable[[], bool] = lambda: False
        self.num_starts, self._is_ready = 0, False

    def spawn(self) -> None:
        """Start the process, and do not wait for its imports."""
        self.close()
        environment = {name: text for name, text in os.environ.items() if "_AUTH" not in name}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
        self.process = self._begin(environment)
        self.num_starts, self._is_ready = self.num_starts + 1, False
        self._write({"module": self.module, "settings": dict(self.settings)})

    def _begin(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rsna.worker.serving"],  # not of the present folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Codecs write what they find in headers there.
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start the process if it is not up, and wait until it can be asked.

        Raises:
            InputError: it says why it can't work.
            ChildDied: it died before that.
        """
        if self.process is None or self.process.poll() is not None:
            self.spawn()
        if self._is_ready:
            return
        reply = self._reply(Limits(START_S))
        if "error" in reply:
            self.close()
            raise InputError(str(reply["error"]))
        self._is_ready = True

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply to a request of a child that was started; raise ChildDied."""
        self._write(request)
        return self._reply(self.limits)

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # Reading tells how it died.
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def _reply(self, limits: Limits) -> Mapping[str, Any]:
        assert self.process is not None
        try:
            reply = json.loads(self._read_line(self.process, limits))
        except (ValueError, psutil.NoSuchProcess) as error:
            raise self._death() from error
        if not isinstance(reply, dict):
            raise self._death()
        return reply

    def _read_line(self, process: subprocess.Popen[bytes], limits: Limits) -> bytes:
        assert process.stdout is not None
        started, data = time.monotonic(), b""
        watched = psutil.Process(process.pid)
        while not data.endswith(b"\n"):
            if select.select([process.stdout], [], [], POLL_S)[0]:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                data += chunk
                if not chunk or len(data) > MOST_REPLY_BYTES:
                    raise self._death()
                continue
            if self.is_over():
                self.close()
                raise Stopped
            exceeded = limits.exceeded(time.monotonic() - started, watched)
            if exceeded is not None:
                self.close()
                raise ChildDied(exceeded)
        return data

    def _death(self) -> ChildDied:
        """Wait for the end of the process, and return how it died.

        Raises:
            Stopped: that is no wonder.
        """
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        status = self.process.poll()
        self.close()
        if self.is_over():
            raise Stopped
        return ChildDied(KILLED if status in _FROM_OUTSIDE else CRASHED)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self.process = None
