"""The pixel pass: decode every series once into a store file, with a record of the results."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from common.dicom import RejectedFile
from common.dicom.plausibility import (
    LEAST_MATRIX,
    NUM_BINS,
    count_values,
    why_implausible,
    why_slices_implausible,
)
from common.dicom.upright import TURNS, Turn, turn_image
from common.files import write_text
from common.preparation.headers import INDEX_FOLDER, TRANSIENT, is_raised, why_killed
from common.preparation.readers import SliceReader
from common.preparation.workers.runner import Limits
from common.slices.pixel_steps import NO_STEPS, HeadFinder, PixelSteps, SeriesPlan
from common.slices.store import SeriesWriter
from common.slices.table import STATUS_OK, STORE_FOLDER

FORMAT_VERSION = 2
IMPLAUSIBLE = "implausible_hu"
SHARPNESS_HU = (-20, 120)
LEAST_PAIRS = 100
BRAIN_HU = (0, 80)
"""The brain window (center 40, width 80): its share of the pixels is brain_fraction."""


@dataclass(frozen=True)
class SeriesTask:
    """The slices of one store file, in anatomical order.

    Attributes:
        shape: rows and columns of every slice, upright.
        turn: what turns the images of the files upright.
        files: for each file in the order it is decoded, its name and its frames, as indices
            into the file's pixels, with the rank of each.
        num_slices: slices of the series, undecodable ones included.
        fingerprint: changes when the files, their order, the reader or the steps change.
        spacing_mm: pixel spacing along a column and along a row, None where unknown.
    """

    reader: SliceReader
    dataset_folder: Path
    store_file: str
    shape: tuple[int, int]
    turn: Turn
    files: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    num_slices: int
    fingerprint: str
    spacing_mm: tuple[float | None, float | None] = (None, None)
    steps: PixelSteps = NO_STEPS


class SliceResult(NamedTuple):
    """The result of one slice; pixel values in HU, None where there are no pixels.

    Where the steps changed its size, `rows` and `columns` are those stored, and `scale_row` and
    `scale_column` how much larger its pixels have become, and `source_box` is what it shows
    (`SeriesPlan.source_box`).
    """

    status: str
    reason: str | None = None
    store_index: int | None = None
    hu_min: int | None = None
    hu_max: int | None = None
    hu_mean: float | None = None
    brain_fraction: float | None = None
    num_padding: int | None = None
    rows: int | None = None
    columns: int | None = None
    scale_row: float | None = None
    scale_column: float | None = None
    sharpness: float | None = None
    source_box: str | None = None


def series_tasks(
    headers: pd.DataFrame,
    reader: SliceReader,
    dataset_folder: Path,
    steps: PixelSteps = NO_STEPS,
) -> Iterator[SeriesTask]:
    """Yield one task per store file; `headers` has the column rank, and usable rows only."""
    columns = ("rank", "source_file", "frame", "num_frames", "size", "mtime_ns")
    values = {name: headers[name].to_numpy() for name in columns}
    shapes = headers[["rows", "columns"]].to_numpy(dtype=np.int64)
    spacings = headers[["spacing_row", "spacing_column"]].to_numpy(dtype=np.float64)
    turns = {text: turn for turn, text in TURNS.items()}
    turned = headers["turned"].fillna("").to_numpy(dtype=object)
    for store_file, found in headers.groupby("store_file").indices.items():
        members = np.asarray(found)
        rows = members[np.argsort(values["rank"][members])]
        frames_of: dict[str, list[tuple[int, int]]] = {}
        for row in rows:
            frame = (max(0, int(values["frame"][row])), int(values["rank"][row]))
            frames_of.setdefault(values["source_file"][row], []).append(frame)
        identity = [
            FORMAT_VERSION,
            reader.version,
            [[str(values[name][row]) for name in columns] for row in rows],
            turned[rows[0]],
        ]
        known = rows[np.isfinite(spacings[rows, 0])]
        spacing_mm = (
            (float(spacings[known[0], 0]), float(spacings[known[0], 1]))
            if len(known)
            else (None, None)
        )
        if steps:
            identity.append([steps.parameters(), spacing_mm])
        yield SeriesTask(
            reader=reader,
            dataset_folder=dataset_folder,
            store_file=str(store_file),
            shape=(int(shapes[rows[0], 0]), int(shapes[rows[0], 1])),
            files=tuple((name, tuple(frames)) for name, frames in frames_of.items()),
            num_slices=len(rows),
            fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            turn=turns[turned[rows[0]]],
            spacing_mm=spacing_mm,
            steps=steps,
        )


def store_series(task: SeriesTask) -> bool:
    """Decode and store a series, write its record last, and return True.

    Slices are compressed as they are decoded: one file's pixels are in memory at a time. Files
    are decoded once more before that where the head has to be found.
    """
    plan = _plan(task)
    counts = np.zeros((task.num_slices, NUM_BINS), dtype=np.int64)
    writer, results = _store_files(task, plan, counts, {})
    is_judged = min(task.shape) >= LEAST_MATRIX
    if is_judged and (refused := why_slices_implausible(counts)):
        counts[:] = 0
        writer, results = _store_files(task, plan, counts, refused)
    if is_judged and (reason := why_implausible(counts.sum(axis=0), len(writer))):
        writer = SeriesWriter(*task.shape)
        for rank, result in results.items():
            if result.status == STATUS_OK:
                results[rank] = SliceResult(IMPLAUSIBLE, reason)
    path = task.dataset_folder / STORE_FOLDER / task.store_file
    if len(writer):
        writer.write(path)
    _write_record(
        task,
        [results[rank] for rank in range(task.num_slices)],
        store_bytes=path.stat().st_size if len(writer) else None,
    )
    return True


def record_exceeding(task: SeriesTask, exceeded: str, limits: Limits) -> list[SliceResult]:
    """Write and return the record of a series that was stopped for a limit."""
    slices = [SliceResult(*why_killed("storing the series", exceeded, limits))] * task.num_slices
    _write_record(task, slices, limit=limits.of(exceeded))
    return slices


def read_record(task: SeriesTask, limits: Limits | None = None) -> list[SliceResult] | None:
    """Return the result of each slice, by rank, or None where the series must be stored.

    That is where it never was, its files have changed, its store file is not as it was left, or a
    limit that it exceeded has been raised to one of `limits`.
    """
    try:
        text = record_path(task.dataset_folder, task.store_file).read_text(encoding="utf-8")
        record = json.loads(text)
    except (OSError, ValueError):
        return None
    path = task.dataset_folder / STORE_FOLDER / task.store_file
    stored_bytes = path.stat().st_size if path.is_file() else None
    if record["fingerprint"] != task.fingerprint or record["store_bytes"] != stored_bytes:
        return None
    slices = [SliceResult(*values) for values in record["slices"]]
    limit = record.get("limit")
    if limit is not None and is_raised(slices[0].status, limit, limits):
        return None
    return slices


def is_transient(slices: list[SliceResult]) -> bool:
    """Return whether some of the slices failed for a reason that may change in the next run."""
    return any(result.status in TRANSIENT for result in slices)


def _write_record(
    task: SeriesTask,
    slices: list[SliceResult],
    store_bytes: int | None = None,
    limit: float | None = None,
) -> None:
    record = {"fingerprint": task.fingerprint, "store_bytes": store_bytes, "limit": limit}
    lines = ",\n".join(json.dumps(result) for result in slices)
    text = f'{json.dumps(record)[:-1]}, "slices": [\n{lines}\n]}}\n'
    write_text(record_path(task.dataset_folder, task.store_file), text)


def record_folder(dataset_folder: Path) -> Path:
    """Return the folder of the records of all store files."""
    return dataset_folder / INDEX_FOLDER / "series"


def record_path(dataset_folder: Path, store_file: str) -> Path:
    """Return the path of the record of a store file."""
    return record_folder(dataset_folder) / f"{Path(store_file).stem}.json"


def _plan(task: SeriesTask) -> SeriesPlan | None:
    """Return the steps for the slices of a series; None where they stay as they are."""
    if not task.steps:
        return None
    finder = HeadFinder(task.spacing_mm, task.steps.region or "head")
    for source_file, frames in task.files if task.steps.region else ():
        # Faults of a file are reported when it is stored.
        with contextlib.suppress(RejectedFile, MemoryError):
            image_hu = task.reader.read_pixels(source_file).image_hu
            for frame, _ in frames:
                image = turn_image(image_hu[frame], task.turn)
                if image.shape == task.shape:
                    finder.add(image)
    return task.steps.plan(task.shape, task.spacing_mm, finder.box())


def _store_files(
    task: SeriesTask, plan: SeriesPlan | None, counts: np.ndarray, refused: Mapping[int, str]
) -> tuple[SeriesWriter, dict[int, SliceResult]]:
    """Return a writer with the slices of a series but the refused, and the results by rank."""
    writer = SeriesWriter(*(task.shape if plan is None else plan.shape))
    results: dict[int, SliceResult] = {}
    for source_file, frames in task.files:
        stored = _store_file(task, plan, source_file, frames, writer, counts, refused)
        for (_, rank), result in zip(frames, stored):
            results[rank] = result
    return writer, results


def _store_file(
    task: SeriesTask,
    plan: SeriesPlan | None,
    source_file: str,
    frames: tuple[tuple[int, int], ...],
    writer: SeriesWriter,
    counts: np.ndarray,
    refused: Mapping[int, str],
) -> Iterator[SliceResult]:
    """Yield the result of each of the `frames` of one file, once they are in the writer.

    `counts` (slices, NUM_BINS) get how many pixels have which HU, by rank; `refused` has the
    reasons why slices are no HU, by rank.
    """
    try:
        pixels = task.reader.read_pixels(source_file)
    except RejectedFile as rejected:
        yield from itertools.repeat(SliceResult(rejected.status, rejected.reason), len(frames))
        return
    except MemoryError:
        result = SliceResult("too_large", "not enough memory to decode the file")
        yield from itertools.repeat(result, len(frames))
        return
    turned = f"was {TURNS[task.turn]} in the file: stored upright" if any(task.turn) else ""
    notes = [pixels.note, turned, "" if plan is None else plan.note]
    note, num_padding = "; ".join(filter(None, notes)) or None, pixels.num_padding
    changes = (None,) * 4 if plan is None else (*plan.shape, *plan.scale)
    for frame, rank in frames:
        if rank in refused:
            yield SliceResult(IMPLAUSIBLE, refused[rank])
            continue
        image_hu = turn_image(pixels.image_hu[frame], task.turn)
        if image_hu.shape != task.shape:
            reason = f"the pixels are {image_hu.shape}, the header says {task.shape}"
            yield SliceResult("corrupt", reason)
            continue
        counted = count_values(image_hu) if pixels.counts is None else pixels.counts[frame]
        counts[rank] = counted
        sharpness = measure_sharpness(image_hu)
        if plan is not None:
            image_hu = plan.apply(image_hu)
        where = writer.append(image_hu)
        rows, columns, scale_row, scale_column = changes
        yield SliceResult(
            STATUS_OK,
            note,
            where,
            *measure(image_hu),
            num_padding,
            rows,
            columns,
            scale_row,
            scale_column,
            sharpness,
            None if plan is None else plan.source_box(task.shape),
        )
        # Padding is known per file: its first frame has the count.
        num_padding = 0


def measure_sharpness(image_hu: np.ndarray) -> float | None:
    """Return how much neighbouring pixels of brain differ, against ones four apart.

    1 where noise is white, as in reconstructions for bone; less where it was smoothed. None where
    there is hardly any brain. Every 16th row is looked at.
    """
    rows = image_hu[::16]
    inside = _is_within(rows, *SHARPNESS_HU)
    means = []
    for lag in (1, 4):
        both = inside[:, lag:] & inside[:, :-lag]
        # Within the limits, differences fit 16 bits.
        differences = np.abs((rows[:, lag:] - rows[:, :-lag])[both])
        if len(differences) < LEAST_PAIRS:
            return None
        means.append(float(differences.mean()))
    return round(means[0] / means[1], 4) if means[1] else None


def measure(image_hu: np.ndarray) -> tuple[int, int, float, float]:
    """Return minimum, maximum and mean HU, and the share of pixels in the brain window."""
    in_brain = np.count_nonzero(_is_within(image_hu, *BRAIN_HU))
    return (
        int(image_hu.min()),
        int(image_hu.max()),
        round(cv2.sumElems(image_hu)[0] / image_hu.size, 3),
        round(in_brain / image_hu.size, 6),
    )


def _is_within(image_hu: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return which values of int16 lie between two, ends included: one comparison, modulo 65536."""
    shifted = image_hu - np.int16(low) if low else image_hu
    return shifted.view(np.uint16) <= high - low
