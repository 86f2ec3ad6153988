"""The header pass: every file's header, read once and kept until the file changes."""

import functools
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.dicom import RejectedFile, SliceHeader
from common.preparation.readers import SliceReader
from common.preparation.workers.runner import MEMORY, TIMEOUT, Limits, Outcome, TaskRunner
from common.slices.table import SLICE_COLUMNS, STATUS_OK
from common.tables import write_parquet
from common.words import count

logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"
CRASHED = "crashed"
UNREADABLE = "unreadable"
TRANSIENT = (CRASHED, UNREADABLE)
"""Statuses that may change in the next run with the same file: such files are tried again."""
EXCEEDING = (TIMEOUT, MEMORY)
"""Statuses of killed files: tried again only where the limit has been raised."""

# The result of the header pass, one row per slice or per file that yields none. `frame` is the
# number in a multi-frame file, -1 elsewhere; `pixels` a hash where it was asked for.
HEADER_COLUMNS = {
    "size": "int64",
    "mtime_ns": "int64",
    "reader": "str",
    "frame": "int32",
    "num_frames": "int32",
    "frame_of_reference": "str",
    "orientation": "str",
    "position_x": "float64",
    "position_y": "float64",
    "position_z": "float64",
    "instance_number": "float64",
    "slice_location": "float64",
    "spacing_between_slices": "float64",
    "image_type": "str",
    "temporal_position": "float64",
    "acquisition_time": "float64",
    "content_time": "float64",
    "selected": "boolean",
    "accession_hash": "str",
    "patient_hash": "str",
    "lossy": "boolean",
    "pixels": "str",
    "limit": "float64",  # the one that was exceeded, where the status is one of EXCEEDING
}
_OF_SLICES = (
    "source_file", "status", "reason", "image_id", "patient_id", "study_id", "series_id",
    "slice_thickness", "kvp", "kernel", "is_sharp", "acquisition_number", "institution_hash",
    "tilt_deg", "rows", "columns", "spacing_row", "spacing_column", "bits_stored",
    "pixel_representation", "rescale_slope", "rescale_intercept", "window_center", "window_width",
    "manufacturer", "model", "age_decade", "sex", "contrast",
)  # fmt: skip
HEADER_COLUMNS |= {name: SLICE_COLUMNS[name] for name in _OF_SLICES}
# Those of them that a SliceHeader has, as a field or as a property.
_OF_HEADER = [
    name
    for name in HEADER_COLUMNS
    if name in SliceHeader.__dataclass_fields__ or hasattr(SliceHeader, name)
]
_FRAME_KEY = ["source_file", "size", "mtime_ns", "frame"]
_POSITION = ("position_x", "position_y", "position_z")
_EARLIER = ", fewer elements"
_FILES_PER_TASK = 64
_SECONDS_PER_SHARD = 20.0


@dataclass(frozen=True)
class HeaderTask:
    """Files whose headers one process reads in one go: (source_file, size, mtime_ns)."""

    reader: SliceReader
    files: tuple[tuple[str, int, int], ...]


def read_index(
    files: pd.DataFrame, reader: SliceReader, folder: Path, runner: TaskRunner
) -> pd.DataFrame:
    """Return the headers of `files` as a table with `HEADER_COLUMNS`, ordered by file and frame.

    What was read before is taken from `folder / index` where name, size, time and reader are the
    same; what is new is added there every few seconds, so a killed run loses little.

    Args:
        files: source_file, size, mtime_ns of every file, and reason where some are not opened.
    """
    index_folder = folder / INDEX_FOLDER
    refused = _no_headers()
    if "reason" in files:
        has_reason = files["reason"].notna()
        refused, files = _refused(files[has_reason]), files[~has_reason]
    kept = read_shards(index_folder)
    earlier = kept[kept["reader"] == reader.version + _EARLIER]
    known = _with_hashes(_unchanged(kept, files, reader, runner.limits), earlier)
    missing = files[~files["source_file"].isin(known["source_file"])]
    if missing.empty:
        return pd.concat([known, refused], ignore_index=True)
    logger.info("reading the headers of %s (%d known)", count(len(missing), "file"), len(known))
    found, passing = [known], [refused]
    with runner.progress(len(missing), "file", "headers") as progress:
        for shard in _read_missing(missing, reader, runner, progress):
            is_transient = shard["status"].isin(TRANSIENT)
            passing.append(shard[is_transient])
            found.append(shard[~is_transient])
            write_parquet(index_folder / f"headers-{uuid.uuid4().hex}.parquet", found[-1])
    known = _with_hashes(pd.concat(found, ignore_index=True), earlier)
    known = known.sort_values(["source_file", "frame"], ignore_index=True)
    _consolidate(index_folder, known)
    return pd.concat([known, *passing], ignore_index=True)


def _refused(files: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of files that are not opened, with the reason of each."""
    if files.empty:
        return _no_headers()
    known = {"status": UNREADABLE, "size": 0, "mtime_ns": 0}
    names = zip(files["source_file"], files["reason"])
    return _header_frame([known | {"source_file": n, "reason": reason} for n, reason in names])


def read_shards(index_folder: Path) -> pd.DataFrame:
    """Return all headers that were kept; a damaged file of them is left out with a warning.

    Those of an earlier version, which read less of a header, are marked in `reader`.
    """
    shards = [_no_headers()]
    for path in sorted(index_folder.glob("headers*.parquet")):
        try:
            shard = pd.read_parquet(path)
            if not set(HEADER_COLUMNS) <= set(shard):
                shard = shard.reindex(columns=list(HEADER_COLUMNS))
                shard["reader"] = shard["reader"].astype("str") + _EARLIER
            shards.append(_typed(shard[list(HEADER_COLUMNS)]))
        except (OSError, ValueError) as error:
            logger.warning("%s can't be read, its headers are read again: %s", path.name, error)
    return pd.concat(shards, ignore_index=True)


def forget_headers(index_folder: Path) -> None:
    """Remove all headers that were kept."""
    for path in index_folder.glob("headers*.parquet"):
        path.unlink()


def read_header_task(task: HeaderTask) -> list[dict[str, Any]]:
    """Return the header rows of the files of a task."""
    rows = []
    for source_file, size, mtime_ns in task.files:
        found = {"source_file": source_file, "size": size, "mtime_ns": mtime_ns}
        found["reader"] = task.reader.version
        try:
            headers = task.reader.read_headers(source_file)
            rows += [found | _header_row(header) for header in headers]
        except RejectedFile as rejected:
            found |= {"status": rejected.status, "reason": rejected.reason}
            rows.append(found | task.reader.read_ids(source_file))
    return rows


def _header_row(header: SliceHeader) -> dict[str, Any]:
    texts = ("patient_id", "kernel", "frame_of_reference")
    return (
        {name: getattr(header, name) for name in _OF_HEADER}
        | {name: getattr(header, name) or None for name in texts}
        | dict(zip(_POSITION, header.position or (None,) * 3))
        | {
            "status": header.left_out or STATUS_OK,
            "reason": header.left_out_reason or None,
            "frame": -1 if header.frame is None else header.frame,
            "orientation": header.orientation_text or None,
            "image_type": "\\".join(header.image_type) or None,
        }
    )


def _read_missing(
    missing: pd.DataFrame, reader: SliceReader, runner: TaskRunner, progress: Any
) -> Iterator[pd.DataFrame]:
    """Yield tables of new header rows, one every few seconds."""
    names = list(missing[["source_file", "size", "mtime_ns"]].itertuples(index=False, name=None))
    tasks = (
        HeaderTask(reader, tuple(names[start : start + _FILES_PER_TASK]))
        for start in range(0, len(names), _FILES_PER_TASK)
    )
    rows: list[dict[str, Any]] = []
    blamed: list[HeaderTask] = []
    written = time.monotonic()
    for outcome in runner.stream(read_header_task, tasks):
        if outcome.result is None:
            blamed.append(outcome.task)
            continue
        rows += outcome.result
        progress.update(len(outcome.task.files))
        if time.monotonic() - written > _SECONDS_PER_SHARD:
            yield _header_frame(rows)
            rows, written = [], time.monotonic()
    singles = (HeaderTask(reader, (file,)) for task in blamed for file in task.files)
    for outcome in runner.stream(read_header_task, singles):
        rows += outcome.result or [_killed_row(outcome, runner.limits)]
        progress.update(1)
    yield _header_frame(rows)


def _killed_row(outcome: Outcome[HeaderTask, Any], limits: Limits | None) -> dict[str, Any]:
    """Return the row of a file whose header killed its process or exceeded a limit."""
    source_file, size, mtime_ns = outcome.task.files[0]
    status, reason = why_killed("reading the header", outcome.exceeded, limits)
    return {
        "source_file": source_file,
        "size": size,
        "mtime_ns": mtime_ns,
        "reader": outcome.task.reader.version,
        "status": status,
        "reason": reason,
        "limit": limits.of(status) if limits is not None and status in EXCEEDING else None,
    }


def _header_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(HEADER_COLUMNS))
    for name, fill in (("frame", -1), ("num_frames", 0)):
        frame[name] = frame[name].astype("float64").fillna(fill)
    return _typed(frame)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the types of `HEADER_COLUMNS`; setting one that is there is slow."""
    types = {name: kind for name, kind in HEADER_COLUMNS.items() if frame[name].dtype != kind}
    return frame.astype(types)


@functools.cache
def _no_headers() -> pd.DataFrame:
    """Return an empty table, not to be changed: setting its types is slow."""
    return _header_frame([])


def why_killed(doing: str, exceeded: str | None, limits: Limits | None) -> tuple[str, str]:
    """Return status and reason of what a task was `doing` when it killed its process."""
    if exceeded is None or limits is None:
        return CRASHED, f"{doing} killed the process"
    most = (
        f"{limits.seconds:g} s" if exceeded == TIMEOUT else f"{limits.memory_mb:.0f} MB of memory"
    )
    return exceeded, f"{doing} took more than {most}, the limit"


def is_raised(exceeded: str, limit: float, limits: Limits | None) -> bool:
    """Return whether a task that exceeded `limit` is worth another try under `limits`."""
    if limits is None:  # in this process, where nothing could stop it
        return False
    now = limits.of(exceeded)
    return now == 0 or now > limit


def _unchanged(
    kept: pd.DataFrame, files: pd.DataFrame, reader: SliceReader, limits: Limits | None
) -> pd.DataFrame:
    """Return the kept headers of files that have not changed."""
    if kept.empty:
        return kept
    known = kept[(kept["reader"] == reader.version) & ~kept["status"].isin(TRANSIENT)]
    for status in EXCEEDING:
        again = [is_raised(status, limit, limits) for limit in known["limit"]]
        known = known[~(known["status"].eq(status) & pd.Series(again, known.index, dtype=bool))]
    known = known.drop_duplicates(_FRAME_KEY, keep="last")
    known = known.merge(files[["source_file", "size", "mtime_ns"]], how="inner")
    return known.sort_values(["source_file", "frame"], ignore_index=True)


def _with_hashes(known: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Return the headers with the hashes of pixels of earlier ones: they need no decoding again."""
    if not earlier["pixels"].notna().any():
        return known
    hashes = earlier.dropna(subset="pixels").drop_duplicates(_FRAME_KEY)
    before = known[_FRAME_KEY].merge(hashes[[*_FRAME_KEY, "pixels"]], how="left")
    return known.assign(pixels=known["pixels"].fillna(before["pixels"].set_axis(known.index)))


def _consolidate(index_folder: Path, known: pd.DataFrame) -> None:
    """Make one file of the shards; killed in between, both are there and read as one."""
    shards = list(index_folder.glob("headers-*.parquet"))
    write_parquet(index_folder / "headers.parquet", known)
    for shard in shards:
        shard.unlink()
