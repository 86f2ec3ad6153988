"""Limits of a task: time and memory. What exceeds one is killed with its process.

A codec can hold the interpreter's lock for ever, so nothing inside the process could end it.
"""

from dataclasses import dataclass

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
