"""Kills a process whose task takes too long or too much memory, from a process of its own.

A codec can hold the interpreter's lock for ever, so nothing inside the process could end it. The
watchdog reads the begin and end of each task from its standard input, writes the exceeded limit
to a file, and sends SIGKILL. It leaves when its pipe closes, so it never outlives the
process it watches.

It runs as a script, apart from the package: it imports nothing of it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TIMEOUT = "timeout"
MEMORY = "memory"
POLL_S = 0.1
"""How often memory is looked at: what a process can take in that time comes on top."""


@dataclass(frozen=True)
class Limits:
    """Limits of one task; 0 is no limit.

    Attributes:
        seconds: wall time.
        memory_mb: resident memory of the process, in units of 10^6 bytes.
    """

    seconds: float = 0.0
    memory_mb: float = 0.0

    def of(self, status: str) -> float:
        """Return the limit whose excess has this status."""
        return {TIMEOUT: self.seconds, MEMORY: self.memory_mb}[status]

    def exceeded(self, seconds: float, watched: psutil.Process) -> str | None:
        """Return the limit that a process exceeds, which has worked for so long."""
        if self.seconds and seconds > self.seconds:
            return TIMEOUT
        if self.memory_mb and watched.memory_info().rss > 1e6 * self.memory_mb:
            return MEMORY
        return None


class Watchdog:
    """The watchdog of this process: one, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watching(self, limits: Limits, mark: Path) -> Iterator[None]:
        """Watch the block; if it exceeds a limit, write that limit to `mark` and kill the process.

        One block at a time is watched in a process; others wait for their turn.
        """
        with self._lock:
            if not limits.seconds and not limits.memory_mb:
                yield
                return
            self._send({"seconds": limits.seconds, "mb": limits.memory_mb, "mark": str(mark)})
            try:
                yield
            finally:
                self._send({})

    def _send(self, order: dict[str, object]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                text=True,
                # Ctrl+C is for the process that started all others.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


def read_mark(mark: Path) -> str | None:
    """Return the limit that was exceeded (TIMEOUT or MEMORY), or None where none was."""
    try:
        text = mark.read_text(encoding="ascii")
    except OSError:
        return None
    return text if text in (TIMEOUT, MEMORY) else None


def main(pid: int) -> None:
    """Watch over the process `pid` until standard input ends."""
    watched = psutil.Process(pid)
    order: dict[str, Any] = {}
    started, rest = 0.0, b""
    while True:
        ready, _, _ = select.select([0], [], [], POLL_S if order else None)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                order, started = json.loads(lines[-1]), time.monotonic()
        limits = Limits(order.get("seconds", 0.0), order.get("mb", 0.0))
        exceeded = limits.exceeded(time.monotonic() - started, watched)
        if exceeded is not None:
            _write_mark(Path(str(order["mark"])), exceeded)
            watched.send_signal(signal.SIGKILL)
            return


def _write_mark(mark: Path, text: str) -> None:
    """Write the mark in one step; a full disk must not keep a process alive."""
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        temporary = mark.with_name(f"{mark.name}.tmp")
        temporary.write_text(text, encoding="ascii")
        os.replace(temporary, mark)


if __name__ == "__main__":
    with contextlib.suppress(psutil.NoSuchProcess):
        main(int(sys.argv[1]))
