"""A source of images: its files, their split, how to read them, and labels."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from common.dicom.names import name_of
from common.errors import InputError
from common.preparation.readers import SliceReader

FILE_COLUMNS = ("source_file", "split", "size", "mtime_ns")
NOT_A_FILE = "neither a folder nor a regular file: a pipe, a socket or a device"


class Source(ABC):
    """Where the files of a dataset come from; `rsna/sources/` has the ones there are.

    A subclass defines its files (`files`) and how they are read (`reader`); one with labels
    overrides `labels` or `study_labels`. Files lie below `folder`; `given` is what messages name.

    Raises:
        InputError: no such folder.
    """

    name: ClassVar[str]
    label_names: Sequence[str]
    keeps_ambiguous: bool = False
    """Whether slices that nothing tells apart are kept in one volume: all have to be predicted."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.given = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"--pre_folder {folder}: no such folder")

    @property
    @abstractmethod
    def reader(self) -> SliceReader:
        """The reader of the files, in any process."""

    @abstractmethod
    def files(self) -> pd.DataFrame:
        """Return the files, one row each, with `FILE_COLUMNS`; see `list_files`.

        Where there is a column `reason`, files that have one are listed as unreadable, not opened.
        """

    def labels(self) -> pd.DataFrame | None:
        """Return image_id and the labels of slices (0, 1 or NaN), each id once; None: none."""
        return None

    def study_labels(self) -> pd.DataFrame | None:
        """Return study_id and labels of studies, where a source labels those; None: none."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Return further facts about the source, for the manifest."""
        return {}


def list_files(
    folder: Path,
    split: str = "none",
    subfolder: str = "",
    wanted: Callable[[str], bool] = lambda name: True,
) -> pd.DataFrame:
    """Return what lies below `folder / subfolder`, sorted by name, with `FILE_COLUMNS` and reason.

    Links are followed, each folder once. An entry that cannot be looked at, or is neither folder
    nor regular file, has a row with a reason; its size and time are 0.

    Args:
        folder: what source_file is relative to; `common.dicom.names` has the way it is written.
        subfolder: part of the folder to walk.
        wanted: chooses files by their bare name; what cannot be looked at is listed anyway.
    """
    rows: list[tuple[str, str, int, int, str | None]] = []
    visited: set[tuple[int, int]] = set()

    def add(prefix: str, entry: str, measures: tuple[int, int], reason: str | None) -> None:
        name = os.path.normpath(os.path.join(prefix, entry))
        rows.append((name_of(name), split, *measures, reason))

    pending = [os.path.join(folder, subfolder)]
    while pending:
        path = pending.pop()
        prefix = os.path.relpath(path, folder)
        entries: list[os.DirEntry[str]] = []
        try:
            here = os.stat(path)
            if (here.st_dev, here.st_ino) in visited:
                continue
            visited.add((here.st_dev, here.st_ino))
            with os.scandir(path) as found:
                entries += found
        except OSError as error:
            add(prefix, "", (0, 0), f"the folder, or the rest of it: {error.strerror}")
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                status = entry.stat()
            except OSError as error:
                add(prefix, entry.name, (0, 0), error.strerror)
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
            elif wanted(entry.name):
                is_file = stat.S_ISREG(status.st_mode)
                measures = (status.st_size, status.st_mtime_ns) if is_file else (0, 0)
                add(prefix, entry.name, measures, None if is_file else NOT_A_FILE)
    table = pd.DataFrame(sorted(rows, key=itemgetter(0)), columns=[*FILE_COLUMNS, "reason"])
    return table.astype({"reason": "str"})
