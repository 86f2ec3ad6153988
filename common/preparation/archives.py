"""Zip archives among the files of a source: their members stand in their place."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from common.dicom import RejectedFile
from common.dicom.archives import ARCHIVE_SUFFIX, MEMBER_MARK, open_archive
from common.dicom.names import name_of, path_of
from common.preparation.source import FILE_COLUMNS
from common.words import count

logger = logging.getLogger(__name__)


def with_members(files: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return `files` with the members of zip archives in place of these, sorted by name.

    A member of `a.zip` is called `a.zip!/<its name>`. Its size is its own, and its time changes
    with the size and the time of the archive. An archive that is refused, or empty, stays a file:
    reading it gives the reason.

    Args:
        files: with `FILE_COLUMNS`, as `list_files` returns them.
        folder: what their names are relative to.
    """
    names = files["source_file"].str.lower()
    is_archive = names.str.endswith(ARCHIVE_SUFFIX).to_numpy(dtype=bool)
    if "reason" in files:
        is_archive = is_archive & files["reason"].isna().to_numpy(dtype=bool)
    if not is_archive.any():
        return files
    rows = [
        row
        for archive in files.loc[is_archive, list(FILE_COLUMNS)].itertuples(index=False, name=None)
        for row in _member_rows(archive, folder)
    ]
    plain = files[~(is_archive | _is_shadowed(files, is_archive))]
    members = pd.DataFrame(rows, columns=list(FILE_COLUMNS))
    members = members.reindex(columns=files.columns).astype(files.dtypes)
    return pd.concat([plain, members]).sort_values("source_file", ignore_index=True)


def list_archive(path: Path) -> pd.DataFrame:
    """Return the members of one archive as `with_members` does, relative to its folder."""
    status = path.stat()
    row = (name_of(path.name), "none", status.st_size, status.st_mtime_ns)
    return with_members(pd.DataFrame([row], columns=list(FILE_COLUMNS)), path.parent)


def _member_rows(
    archive_row: tuple[str, str, int, int], folder: Path
) -> Iterator[tuple[str, str, int, int]]:
    """Yield the rows of the members of an archive, or its own where there are none to be read."""
    name, split, size, mtime_ns = archive_row
    try:
        archive = open_archive(folder / path_of(name))
    except RejectedFile:
        yield archive_row
        return
    with contextlib.closing(archive):
        if archive.num_replaced:
            logger.warning(
                "left out %s of an archive: later ones have the same names",
                count(archive.num_replaced, "member"),
            )
        if not archive.members:
            yield archive_row
        for member, info in archive.members.items():
            # The sum changes with either.
            yield f"{name}{MEMBER_MARK}{member}", split, info.file_size, mtime_ns + size


def _is_shadowed(files: pd.DataFrame, is_archive: Any) -> Any:
    """Return which files lie in a folder `a.zip!` beside an archive `a.zip`: names of members."""
    suspects = (
        files["source_file"].str.lower().str.contains(ARCHIVE_SUFFIX + MEMBER_MARK, regex=False)
    )
    starts = tuple(files.loc[is_archive, "source_file"] + MEMBER_MARK) if suspects.any() else ()
    shadowed = files["source_file"].map(lambda name: name.startswith(starts)) & suspects
    if shadowed.any():
        logger.warning(
            "left out %s in folders named like an archive", count(shadowed.sum(), "file")
        )
    return shadowed.to_numpy(dtype=bool)
