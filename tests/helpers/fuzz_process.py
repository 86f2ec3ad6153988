"""Prepares damaged files in a process with limits, as preprocessing does with real ones."""

import multiprocessing
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

LIMIT_S = 60.0
"""For a few files; what is found is far below it, and a hang far above."""
MAX_RSS_BYTES = 1 << 30
_BATCH = 25
_ADDRESS_SPACE = 6 << 30  # the machine is kept from swapping; the limit above is what is tested


@dataclass
class Prepared:
    """What became of one file.

    Attributes:
        fatal: why the process or the code gave up; empty where it did not.
        slices: for each slice status, reason, hu (rows, columns) if stored, and its header.
        names: what its store files would be called.
    """

    fatal: str = ""
    seconds: float = 0.0
    rss_bytes: int = 0
    slices: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class LimitedProcess:
    """A process that prepares a few files at a time; started again where a file ended it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> "LimitedProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def prepare(self, files: Sequence[bytes]) -> list[Prepared]:
        """Return what came of each file; where together they end the process, one by one."""
        found = []
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            prepared = self._prepare(batch)
            if isinstance(prepared, str):
                singles = (self._prepare([data]) for data in batch)
                prepared = [Prepared(one) if isinstance(one, str) else one[0] for one in singles]
            found += prepared
        return found

    def _prepare(self, files: Sequence[bytes]) -> list[Prepared] | str:
        """Return what came of the files, or why the process gave up."""
        shutil.rmtree(self.folder / "in", ignore_errors=True)
        (self.folder / "in").mkdir()
        for number, data in enumerate(files):
            (self.folder / "in" / f"{number}.dcm").write_bytes(data)
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs, self.folder))
            self._process.start()
            theirs.close()
            assert self._pipe.recv() == "ready"
        self._pipe.send(len(files))
        try:
            if self._pipe.poll(LIMIT_S):
                return self._pipe.recv()
            fatal = f"no end after {LIMIT_S:.0f} s"
        except EOFError:
            self._process.join()
            fatal = f"the process ended with {self._process.exitcode}"
        self._stop()
        return fatal

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Any, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while True:
        try:
            num_files = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_prepare(folder, num_files))
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _peak_rss_bytes() -> int:
    """The most memory that this program has had; getrusage counts what the one before it had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _prepare(folder: Path, num_files: int) -> list[Prepared]:
    """Run the passes over headers and pixels on each file, and read the store back."""
    from common.dicom import read_headers
    from common.preparation.headers import HeaderTask, _header_frame, read_header_task
    from common.preparation.pixels import read_record, series_tasks, store_series
    from common.preparation.readers import DicomReader
    from common.preparation.volumes import arrange
    from common.slices.store import SliceStore
    from common.tables import write_parquet

    dataset = folder / "out"
    shutil.rmtree(dataset, ignore_errors=True)
    reader = DicomReader(folder / "in")
    found, rows, stored_rows = [], [], []
    for number in range(num_files):
        name = f"{number}.dcm"
        started = time.monotonic()
        of_file = read_header_task(HeaderTask(reader, ((name, 1, 1),)))
        found.append(Prepared(seconds=time.monotonic() - started))
        rows += of_file
        if of_file[0]["status"] != "ok":
            found[-1].slices = [{key: of_file[0][key] for key in ("status", "reason")}]
        else:
            # A study of its own, since most cases are of the same one.
            stored_rows += [row | {"study_id": str(number)} for row in of_file]
    write_parquet(dataset / "headers.parquet", _header_frame(rows))
    headers = _header_frame(stored_rows).assign(note=None)
    headers, _ = arrange(headers, keep_ambiguous=True, needs_spacing=False)
    store = SliceStore(dataset / "store")
    for task in series_tasks(headers[headers["rank"] >= 0], reader, dataset):
        ((name, frames),) = task.files
        prepared = found[int(Path(name).stem)]
        prepared.names.append(task.store_file)
        started = time.monotonic()
        store_series(task)
        prepared.seconds += time.monotonic() - started
        results = read_record(task)
        assert results is not None
        slices = read_headers(folder / "in" / name)
        for frame, rank in sorted(frames):
            entry = {"status": results[rank].status, "reason": results[rank].reason}
            if results[rank].store_index is not None:
                entry["hu"] = store.read(task.store_file, results[rank].store_index)
            prepared.slices.append(entry | {"header": slices[frame]})
    for prepared in found:
        prepared.rss_bytes = _peak_rss_bytes()
    return found
