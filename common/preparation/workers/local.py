"""Processes of this machine with one task at a time: one that dies takes no other task along."""

import contextlib
import itertools
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

import cloudpickle
import psutil

from common.machine import memory_limit
from common.preparation.workers.limits import POLL_S, Limits
from common.tasks import BEGUN

# Tasks of a preparation need it: it is imported while the first one is made.
IMPORTED_FIRST = __package__
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "BLOSC_NTHREADS": "1"}


Task = TypeVar("Task")
Result = TypeVar("Result")


class Outcome(NamedTuple, Generic[Task, Result]):
    """The result of a task, or None where it killed its process or was killed for a limit.

    Attributes:
        exceeded: that limit (TIMEOUT or MEMORY), or None.
    """

    task: Task
    result: Result | None
    exceeded: str | None = None


def memory_share_mb(num_processes: int) -> float:
    """Return what each of so many processes of this machine can have, in 10^6 bytes."""
    return 0.9 * memory_limit() / num_processes / 1e6


class LocalProcesses:
    """Processes that are started when there is a task for them, and kept for the next."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._idle: list[_Worker] = []

    def start(self) -> None:
        """Start the first one before there is a task: its imports take a second."""
        if self.most and not self._idle:
            self._idle.append(_Worker())

    def close(self) -> None:
        """End the processes."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _take(self) -> "_Worker":
        """Return an idle process, or a new one; one may have been killed while it was idle."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_running():
                return worker
            worker.close()
        return _Worker()

    def stream(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], limits: Limits
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield the outcomes in the order the tasks finish; an exception is raised here."""
        busy: dict[Connection, _Worker] = {}
        ended: list[tuple[Any, tuple[Any, BaseException | None], str | None]] = []
        waiting = iter(tasks)
        try:
            while True:
                # Before the outcomes go out: nobody waits for who takes them.
                for task in itertools.islice(waiting, self.most - len(busy)):
                    worker = self._take()
                    busy[worker.pipe] = worker
                    worker.begin(function, task, limits)
                for task, (result, error), exceeded in ended:
                    if error is not None:
                        raise error
                    yield Outcome(task, result, exceeded)
                if not busy:
                    return
                wait(busy, POLL_S)
                over = [worker for worker in busy.values() if worker.is_over()]
                ended = [(worker.task, worker.answer, worker.exceeded) for worker in over]
                for worker in over:
                    del busy[worker.pipe]
                    if worker.is_alive:
                        self._idle.append(worker)
        finally:
            for worker in busy.values():
                worker.close()


class _Worker:
    """A process, with its task and how that ended."""

    def __init__(self) -> None:
        self.task: Any = None
        self.answer: tuple[Any, BaseException | None] = (None, None)
        self.exceeded: str | None = None
        self._limits, self._began_s = Limits(), math.inf
        self.pipe, theirs = multiprocessing.Pipe()
        code = f"import {IMPORTED_FIRST}; from common.tasks import work; work({theirs.fileno()})"
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],  # without the present folder before all else
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            # Ctrl+C is for the process that started all others.
            start_new_session=True,
        )
        theirs.close()
        self._watched = psutil.Process(self._process.pid)
        self.is_alive = True

    def is_running(self) -> bool:
        return self._process.poll() is None

    def begin(self, function: Callable[[Any], Any], task: Any, limits: Limits) -> None:
        self.task, self.answer, self.exceeded = task, (None, None), None
        self._limits, self._began_s = limits, math.inf
        with contextlib.suppress(OSError):  # reading tells that it died
            self.pipe.send_bytes(cloudpickle.dumps((function, task)))

    def is_over(self) -> bool:
        """Return whether its task is over; kill it where that exceeds a limit."""
        try:
            while self.pipe.poll():
                data = self.pipe.recv_bytes()
                if data != BEGUN:
                    self.answer = pickle.loads(data)
                    return True
                self._began_s = time.monotonic()
            spent_s = time.monotonic() - self._began_s
            self.exceeded = self._limits.exceeded(spent_s, self._watched)
        except (EOFError, OSError, psutil.NoSuchProcess):
            if self._began_s == math.inf:
                raise RuntimeError("a process ended before its task began") from None
            self.close()
        if self.exceeded is not None:
            self.close()
        return not self.is_alive

    def close(self) -> None:
        self.is_alive = False
        self._process.kill()
        self._process.wait()
        self.pipe.close()
