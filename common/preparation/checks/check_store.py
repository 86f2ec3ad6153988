"""Checks of the slice store: every file opened, every slice read, compared with its row."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.dicom.hounsfield import MAX_HU
from common.preparation.checks.findings import RESTORE, RUN_AGAIN, Finding, finding
from common.preparation.pixels import measure
from common.preparation.workers.runner import TaskRunner
from common.slices.store import SliceStore, UnreadableSlice
from common.windows import AIR_HU

_MEASURES = ("hu_min", "hu_max", "hu_mean", "brain_fraction")
_TOLERANCES = (0, 0, 2e-3, 2e-6)
"""hu_mean is kept with three decimals, brain_fraction with six."""


@dataclass(frozen=True)
class FileTask:
    """A store file and the rows of its slices in the table.

    Attributes:
        indices: int64 (slices,), the place of each slice in the file.
        shapes: int64 (slices, 2), its rows and columns.
        measures: float64 (slices, 4), see `_MEASURES`.
    """

    folder: Path
    store_file: str
    indices: np.ndarray
    shapes: np.ndarray
    measures: np.ndarray


class FileResult(NamedTuple):
    """The faults of a store file, each with the place of the slice in the task.

    -1 stands for a slice of the file that no row names, or for the file itself.
    """

    num_bytes: int
    faults: list[tuple[str, int]]


class StoreCheck(NamedTuple):
    """The content of the store, its faults, and the files that can't be read."""

    num_files: int
    num_slices: int
    num_bytes: int
    findings: list[Finding]
    unreadable: set[str]


def check_store(slices: pd.DataFrame, folder: Path, runner: TaskRunner) -> StoreCheck:
    """Read every slice of the store, and compare it with its checksum and its row."""
    stored = slices[slices["store_file"].notna() & slices["store_index"].notna()]
    groups = stored.groupby("store_file").indices
    members = {str(name): np.asarray(rows) for name, rows in groups.items()}
    ids = stored["image_id"].to_numpy(dtype=object)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = sorted(members.keys() - present)
    faults: dict[str, list[object]] = {kind: [] for kind in _WHAT}
    num_bytes, unreadable = 0, set(missing)
    todo = {name: rows for name, rows in members.items() if name in present}
    num_slices = sum(map(len, todo.values()))
    with tqdm(total=num_slices, unit="slice", desc="checking", mininterval=1) as progress:
        for outcome in runner.stream(check_file, _tasks(stored, todo, folder)):
            name = outcome.task.store_file
            result = outcome.result or FileResult(0, [("crash", -1)])
            num_bytes += result.num_bytes
            for kind, place in result.faults:
                of_file = place < 0 or kind not in _OF_SLICES
                faults[kind].append(name if of_file else f"{ids[todo[name][place]]} in {name}")
                if kind in ("open", "crash"):
                    unreadable.add(name)
            progress.update(len(outcome.task.indices))
    found = [
        *finding("missing_file", "store files that are missing", missing, RUN_AGAIN),
        *finding(
            "orphan_file",
            "files of the store that no row names",
            sorted(present - members.keys()),
            "run preprocessing.py again as it was run, which removes them",
        ),
    ]
    for kind, what in _WHAT.items():
        found += finding(kind, what, sorted(map(str, faults[kind])), RESTORE)
    return StoreCheck(len(todo), num_slices, num_bytes, found, unreadable)


_WHAT = {
    "crash": "store files that can't be read without killing the process",
    "open": "store files that can't be opened",
    "length": "store files with other numbers of slices than rows name",
    "checksum": "slices whose pixels can't be read or fail their checksum",
    "shape": "slices with other numbers of rows and columns than the table says",
    "hu_pixels": f"slices with pixels outside {AIR_HU} to {MAX_HU} HU",
    "hu_measures": f"slices whose {', '.join(_MEASURES)} are not those of their pixels",
}
_OF_SLICES = ("checksum", "shape", "hu_pixels", "hu_measures")


def check_file(task: FileTask) -> FileResult:
    """Read one store file; return its size and what is wrong with it."""
    store = SliceStore(task.folder)
    num_bytes = (task.folder / task.store_file).stat().st_size
    try:
        num_slices = store.num_slices(task.store_file)
    except UnreadableSlice:
        return FileResult(num_bytes, [("open", -1)])
    faults = []
    if sorted(task.indices) != list(range(num_slices)):
        faults.append(("length", -1))
    places = {int(index): place for place, index in enumerate(task.indices)}
    for index in range(num_slices):
        place = places.get(index, -1)
        try:
            image_hu = store.read(task.store_file, index)
        except UnreadableSlice:
            faults.append(("checksum", place))
            continue
        if place >= 0:
            faults += [(kind, place) for kind in _compare(image_hu, task, place)]
    return FileResult(num_bytes, faults)


def _compare(image_hu: np.ndarray, task: FileTask, place: int) -> Iterator[str]:
    """Yield the values of a slice that differ from its row."""
    if image_hu.shape != tuple(task.shapes[place]):
        yield "shape"
    measured = measure(image_hu)
    if measured[0] < AIR_HU or measured[1] > MAX_HU:
        yield "hu_pixels"
    differences = np.abs(np.array(measured) - task.measures[place])
    if not (differences <= _TOLERANCES).all():
        yield "hu_measures"


def _tasks(
    stored: pd.DataFrame, members: dict[str, np.ndarray], folder: Path
) -> Iterator[FileTask]:
    """Yield one task per store file."""
    indices = stored["store_index"].to_numpy(dtype=np.int64)
    shapes = stored[["rows", "columns"]].to_numpy(dtype=np.int64, na_value=-1)
    measures = stored[list(_MEASURES)].to_numpy(dtype=np.float64, na_value=np.nan)
    for name, rows in members.items():
        yield FileTask(folder, name, indices[rows], shapes[rows], measures[rows])
