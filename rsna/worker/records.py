"""What people and monitors see of the worker: audit log, index, status, metrics; no ids."""

import datetime
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from common.errors import InputError
from common.files import write_text
from common.report.page import frame_table, render
from common.words import count, duration
from rsna.worker.journal import (
    COMMITTED,
    JOURNAL_FILE,
    NEW,
    OPEN_STATES,
    PREDICTED,
    REFUSED,
    REJECTED,
    SHADOW,
    STATES,
    Job,
    Journal,
    is_locked,
)

logger = logging.getLogger(__name__)

MOST_ROWS = 1000
"""Studies in the index, those with the highest probability."""
WAIT_ALARM_S = 600.0
"""A study that waits longer is for a person to look at."""
_UID = re.compile(r"\d+(\.\d+){3,}")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def safe_reason(text: str) -> str:
    """Return a message without what could identify: UIDs, quoted values, control characters."""
    text = _QUOTED.sub("'...'", _UID.sub("...", text))
    return "".join(c if c.isprintable() else " " for c in text)[:300]


class Records:
    """The audit log, the index and the metrics of one worker.

    Args:
        metrics_port: of the metrics, on this machine alone; 0 for none.

    Raises:
        InputError: the port is in use.
    """

    def __init__(self, folder: Path, journal: Journal, metrics_port: int = 0) -> None:
        self.folder, self.journal = folder, journal
        self._lock = threading.Lock()
        self._has_news = True
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.jobs = Gauge("ich_jobs", "Studies in each state", ["state"], **own)
        oldest = Gauge("ich_oldest_waiting_seconds", "Age of the oldest open study", **own)
        oldest.set_function(journal.oldest_s)
        self.up = Gauge("ich_up", "1: it answered when last asked", ["what"], **own)
        disk = Gauge("ich_free_disk_bytes", "Free space for the work folder", **own)
        disk.set_function(lambda: shutil.disk_usage(folder).free)
        self.deaths = Counter("ich_child_deaths", "Ends of the child by cause", ["cause"], **own)
        self.failures = Counter("ich_failures", "Attempts that failed", ["what"], **own)
        buckets = (0.5, 1, 2, 3, 5, 10, 30, 60, 300, 3600)
        words = "From stable to that state"
        self.latency = Histogram("ich_latency_seconds", words, ["state"], buckets=buckets, **own)
        self._server = self._serve(metrics_port) if metrics_port else None

    def _serve(self, port: int) -> Any:
        try:
            return start_http_server(port, addr="127.0.0.1", registry=self.registry)[0]
        except OSError as error:
            raise InputError(
                f"--wk_metrics_port {port} can't be opened ({error.strerror}): give another"
            ) from error

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def note(self, job: Job | None, event: str, **facts: Any) -> None:
        """Write a line of the audit log: when, which job, what happened, counts and reasons."""
        stamp = _time(self.journal.now())
        line = {"time": stamp, "key": job.short if job else None, "event": event, **facts}
        line = {name: value for name, value in line.items() if value not in (None, "", 0)}
        with self._lock, open(self.folder / f"audit-{stamp[:7]}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = {name: value for name, value in line.items() if name != "time"}
        bare = ("key", "event", "reason")
        words = (str(value) if name in bare else f"{name} {value}" for name, value in shown.items())
        logger.info(" ".join(words))

    def moved(self, job: Job, **facts: Any) -> None:
        """Note that a job has come into its state."""
        self._has_news = True
        seconds = max(0.0, job.changed - job.created)
        self.latency.labels(job.state).observe(seconds)
        facts = {"slices": job.num_slices, "reason": job.reason, **facts}
        self.note(job, job.state, seconds=round(seconds, 2), **facts)

    def failed(self, what: str, error: BaseException | str) -> None:
        """Note that an attempt failed which is repeated."""
        self.failures.labels(what).inc()
        self.up.labels(what).set(0)
        self.note(None, f"{what}_failed", reason=safe_reason(str(error)))

    def renew(self) -> None:
        """Set the metrics, and write the index anew if a job has moved."""
        counts = self.journal.counts()
        for state, number in counts.items():
            self.jobs.labels(state).set(number)
        if not self._has_news:
            return
        self._has_news = False  # The outbox may move jobs meanwhile.
        try:
            self._write_index()
        except OSError:
            self._has_news = True
            raise

    def _write_index(self) -> None:
        frame = _index(self.journal)
        write_text(self.folder / "index.csv", frame.to_csv(index=False))
        title, subtitle = "Studies by the probability of any", _time(self.journal.now())
        table = frame_table(frame, index=False)
        page = render("worker.html", title=title, subtitle=subtitle, table=table)
        write_text(self.folder / "index.html", page)


def _index(journal: Journal) -> pd.DataFrame:
    columns = ["study", "any", "state", "slices", "replaces", "predictor", "predicted"]
    rows, jobs = [], journal.most_probable(MOST_ROWS)
    earlier = _shadow_versions(jobs)
    for job in jobs:
        before, predictor, when = (job.predecessor or "")[:8], job.predictor[:8], job.predicted or 0
        own = (job.short, job.probability, job.state, job.num_slices)
        rows.append((*own, before or earlier.get(job.key, ""), predictor, _time(when), job.missing))
    return pd.DataFrame(rows, columns=[*columns, "not_seen"])


def _shadow_versions(jobs: Iterable[Job]) -> dict[str, str]:
    """Return by key the version before, in shadow mode, whose objects name none."""
    last: dict[str, str] = {}
    found: dict[str, str] = {}
    for job in sorted(jobs, key=lambda one: one.number):
        if job.state == SHADOW:
            found[job.key] = last.get(job.study, "")
            last[job.study] = job.short
    return found


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def status(folder: Path) -> tuple[list[str], list[str]]:
    """Return the lines of --wk_status 1, and those that a person has to see to.

    Raises:
        InputError: no worker has worked in the folder.
    """
    with _opened(folder, read_only=True) as journal:
        counts, oldest = journal.counts(), journal.oldest_s()
        lines = [f"{number:6d}  {state:<10} {STATES[state]}" for state, number in counts.items()]
        lines.append(f"predictor {journal.setting('predictor')}")
        finished = journal.in_states((COMMITTED,))[-1:]
        lines += [f"last in the PACS: {job.short} {_time(job.committed or 0)}" for job in finished]
        shown = journal.in_states((REJECTED, REFUSED))[-20:]
        lines += [f"{job.short} {job.state}: {job.reason}" for job in shown]
        alarms = []
        if not is_locked(folder):
            alarms.append("no worker is running")
        if counts[REFUSED]:
            alarms.append(f"{count(counts[REFUSED], 'study')} refused by the PACS")
        if oldest > WAIT_ALARM_S:
            waiting = sum(counts[state] for state in OPEN_STATES)
            alarms.append(f"{count(waiting, 'study')} waiting, one for {duration(oldest)}")
        return lines, alarms


def retry(folder: Path, which: str) -> int:
    """Let the worker, running or not, try again what was rejected or refused; return how many.

    Args:
        which: the start of a key, or `all`.

    Raises:
        InputError: no worker has worked in the folder, it works as another user, or there is no
            such study.
    """
    with _opened(folder, read_only=False) as journal:
        if (owner := journal.path.stat().st_uid) != os.geteuid():
            raise InputError(
                f"--wk_retry: the worker could not write to a log that another user begins: run "
                f"this as its user (sudo -u '#{owner}')"
            )
        records = Records(folder, journal)
        found = journal.in_states((REJECTED, REFUSED))
        jobs = [job for job in found if which == "all" or job.key.startswith(which)]
        for job in jobs:
            records.note(job, "retry")
            # What is new and not known to the worker by its slices is looked at again.
            journal.move(job, PREDICTED if job.state == REFUSED else NEW, deaths=0)
    if not jobs:
        raise InputError(
            f"--wk_retry {which}: no such study is rejected or refused: --wk_status 1 lists them"
        )
    return len(jobs)


@contextmanager
def _opened(folder: Path, read_only: bool) -> Iterator[Journal]:
    if not (folder / JOURNAL_FILE).is_file():
        raise InputError(f"--wk_work {folder}: no worker has worked there: start one")
    journal = Journal(folder / JOURNAL_FILE, read_only=read_only)
    try:
        yield journal
    finally:
        journal.close()
