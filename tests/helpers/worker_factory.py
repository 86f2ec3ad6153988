"""Workers of tests: on a folder or an Orthanc, with the stand-in child and clocks that are set."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import warm
from dicom_factory import write_ct
from worker_standin import serve

from common.delivery.sending import open_destination
from common.preparation.workers.limits import Limits
from flags.worker import WorkerConfig
from rsna.worker.child import Child
from rsna.worker.fronts import FolderFront, Front
from rsna.worker.journal import Journal
from rsna.worker.outbox import Outbox
from rsna.worker.records import Records
from rsna.worker.worker import Model, Worker

LIMITS = Limits(60, 2000)
SECRETS = ("SECRET^NAME", "SECRET-ID", "19350403", "1.2.840.113619.2.")


class Fork:
    """A child as subprocess.Popen has it, that finds what it imports: see warm.py."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        warm.ensure_running()
        pipes = [warm.CONTEXT.Pipe(duplex=False) for _ in range(2)]
        (requests, write), (read, replies) = pipes
        given = (requests, replies, dict(environment))
        self._process = warm.CONTEXT.Process(target=serve, args=given, daemon=True)
        self._process.start()
        self.pid, self.kill, self.terminate = (
            self._process.pid,
            self._process.kill,
            self._process.terminate,
        )
        self.stdin = os.fdopen(os.dup(write.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(read.fileno()), "rb")
        for ends in pipes:
            for end in ends:
                end.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0.0)
        return self._process.exitcode


class WarmChild(Child):
    """A child that is a fork."""

    def _begin(self, environment: Mapping[str, str]) -> Any:
        return Fork(environment)


class Clock:
    """A clock that goes when it is asked to."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Site:
    """A watched folder and a work folder, and the clocks of the worker on them."""

    def __init__(self, folder: Path, address: str | None) -> None:
        self.watched, self.work, self.address = folder / "in", folder / "work", address
        self.watched.mkdir()
        self.work.mkdir()
        self.commit_port = 0
        self.now, self.clock = Clock(1.8e9), Clock(0.0)

    def put(self, study: str, count: int, first: int = 0, size: int = 4, **tags: Any) -> None:
        """Add CT slices of a study; all have what must not be seen anywhere."""
        for number in range(first, first + count):
            uid = f"1.2.840.113619.2.{study}"
            values = {
                "SOPInstanceUID": f"{uid}.1.{number}",
                "StudyInstanceUID": uid,
                "SeriesInstanceUID": f"{uid}.1",
                "PatientID": "SECRET-ID",
                "PatientName": "SECRET^NAME",
                "StudyDate": "19350403",
                **tags,
            }
            path = self.watched / study / f"{number}.dcm"
            write_ct(path, np.zeros((size, size), np.int16), **values)

    def worker(
        self,
        model: str = "a",
        front: Front | None = None,
        limits: Limits = LIMITS,
        settings: dict[str, Any] | None = None,
        kind: type[Child] = WarmChild,
        **flags: Any,
    ) -> Worker:
        """Return a worker as a new process would have it."""
        config = WorkerConfig(**{"wk_stable_s": 5.0, "wk_disk_mb": 0.0, **flags})
        destination = None
        if self.address is not None and not config.wk_shadow:
            destination = open_destination(self.address, "ICH", self.commit_port)
        journal = Journal(self.work / "journal.sqlite", self.now)
        records = Records(self.work, journal)
        outbox = Outbox(self.work, journal, records, destination, config.wk_keep_days)
        outbox.waits.clock = self.clock
        child = kind("worker_standin", {"digest": model, **(settings or {})}, limits)
        made = Worker(
            config,
            front or FolderFront(self.watched, None),
            child,
            Model(model, model * 64),
            journal,
            records,
            outbox,
            self.clock,
        )
        made.recover()
        return made

    def rounds(self, worker: Worker, most: int = 12) -> None:
        """Let time pass until nothing is left to do."""
        for _ in range(most):
            worker._guarded_turn()
            worker.outbox.turn()
            self.clock.seconds += 10.0
            self.now.seconds += 10.0

    def left(self) -> list[str]:
        """Return what lies in outbox and work folders."""
        places = (self.work / "outbox", self.work / "jobs")
        return [str(path) for place in places for path in place.rglob("*")]

    def written(self) -> bytes:
        """Return all that the worker wrote for people, monitors and itself."""
        files = [path for path in self.work.glob("*") if path.is_file()]
        return b"\n".join(path.read_bytes() for path in files)


def states(worker: Worker) -> dict[str, int]:
    """Return the states that jobs are in, with their numbers."""
    return {state: number for state, number in worker.journal.counts().items() if number}


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until it holds; fail if it does not."""
    import time

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
