"""Run tasks on processes; a task that kills its process, or exceeds a limit, fails alone."""

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from common.errors import InputError
from common.preparation.workers.cluster import check_workers, connect
from common.preparation.workers.limits import MEMORY, TIMEOUT, Limits, Watchdog, read_mark
from common.preparation.workers.local import LocalProcesses, memory_share_mb

__all__ = ["MEMORY", "TIMEOUT", "Limits", "Outcome", "TaskRunner"]

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_IN_FLIGHT_PER_PROCESS = 3
_COUNT_EVERY_S = 10.0

# When this module was imported, in a worker: when its first task arrived.
_IMPORTED_S = time.monotonic()
_SETTLING_S = 0.5
_WATCHDOG = Watchdog()


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """The result of a task, or None where every process that tried it died.

    Attributes:
        exceeded: the limit it was killed for (TIMEOUT or MEMORY), or None.
    """

    task: Task
    result: Result | None
    exceeded: str | None = None


@dataclass(frozen=True)
class _Exceeded:
    """Stands in for the result of a task that was killed for a limit before."""

    limit: str


class TaskRunner:
    """Runs functions over tasks on processes; a context manager.

    Args:
        num_processes: how many on this machine; 0 runs everything in this process, where a codec
            that crashes takes the whole run with it, and nothing is limited.
        address: of a Dask scheduler, whose workers are used instead.
        limits: of a task; a task that exceeds one is killed with its process.
        marks: a folder that all processes of a scheduler can write to, for the limits that killed
            tasks exceeded.
    """

    def __init__(
        self,
        num_processes: int,
        address: str | None = None,
        limits: Limits | None = None,
        marks: Path | None = None,
    ) -> None:
        self.num_processes = num_processes
        self.address = address
        self._limits = limits or Limits()
        self._marks = marks
        self._client: Any = None
        self._local = LocalProcesses(num_processes)
        self._counted: tuple[float, int] = (-_COUNT_EVERY_S, num_processes)

    def __enter__(self) -> "TaskRunner":
        if self._marks is not None:
            shutil.rmtree(self._marks, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()
        self._local.close()
        if self._marks is not None:
            shutil.rmtree(self._marks, ignore_errors=True)

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
        of the function is raised here. Whatever shared the processes of a scheduler with a task
        that killed them is tried again alone, so only the culprit fails; what was killed for a
        limit is known to be the culprit.
        """
        limits = self.limits
        if limits is None:
            for task in tasks:
                yield Outcome(task, function(task))
            return
        if self.address is None:
            for task, result, exceeded in self._local.stream(function, tasks, limits):
                yield Outcome(task, result, exceeded)
            return
        suspects = []
        for outcome in self._stream_once(function, iter(tasks)):
            if outcome.result is None and outcome.exceeded is None:
                suspects.append(outcome.task)
            else:
                yield outcome
        for task in suspects:
            yield from self._stream_once(function, iter([task]))

    def _stream_once(
        self, function: Callable[[Task], Result], tasks: Iterator[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        from distributed import KilledWorker, as_completed

        given: dict[str, tuple[Task, Path | None]] = {}
        finished = as_completed()
        limits = self.limits

        def hand_out() -> None:
            num_tasks = _IN_FLIGHT_PER_PROCESS * self.num_workers() - len(given)
            for _, task in zip(range(num_tasks), tasks):
                mark = None if self._marks is None else self._marks / uuid.uuid4().hex
                future = self._client.submit(_call, function, task, limits, mark, pure=False)
                given[future.key] = (task, mark)
                finished.add(future)

        hand_out()
        for future in finished:
            task, mark = given.pop(future.key)
            try:
                result = self._result_of(future)
            except KilledWorker:
                result = None if mark is None else read_mark(mark)
                result = None if result is None else _Exceeded(result)
            future.release()
            hand_out()
            if isinstance(result, _Exceeded):
                yield Outcome(task, None, result.limit)
            else:
                yield Outcome(task, result)

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


def _call(
    function: Callable[[Task], Result], task: Task, limits: Limits, mark: Path | None
) -> Result | _Exceeded:
    """Run a task in a worker, unless it was killed for a limit before.

    A worker that dies before its nanny knows that it lives is never replaced (distributed
    2026.8), so the first task of each waits a little.
    """
    time.sleep(max(0.0, _IMPORTED_S + _SETTLING_S - time.monotonic()))
    if mark is None:
        return function(task)
    exceeded = read_mark(mark)
    if exceeded is not None:
        return _Exceeded(exceeded)
    with _WATCHDOG.watching(limits, mark):
        return function(task)
