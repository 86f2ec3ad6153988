"""Run tasks on processes; a task that kills its process, or exceeds a limit, fails alone."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import InputError
from common.preparation.workers.cluster import check_workers, connect
from common.preparation.workers.limits import MEMORY, TIMEOUT, Limits
from common.preparation.workers.local import LocalProcesses, Outcome, Result, Task, memory_share_mb

__all__ = ["MEMORY", "TIMEOUT", "Limits", "Outcome", "TaskRunner"]

_IN_FLIGHT_PER_PROCESS = 3
_COUNT_EVERY_S = 10.0

# Those of a worker of a scheduler, which has one task at a time.
_OWN, _OWN_LOCK = LocalProcesses(1), threading.Lock()


class TaskRunner:
    """Runs functions over tasks on processes; a context manager.

    Args:
        num_processes: how many on this machine; 0 runs everything in this process, where a codec
            that crashes takes the whole run with it, and nothing is limited.
        address: of a Dask scheduler, whose workers are used instead.
        limits: of a task; a task that exceeds one is killed with its process.
    """

    def __init__(
        self, num_processes: int, address: str | None = None, limits: Limits | None = None
    ) -> None:
        self.num_processes = num_processes
        self.address = address
        self._limits = limits or Limits()
        self._client: Any = None
        self._local = LocalProcesses(num_processes)
        self._counted: tuple[float, int] = (-_COUNT_EVERY_S, num_processes)

    def __enter__(self) -> "TaskRunner":
        return self

    def __exit__(self, *error: object) -> None:
        if self._client is not None:
            self._client.close()
        self._local.close()

    @property
    def limits(self) -> Limits | None:
        """The limits in force, or None where tasks run in this process."""
        if self.address is not None:
            return self._limits
        if self.num_processes == 0:
            return None
        # Processes of one machine share its memory.
        share, wanted = memory_share_mb(self.num_processes), self._limits.memory_mb
        return replace(self._limits, memory_mb=min(wanted or share, share))

    def progress(self, total: int, unit: str, title: str) -> tqdm:
        """Return a bar, which is shown on a terminal alone where tasks run in this process."""
        is_hidden = None if self.limits is None else False
        return tqdm(total=total, unit=unit, desc=title, mininterval=1, disable=is_hidden)

    def start(self) -> None:
        """Start a process of this machine, where tasks run on some, before there is a task."""
        if self.address is None:
            self._local.start()

    def rest(self) -> None:
        """End the processes of this machine that have no task; the next task starts others."""
        self._local.close()

    def connect(self, reader: object, source_folder: Path, dataset_folder: Path) -> None:
        """Connect to the cluster at the address and check its workers; InputError if unusable.

        Without an address nothing happens: processes of this machine are started when needed.
        """
        if self.address is None:
            return
        self._client = connect(self.address)
        packages = sorted({"common", type(reader).__module__.partition(".")[0]})
        check_workers(self._client, packages, source_folder, dataset_folder)

    def stream(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield the outcome of `function` for every task, in the order they finish.

        Few tasks are handed out at a time, so the number of tasks costs no memory. An exception
        of the function is raised here.
        """
        limits = self.limits
        if limits is None:
            for task in tasks:
                yield Outcome(task, function(task))
            return
        if self.address is None:
            yield from self._local.stream(function, tasks, limits)
            return
        yield from self._stream_on_cluster(function, iter(tasks), limits)

    def _stream_on_cluster(
        self, function: Callable[[Task], Result], tasks: Iterator[Task], limits: Limits
    ) -> Iterator[Outcome[Task, Result]]:
        from distributed import KilledWorker, as_completed

        given: dict[str, Task] = {}
        finished = as_completed()

        def hand_out() -> None:
            num_tasks = _IN_FLIGHT_PER_PROCESS * self.num_workers() - len(given)
            for _, task in zip(range(num_tasks), tasks):
                future = self._client.submit(_run_on_worker, function, task, limits, pure=False)
                given[future.key] = task
                finished.add(future)

        hand_out()
        for future in finished:
            task, result, exceeded = given.pop(future.key), None, None
            with contextlib.suppress(KilledWorker):
                result, exceeded = self._result_of(future)
            future.release()
            hand_out()
            yield Outcome(task, result, exceeded)

    def _result_of(self, future: Any) -> Any:
        """Return the result of a future; faults of a given cluster become InputError."""
        from distributed import CancelledError
        from distributed.comm import CommClosedError

        try:
            return future.result()
        except (CancelledError, CommClosedError) as error:
            advice = "start it again, then run the same command again"
            raise InputError(
                f"--pre_address {self.address}: the scheduler is lost: {advice}"
            ) from error
        except ModuleNotFoundError as error:
            advice = "start it with the project on its PYTHONPATH"
            raise InputError(f"--pre_address: on a worker, {error}: {advice}") from error

    def num_workers(self) -> int:
        """Return how many processes there are: those of a given cluster come and go."""
        counted_s, number = self._counted
        if self.address is not None and time.monotonic() - counted_s > _COUNT_EVERY_S:
            number = max(1, len(self._client.nthreads()))
            self._counted = (time.monotonic(), number)
        return number


def _run_on_worker(
    function: Callable[[Task], Result], task: Task, limits: Limits
) -> tuple[Result | None, str | None]:
    """Run a task in a process of a worker: what kills that leaves the worker alive.

    A task has no more memory than the worker, which Dask limits without its processes. Taking
    more is no excess of the preparation's limit: another worker may have it.
    """
    from distributed import get_worker

    most_mb = (get_worker().memory_manager.memory_limit or math.inf) / 1e6
    asked_mb = limits.memory_mb or math.inf
    if most_mb < asked_mb:
        limits = replace(limits, memory_mb=most_mb)
    with _OWN_LOCK:
        ((_, result, exceeded),) = _OWN.stream(function, [task], limits)
    return result, None if exceeded == MEMORY and most_mb < asked_mb else exceeded
