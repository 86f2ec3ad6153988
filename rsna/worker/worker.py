"""The worker: looks what is there, predicts what it has not predicted yet, hands on what it made.

Nothing is decided by events or by the time of day: each turn compares what the front has with the
journal. A worker that is killed goes on where the journal is.
"""

import datetime
import logging
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.delivery.sending import read_objects
from common.dicom.part10 import MAX_FILE_BYTES
from common.preparation.workers.limits import MEMORY, TIMEOUT
from flags.worker import WorkerConfig
from rsna.worker.admission import Arrival, Instance, Rule
from rsna.worker.child import CRASHED, KILLED, Child, ChildDied, Stopped
from rsna.worker.fronts import Front, FrontFailure, Gone, Listed
from rsna.worker.journal import LEFT_OUT, NEW, PREDICTED, REJECTED, SHADOW, Job, Journal, job_key
from rsna.worker.outbox import Outbox, Waits
from rsna.worker.records import Records, safe_reason

logger = logging.getLogger(__name__)

MOST_DEATHS = {TIMEOUT: 2, MEMORY: 2, CRASHED: 2, KILLED: 5}
"""Children that may die over a study before it is rejected; who kills from outside is not known."""
MOST_SLICES, MOST_BYTES = 10_000, 8 << 30
"""A larger study is rejected before it is fetched."""
MOST_WITHHELD = 8
"""Attempts, over two minutes, to get an image that the front lists but does not give."""
SPACE = 3
"""A study takes this many times its size in the work folder, for a while."""
FRONT, IDLE_S = "front", 0.5


class Stable:
    """Which studies have not changed for a while, by a clock that only goes forward.

    Args:
        seconds: that while.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds, self.clock = seconds, clock
        self._since: dict[str, tuple[str, float]] = {}
        self._looked: dict[str, str] = {}

    def update(self, listed: list[Listed]) -> None:
        now, since = self.clock(), self._since
        self._since = {
            name: since[name] if since.get(name, ("",))[0] == version else (version, now)
            for name, version in listed
        }
        self._looked = {name: seen for name, seen in self._looked.items() if name in self._since}

    def due(self) -> list[str]:
        """Return the studies that are stable, and were not looked at since they changed."""
        last = self.clock() - self.seconds
        return [name for name in self.unseen() if self._since[name][1] <= last]

    def unseen(self) -> list[str]:
        """Return the studies that were not looked at since they changed."""
        since = self._since.items()
        return [name for name, (version, _) in since if self._looked.get(name) != version]

    def looked(self, name: str) -> None:
        """Note that a study was looked at as it is."""
        self._looked[name] = self._since[name][0]

    def forget(self, name: str | None = None) -> None:
        """Look at a study, or all, again."""
        self._looked = {seen: at for seen, at in self._looked.items() if name not in (None, seen)}


@dataclass(frozen=True)
class Model:
    """The predictor in use: its name, and the digest that is part of every key."""

    name: str
    digest: str


class Worker:
    """One round after the other: studies of a front are predicted by a child.

    Args:
        journal, records, outbox: in its work folder.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        flags: WorkerConfig,
        front: Front,
        child: Child,
        model: Model,
        journal: Journal,
        records: Records,
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.flags, self.front, self.child, self.model = flags, front, child, model
        self.journal, self.records, self.outbox = journal, records, outbox
        self.rule = Rule(flags.wk_admit)
        self.jobs_folder = records.folder / "jobs"
        self.stable = Stable(flags.wk_stable_s, clock)
        self.waits = Waits(clock)
        self._ready: dict[str, tuple[str, Arrival]] = {}  # by key: its name in the front
        self._num_withheld: Counter[str] = Counter()
        self._has_space = True

    def recover(self) -> None:
        """Put right what a killed worker left, and note what made what from now on."""
        shutil.rmtree(self.jobs_folder, ignore_errors=True)
        self.outbox.recover()
        journal = self.journal
        if journal.record("predictor", f"{self.model.name} {self.model.digest}"):
            self.records.note(None, "predictor", name=self.model.name, digest=self.model.digest)
        if journal.record("admit", self.rule.text):
            for state in (LEFT_OUT, NEW):
                journal.forget("state", state)
        journal.record("shadow", str(self.flags.wk_shadow))

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Work until `is_over`, which ends what it is at; InputError if the child can't work."""
        self.child.is_over = self.front.is_over = is_over
        self.outbox.start()
        try:
            self._guarded_turn()  # Studies become stable while the child imports.
            self._has_child()  # Warm before the first study comes.
            while not is_over():
                if not self._guarded_turn():
                    time.sleep(IDLE_S)
        except Stopped:
            pass
        finally:
            self.outbox.close()
            self.child.close()

    def _guarded_turn(self) -> bool:
        try:
            return self.turn()
        except (OSError, sqlite3.OperationalError) as error:
            # The disk is full, or the journal is held: nothing is lost, and it may pass.
            logger.warning("the worker waits: %s", type(error).__name__)
            self.waits.failed(FRONT)
            return False

    def turn(self) -> bool:
        """Look once, and predict one study; return whether there was anything to do."""
        if self.waits.is_due(FRONT):
            self._look()
        keys = (key for key in self.journal.waiting() if key in self._ready)
        key = next(filter(self.waits.is_due, keys), None)
        job = None if key is None else self.journal.find(key)
        done = job is not None and self.waits.is_due(FRONT) and self._predict(job)
        self.outbox.remove_old()
        self.records.renew()
        return done

    def _look(self) -> None:
        with self._asking(FRONT):
            listed = self.front.studies()
            if listed is not None:
                self.stable.update(listed)
            for name in filter(self.waits.is_due, self.stable.due()):
                with self._asking(name):  # One that fails has a wait of its own.
                    arrival = self.front.look(name)
                    if arrival is not None:
                        self._admit(name, arrival)
                    self.stable.looked(name)
                if not self.waits.is_due(name):
                    break  # The next turn lists first: it may be the front.
            if all(map(self.waits.num_failures, self.stable.unseen())):
                self._remove_gone()

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Ask the front in the block; when it fails, `name` waits longer each time."""
        try:
            yield
        except FrontFailure as error:
            self.waits.failed(name)
            self.records.failed(FRONT, error)
        else:
            self.waits.worked(name)
            self.records.up.labels(FRONT).set(1)

    def _admit(self, name: str, arrival: Arrival) -> None:
        """Make a job of what a study has now, unless there is one."""
        own = {uid for job in self.journal.of_study(arrival.study) for uid in job.objects}
        instances = [one for one in arrival.instances if one.uid not in own]
        names = [one.name for one in instances] or [f"{arrival.study} has no CT"]
        today = datetime.datetime.fromtimestamp(self.journal.now()).date()
        sizes = [one.num_bytes for one in instances]
        is_large = len(sizes) > MOST_SLICES or sum(sizes) > MOST_BYTES
        state, reason = NEW, self.rule.refusal(arrival, today) if instances else "no CT image"
        if reason:
            state = LEFT_OUT
        elif is_large or max(sizes) > MAX_FILE_BYTES:
            state, reason = REJECTED, "larger than any head CT"
        added = self.journal.add(arrival.study, names, self.model.digest, state, reason)
        if added is not None:
            self.records.moved(added)
        job = self.journal.find(job_key(names, self.model.digest))
        if job is not None and job.state == NEW:
            self._ready[job.key] = name, Arrival(arrival.study, tuple(instances))

    def _remove_gone(self) -> None:
        """Forget what waits but is no more in the front; should it come again, it is new."""
        for key in self.journal.waiting():
            job = None if key in self._ready else self.journal.find(key)
            if job is not None:
                self.journal.forget("key", key)
                self.records.note(job, "gone")
                self.stable.forget()

    def _predict(self, job: Job) -> bool:
        name, arrival = self._ready[job.key]
        folder = self.jobs_folder / job.key
        if not self._has_room(arrival.instances) or not self._has_child():
            return False
        shutil.rmtree(folder, ignore_errors=True)
        self.waits.failed(job.key)
        try:
            with self._asking(FRONT):
                self.front.fetch(arrival, folder / "in")
                self._settle(job, folder, self._analyse(job, folder))
                del self._ready[job.key]
                self.waits.worked(job.key)
        except Gone as error:
            del self._ready[job.key]
            self.stable.forget(name)
            self._withheld(job, error)
        except ChildDied as death:
            if self._has_room(()):  # Else it is the disk's fault: codecs and tables name no errno.
                self._died(job, death.cause)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def _analyse(self, job: Job, folder: Path) -> Mapping[str, Any]:
        # DICOM takes a time without its offset for the time of the place.
        start = datetime.datetime.fromtimestamp(int(job.created))
        before = None if job.predecessor is None else self.journal.find(job.predecessor)
        request = {
            "source": str(folder / "in"),
            "output": str(folder / "out"),
            "time": start.isoformat(),
            "predecessors": {} if before is None else before.documents,
        }
        reply = self.child.ask(request)
        if "outside" in reply:
            raise OSError(reply["outside"], "full")
        if "fault" in reply:
            raise ChildDied(str(reply["fault"]))
        return reply

    def _settle(self, job: Job, folder: Path, reply: Mapping[str, Any]) -> None:
        """Take over what was made for a job, or reject it."""
        studies = reply.get("studies", [])
        reasons = [reply.get("rejected", ""), *(one["reason"] for one in studies)]
        text = "; ".join(dict.fromkeys(filter(None, reasons)))
        reason = safe_reason(text.replace(str(folder / "in"), "the study"))
        objects = read_objects(folder / "out") if studies else []
        if not objects:
            self.records.moved(self.journal.move(job, REJECTED, reason or "nothing was made of it"))
            return
        state, take = PREDICTED, self.outbox.put
        if self.flags.wk_shadow:
            state, take = SHADOW, self.outbox.keep
        take(job, folder / "out")
        made = {
            "probability": max((p for one in studies for p in one["probability"]), default=None),
            "objects": [item.instance for item in objects],
            "documents": {one["folder"]: one["documents"] for one in studies if one["documents"]},
        }
        self.records.moved(self.journal.move(job, state, reason, **made), objects=len(objects))

    def _withheld(self, job: Job, error: Gone) -> None:
        """Count an image that was not given; reject the job after too many, others go on."""
        self._num_withheld[job.key] += 1
        if self._num_withheld[job.key] >= MOST_WITHHELD:
            del self._num_withheld[job.key]
            reason = f"an image that is listed can't be fetched ({error})"
            self.records.moved(self.journal.move(job, REJECTED, reason))

    def _died(self, job: Job, cause: str) -> None:
        """Count a death of the child over a job; reject the job after too many."""
        self.records.deaths.labels(cause).inc()
        num_deaths = job.deaths + 1
        is_last = num_deaths >= MOST_DEATHS.get(cause, 2)
        job = self.journal.move(job, REJECTED if is_last else NEW, cause, deaths=num_deaths)
        if is_last:
            del self._ready[job.key]
        self.records.moved(job)

    def _has_child(self) -> bool:
        """Return whether the child is up; that it can't start is no study's fault."""
        try:
            self.child.start()
        except ChildDied as death:
            self.waits.failed(FRONT)
            self.records.failed("child", death)
            return False
        return True

    def _has_room(self, instances: tuple[Instance, ...]) -> bool:
        """Return whether the disk has space for a study; without it nothing is begun."""
        needed = 1e6 * self.flags.wk_disk_mb + SPACE * sum(one.num_bytes for one in instances)
        has_space = shutil.disk_usage(self.records.folder).free >= needed
        if self._has_space and not has_space:
            self.records.note(None, "disk_full", reason="less than --wk_disk_mb is free")
        self._has_space = has_space
        return has_space
