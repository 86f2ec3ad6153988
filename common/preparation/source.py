"""A source of images: its files, their split, how to read them, and labels."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd

from common.preparation.readers import SliceReader

logger = logging.getLogger(__name__)

FILE_COLUMNS = ("source_file", "split", "size", "mtime_ns")


class Source(Protocol):
    """Where the files of a dataset come from; `rsna/sources/` has the ones there are."""

    name: ClassVar[str]
    folder: Path
    label_names: Sequence[str]
    keeps_ambiguous: bool
    """Whether slices that nothing tells apart are kept in one volume: all have to be predicted."""

    @property
    def reader(self) -> SliceReader:
        """The reader of the files, in any process."""
        ...

    def files(self) -> pd.DataFrame:
        """Return the files, one row each, with `FILE_COLUMNS`; see `list_files`."""
        ...

    def labels(self) -> pd.DataFrame | None:
        """Return image_id and the labels of slices (0, 1 or NaN), each id once; None: none."""
        ...

    def study_labels(self) -> pd.DataFrame | None:
        """Return study_id and labels of studies, where a source labels those; None: none."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Return further facts about the source, for the manifest."""
        ...


def list_files(
    folder: Path,
    split: str = "none",
    subfolder: str = "",
    wanted: Callable[[str], bool] = lambda name: True,
) -> pd.DataFrame:
    """Return the regular files below `folder / subfolder`, sorted by name, with `FILE_COLUMNS`.

    Links are followed, each folder once. What can't be opened by name is left out with a warning.

    Args:
        folder: what source_file is relative to.
        split: split of all these files.
        subfolder: part of the folder to walk.
        wanted: chooses files by their bare name.
    """
    rows: list[tuple[str, str, int, int]] = []
    skipped: list[str] = []
    visited: set[tuple[int, int]] = set()
    pending = [os.path.join(folder, subfolder)]
    while pending:
        path = pending.pop()
        prefix = os.path.relpath(path, folder).replace(os.sep, "/") + "/"
        try:
            here = os.stat(path)
            if (here.st_dev, here.st_ino) in visited:
                continue
            visited.add((here.st_dev, here.st_ino))
            for entry in os.scandir(path):
                name = f"{prefix}{entry.name}".removeprefix("./")
                if entry.is_dir():
                    pending.append(entry.path)
                elif not _is_utf8(name):
                    skipped.append("a file whose name is not UTF-8")
                elif not entry.is_file():
                    skipped.append("an entry that is not a file, or a dangling link")
                elif wanted(entry.name):
                    status = entry.stat()
                    rows.append((name, split, status.st_size, status.st_mtime_ns))
        except OSError as error:
            skipped.append(f"a folder, or the rest of it: {error.strerror}")
    for reason, count in sorted(Counter(skipped).items()):
        logger.warning("left out %d times %s", count, reason)
    return pd.DataFrame(sorted(rows), columns=list(FILE_COLUMNS))


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
