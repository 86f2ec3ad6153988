"""Results that wait to be sent: sent again and again until the PACS answers for all of them."""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.delivery.sending import Busy, Destination, Refused, Unreachable, read_objects
from common.files import sync_folder
from rsna.worker.journal import COMMITTED, NEW, PREDICTED, REFUSED, SENT, Job, Journal
from rsna.worker.records import Records

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
IDLE_S = 0.2
PACS = "pacs"
_KEY = re.compile(r"[0-9a-f]{64}")


class Waits:
    """Waits of 1, 2, 4, ... 60 s between attempts that fail, without end; each by its name.

    What fails alone has a name of its own, so that it does not hold back the rest.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._waits: dict[str, tuple[int, float]] = {}

    def num_failures(self, name: str) -> int:
        """Return how many attempts have failed since the last that worked."""
        return self._waits.get(name, (0, 0.0))[0]

    def is_due(self, name: str) -> bool:
        return name not in self._waits or self.clock() >= self._waits[name][1]

    def failed(self, name: str) -> None:
        number = self.num_failures(name) + 1
        wait_s = min(LONGEST_WAIT_S, 2.0 ** min(number - 1, 10))
        self._waits[name] = number, self.clock() + wait_s

    def worked(self, name: str) -> None:
        self._waits.pop(name, None)


class Outbox:
    """A folder for each job whose results are not in the PACS yet, and the thread that sends them.

    Args:
        folder: of the worker; `outbox/` and `kept/` are made in it.
        journal, records: of the worker.
        destination: where to; None: nothing is sent.
        keep_days: days that results stay in `kept/`.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        records: Records,
        destination: Destination | None,
        keep_days: int = 0,
    ) -> None:
        self.waiting, self.kept = folder / "outbox", folder / "kept"
        self.journal, self.records = journal, records
        self.destination, self.keep_days = destination, keep_days
        self.waits = Waits()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        for path in (self.waiting, self.kept):
            path.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        """Put right what a killed worker left: half-made and finished folders; try refused ones."""
        for path in self.waiting.iterdir():
            if not _KEY.fullmatch(path.name):
                continue  # Not ours.
            job = self.journal.find(path.name)
            if job is None or job.state == NEW:
                shutil.rmtree(path)  # It is made again, the same.
            elif job.state not in (PREDICTED, SENT, REFUSED):
                self.keep(job, path)
        for job in self.journal.in_states((REFUSED,)):
            self.journal.move(job, PREDICTED)

    def put(self, job: Job, made: Path) -> None:
        """Take over a folder of results, which `Deliverer` has put on disk whole."""
        target = self.waiting / job.key
        if target.exists():
            shutil.rmtree(target)
        os.replace(made, target)
        sync_folder(self.waiting)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True, name="outbox")
        self._thread.start()

    def close(self) -> None:
        """End the thread after the message that it is at."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(10.0)
        if self.destination is not None:
            self.destination.close()

    def _run(self) -> None:
        while not self._stopped.wait(IDLE_S):
            try:
                self.turn()
            except Exception as error:  # A full disk, a locked journal: nothing may end it.
                self.waits.failed(PACS)
                logger.warning("the outbox waits: %s", type(error).__name__)

    def turn(self) -> None:
        """Send all that waits, then ask for all that was sent, if an attempt is due."""
        if self.destination is None or not self.waits.is_due(PACS):
            return
        try:
            for state, step in ((PREDICTED, self._send), (SENT, self._commit)):
                for job in self.journal.in_states((state,)):
                    if self._stopped.is_set():
                        return
                    if self.waits.is_due(job.key):
                        self._attempt(job, step, self.destination)
        except Unreachable as error:
            self.waits.failed(PACS)
            self.records.failed(PACS, error)
        else:
            self.waits.worked(PACS)

    def _attempt(
        self, job: Job, step: Callable[[Job, Destination], None], destination: Destination
    ) -> None:
        """Take a step; what is wrong with one study alone holds back no other."""
        try:
            step(job, destination)
        except Exception as error:
            is_busy = isinstance(error, Busy)
            if isinstance(error, Unreachable) and not is_busy:
                raise
            self.waits.failed(job.key)
            self.records.failed(PACS, error if is_busy else type(error).__name__)

    def _send(self, job: Job, destination: Destination) -> None:
        objects = read_objects(self.waiting / job.key)
        if not objects:
            self.records.moved(self.journal.move(job, NEW, "its results were removed"))
            return
        try:
            destination.send(objects)
        except Refused as error:
            self.records.failed(PACS, error)
            self.records.moved(self.journal.move(job, REFUSED, str(error)))
            return
        self.records.up.labels(PACS).set(1)
        self.records.moved(self.journal.move(job, SENT), objects=len(objects))

    def _commit(self, job: Job, destination: Destination) -> None:
        """Finish a job if the PACS has all of its objects; else it is sent again."""
        objects = read_objects(self.waiting / job.key)
        missing = destination.missing(objects)
        if missing or not objects:
            reason = f"the PACS lacks {len(missing)} of {len(objects)} objects"
            self.records.moved(self.journal.move(job, PREDICTED, reason))
            self.waits.failed(job.key)
            return
        job = self.journal.move(job, COMMITTED)
        self.keep(job, self.waiting / job.key)
        self.records.moved(job, objects=len(objects))
        self.waits.worked(job.key)

    def keep(self, job: Job, made: Path) -> None:
        """Move results to `kept/`, or remove them if none are kept."""
        target = self.kept / job.key
        if self.keep_days and not target.exists():
            os.replace(made, target)
            os.utime(target, (self.journal.now(),) * 2)
        else:
            shutil.rmtree(made, ignore_errors=True)

    def remove_old(self) -> None:
        """Remove what was kept for --wk_keep_days."""
        for path in self.kept.iterdir():
            if self.journal.now() - path.stat().st_mtime > 86400 * self.keep_days:
                shutil.rmtree(path, ignore_errors=True)
