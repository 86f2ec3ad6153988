"""What was done with which study: one SQLite file, whose every change is one transaction on disk.

It holds hashes, counts, words and times, and the UIDs of our own objects; no identifier, name or
date of a source.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import held

JOURNAL_FILE, LOCK_FILE = "journal.sqlite", ".lock"
NEW, PREDICTED, SENT = "new", "predicted", "sent"
OPEN_STATES = (NEW, PREDICTED, SENT)
"""A job goes through these in this order; then it has one of the next."""
COMMITTED, SHADOW = "committed", "shadow"
REJECTED, REFUSED = "rejected", "refused"
LEFT_OUT = "left_out"
STATES = {
    NEW: "waits for its prediction",
    PREDICTED: "waits to be sent",
    SENT: "was sent; the PACS has not answered for all of it yet",
    COMMITTED: "is in the PACS",
    SHADOW: "was predicted, and not sent because of --wk_shadow 1",
    REJECTED: "can't be used; the reason says why",
    REFUSED: "was predicted; the PACS takes an object never: a start or --wk_retry tries again",
    LEFT_OUT: "is not admitted (--wk_admit)",
}
"""Every state of a job, in words that follow "the study"."""
_TIMED = (PREDICTED, SENT, COMMITTED)
_DELIVERED = (*_TIMED, REFUSED)
PARTIAL, AND = "partial: ", " | "
"""Begins the reason of a job whose study was not seen whole; ends it, where another follows."""
SHORT = 8
"""Characters of a key that logs, pages and file names show."""
VERSION = 1
_JSON = frozenset(("objects", "documents"))

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE NOT NULL,
    study TEXT NOT NULL,
    slices BLOB NOT NULL,
    predictor TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    created REAL NOT NULL,
    changed REAL NOT NULL,
    predicted REAL, sent REAL, committed REAL,
    deaths INTEGER NOT NULL DEFAULT 0,
    predecessor TEXT,
    probability REAL,
    objects TEXT NOT NULL DEFAULT '[]',
    documents TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_study ON jobs (study, number);
CREATE TABLE IF NOT EXISTS settings (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    since REAL NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Job:
    """A row of the journal; times are seconds since 1970.

    Attributes:
        number: order of arrival.
        key: of the slices and the predictor.
        study: hash of what identifies the study.
        slices: eight bytes of the hash of each slice's id, in order.
        deaths: processes that died over it.
        predecessor: key of the job whose result this one's replaces.
        objects: UIDs of the objects that were made.
        documents: of these, what a later version names as its predecessors (`Deliverer.deliver`).
    """

    number: int
    key: str
    study: str
    slices: bytes
    predictor: str
    state: str
    reason: str
    created: float
    changed: float
    predicted: float | None
    sent: float | None
    committed: float | None
    deaths: int
    predecessor: str | None
    probability: float | None
    objects: list[str] = field(default_factory=list)
    documents: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    @property
    def short(self) -> str:
        return self.key[:SHORT]

    @property
    def missing(self) -> str:
        """Why the study was not seen whole; empty where it was, or was not predicted."""
        is_part = self.reason.startswith(PARTIAL)
        return self.reason.removeprefix(PARTIAL).split(AND)[0] if is_part else ""

    @property
    def num_slices(self) -> int:
        return len(self.slices) // 8


def job_key(instances: Iterable[str], predictor: str) -> str:
    """Return the key of a job: of its instances, in any order, and the predictor's digest."""
    text = "\n".join([predictor, *sorted(instances)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def slice_hashes(instances: Iterable[str]) -> bytes:
    """Return eight bytes for each instance, sorted."""
    names = (name.encode("utf-8", "surrogatepass") for name in instances)
    return b"".join(sorted(hashlib.sha256(name).digest()[:8] for name in names))


class Journal:
    """The jobs, in a file that several threads and processes may open.

    Args:
        now: the time of day, in seconds since 1970; nothing depends on its going forward.
        read_only: neither make nor change anything.

    Raises:
        InputError: the file is no journal of this version.
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, read_only: bool = False
    ) -> None:
        self.path, self.now = path, now
        self._lock = threading.RLock()
        mode = "ro" if read_only else "rwc"
        try:
            self._file = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=30,
                isolation_level=None,
                check_same_thread=False,
            )
            self._file.row_factory = sqlite3.Row
            version = self._file.execute("PRAGMA user_version").fetchone()[0]
            if not read_only and version == 0:
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.executescript(f"{_TABLES} PRAGMA user_version={VERSION};")
                version = VERSION
            self._file.execute("PRAGMA synchronous=FULL")
            found = self._file.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError("it is damaged")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path} can't be used ({error}): give another --wk_work if that stays so"
            ) from error
        if version != VERSION:
            raise InputError(
                f"{path} is of version {version}, not {VERSION}: use the program that wrote it"
            )

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._file.execute(query, values).fetchall()

    def _rows(self, query: str, *values: Any) -> list[Job]:
        rows = list(map(dict, self._read(query, *values)))
        return [Job(**row | {name: json.loads(row[name]) for name in _JSON}) for row in rows]

    def find(self, key: str) -> Job | None:
        return next(iter(self._rows("SELECT * FROM jobs WHERE key=?", key)), None)

    def of_study(self, study: str) -> list[Job]:
        """Return the jobs of a study, the newest first."""
        return self._rows("SELECT * FROM jobs WHERE study=? ORDER BY number DESC", study)

    def in_states(self, states: Collection[str]) -> list[Job]:
        """Return the jobs in any of these states, in the order of their arrival."""
        marks = ",".join("?" * len(states))
        return self._rows(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number", *states)

    def waiting(self) -> list[str]:
        """Return the keys of new jobs in the order to predict them.

        The oldest comes first; slices that another predictor has seen come after all others.
        """
        query = (
            "SELECT key FROM jobs WHERE state=? ORDER BY EXISTS (SELECT 1 FROM jobs AS other WHERE "
            "other.study=jobs.study AND other.slices=jobs.slices AND other.predicted IS NOT NULL), "
            "number"
        )
        return [str(row[0]) for row in self._read(query, NEW)]

    def most_probable(self, most: int) -> list[Job]:
        """Return the predicted jobs, the highest probability first."""
        where = "probability IS NOT NULL ORDER BY probability DESC, number LIMIT ?"
        return self._rows(f"SELECT * FROM jobs WHERE {where}", most)

    def counts(self) -> dict[str, int]:
        rows = self._read("SELECT state, count(*) FROM jobs GROUP BY state")
        return {**dict.fromkeys(STATES, 0), **{row[0]: row[1] for row in rows}}

    def oldest_s(self) -> float:
        """Return for how long the oldest open job has been there, in seconds."""
        created = self._read(f"SELECT min(created) FROM jobs WHERE state IN {OPEN_STATES}")[0][0]
        return 0.0 if created is None else max(0.0, self.now() - created)

    def add(
        self, study: str, instances: Sequence[str], predictor: str, state: str, reason: str = ""
    ) -> Job | None:
        """Add a job, and return it; None if there is nothing new in it.

        Known already are the same slices, under whatever patient, and fewer slices than were taken
        before, as a front that deletes leaves. Versions of the study that still wait to be
        predicted are forgotten.
        """
        key, slices, now = job_key(instances, predictor), slice_hashes(instances), self.now()
        with self._change() as file:
            before = self.of_study(study)
            if self.find(key) is not None:
                return None
            for job in before:
                is_taken = job.predictor == predictor and job.state not in (REJECTED, LEFT_OUT)
                if is_taken and _contains(job.slices, slices):
                    return None
            file.execute("DELETE FROM jobs WHERE study=? AND state=?", (study, NEW))
            replaced = next((job.key for job in before if job.state in _DELIVERED), None)
            file.execute(
                "INSERT INTO jobs (key, study, slices, predictor, state, reason, created, changed, "
                "predecessor) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, study, slices, predictor, state, reason, now, now, replaced),
            )
        return self.find(key)

    def move(self, job: Job, state: str, reason: str = "", **columns: Any) -> Job:
        """Put a job into another state, or the same one, and set other columns with it.

        That its study was not seen whole stays in the reason until it is predicted anew.
        """
        now = self.now()
        if job.missing and state not in (NEW, REJECTED):
            reason = AND.join(filter(None, (PARTIAL + job.missing, reason)))
        column = PREDICTED if state == SHADOW else state
        if column in _TIMED and state != job.state:
            columns[column] = now
        columns |= {"state": state, "reason": reason, "changed": now}
        for name in columns.keys() & _JSON:
            columns[name] = json.dumps(columns[name])
        names = ", ".join(f"{name}=?" for name in columns)
        with self._change() as file:
            file.execute(f"UPDATE jobs SET {names} WHERE key=?", (*columns.values(), job.key))
        found = self.find(job.key)
        assert found is not None
        return found

    def record(self, name: str, value: str) -> bool:
        """Note the value of a setting with the time, if it is not the last one; whether it is."""
        if self.setting(name) == value:
            return False
        query = "INSERT INTO settings (since, name, value) VALUES (?, ?, ?)"
        with self._change() as file:
            file.execute(query, (self.now(), name, value))
        return True

    def setting(self, name: str) -> str | None:
        """Return the last noted value of a setting."""
        query = "SELECT value FROM settings WHERE name=? ORDER BY number DESC LIMIT 1"
        return next((str(row[0]) for row in self._read(query, name)), None)

    def forget(self, column: str, value: str) -> None:
        """Remove the jobs with a value in a column, so that they are looked at again."""
        with self._change() as file:
            file.execute(f"DELETE FROM jobs WHERE {column}=?", (value,))


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder for one worker inside the block; InputError where another holds it."""
    refusal = f"--wk_work {folder}: another worker works there: stop it, or give another folder"
    return held(folder / LOCK_FILE, refusal)


def is_locked(folder: Path) -> bool:
    """Return whether a worker holds the folder."""
    try:
        with locked(folder):
            return False
    except InputError:
        return True


def _contains(slices: bytes, others: bytes) -> bool:
    def of(hashes: bytes) -> set[bytes]:
        return {hashes[at : at + 8] for at in range(0, len(hashes), 8)}

    return of(others) <= of(slices)
