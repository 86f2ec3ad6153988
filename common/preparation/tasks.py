"""Runs tasks on processes of this machine; a task that kills its process fails alone."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_IN_FLIGHT_PER_PROCESS = 3

# When this module was imported, in a worker: when its first task arrived.
_IMPORTED_S = time.monotonic()
_SETTLING_S = 0.5


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """The result of a task, or None where every process that tried it died."""

    task: Task
    result: Result | None


class TaskRunner:
    """Runs functions over tasks on a local Dask cluster; a context manager.

    Args:
        num_processes: how many; 0 runs everything in this process, where a codec that crashes
            takes the whole run with it.
    """

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self._cluster: Any = None
        self._client: Any = None

    def __enter__(self) -> "TaskRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._cluster.close()

    def stream(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yields the outcome of `function` for every task, in the order they finish.

        Few tasks are handed out at a time, so the number of tasks costs no memory. An exception
        of the function is raised here. Whatever shared the processes with a task that killed
        them is tried again alone, so only the culprit fails.
        """
        if self.num_processes == 0:
            for task in tasks:
                yield Outcome(task, function(task))
            return
        self._start()
        suspects = []
        for outcome in self._stream_once(function, iter(tasks)):
            if outcome.result is None:
                suspects.append(outcome.task)
            else:
                yield outcome
        for task in suspects:
            yield from self._stream_once(function, iter([task]))

    def _stream_once(
        self, function: Callable[[Task], Result], tasks: Iterator[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        from distributed import KilledWorker, as_completed

        task_of = {}
        finished = as_completed()

        def hand_out(num_tasks: int) -> None:
            for _, task in zip(range(num_tasks), tasks):
                future = self._client.submit(_call, function, task, pure=False)
                task_of[future.key] = task
                finished.add(future)

        hand_out(_IN_FLIGHT_PER_PROCESS * self.num_processes)
        for future in finished:
            task = task_of.pop(future.key)
            try:
                result = future.result()
            except KilledWorker:
                result = None
            future.release()
            hand_out(1)
            yield Outcome(task, result)

    def _start(self) -> None:
        """Starts the cluster if it does not run yet; where nothing is to do, it never does."""
        if self._client is not None:
            return
        import dask
        from distributed import Client, LocalCluster
        from distributed.system import MEMORY_LIMIT

        # The processes must not start threads of their own beside each other.
        environment = {name: "1" for name in ("OMP_NUM_THREADS", "BLOSC_NTHREADS")}
        dask.config.set(
            {
                # What was beside a task that killed its process is tried again alone anyway.
                "distributed.scheduler.allowed-failures": 0,
                # A process that takes longer to restart would be given up.
                "distributed.deploy.lost-worker-timeout": "1 hour",
                "distributed.nanny.environ": environment,
                "distributed.worker.profile.enabled": False,
                "distributed.admin.log-length": 0,
            }
        )
        for name in ("distributed", "distributed.nanny", "distributed.scheduler"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _sigint_blocked():
            self._cluster = LocalCluster(
                n_workers=self.num_processes,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                memory_limit=MEMORY_LIMIT // self.num_processes,
                silence_logs=logging.CRITICAL,
            )
        self._client = Client(self._cluster)
        logger.debug("%d processes of %d cores", self.num_processes, os.cpu_count())


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Blocks SIGINT in the threads and processes that are started within, for good.

    Ctrl+C in a terminal reaches every process of the group. The one that started the others
    stops them; each would print a traceback of its own otherwise. A signal that arrives within
    is delivered at the end.
    """
    # Its start unblocks SIGINT in the thread where it happens.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    """Runs a task in a worker.

    A worker that dies before its nanny knows that it lives is never replaced (distributed
    2026.8), so the first task of each waits a little.
    """
    time.sleep(max(0.0, _IMPORTED_S + _SETTLING_S - time.monotonic()))
    return function(task)
