"""Prediction tables of several members, put together row by row."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.ensembling.blending import Floats
from common.errors import InputError
from common.scoring.predictions import ID_COLUMNS, MEAN_VIEW, read_predictions

logger = logging.getLogger(__name__)

_NO_FOLD = -1


@dataclass(frozen=True)
class MemberTables:
    """The rows that all members predict.

    Attributes:
        frame: image_id, patient_id, study_id, series_id of n rows.
        folds: (n,), -1 where there is none.
        probabilities: (m, n, k).
        num_left_out: rows that some members predict and others don't.
    """

    frame: pd.DataFrame
    folds: NDArray[np.int64]
    probabilities: Floats
    num_left_out: int = 0


def read_members(
    paths: Sequence[Path], label_names: Sequence[str], *, all_rows: bool = False
) -> MemberTables:
    """Returns the rows that all members' tables have, in the order of the first one.

    Rows of the view `mean` count. One table at a time is in memory whole.

    Args:
        paths: the members' tables.
        label_names: the k labels.
        all_rows: whether it is an error that a table lacks rows of another.

    Raises:
        InputError: no table, no row in common, rows missing where all are wanted, or rows that
            are of different folds in two tables.
    """
    readers = [partial(_read, path, label_names) for path in paths]
    return join_members(readers, [str(path) for path in paths], label_names, all_rows)


def join_members(
    readers: Sequence[Callable[[], pd.DataFrame]],
    names: Sequence[str],
    label_names: Sequence[str],
    all_rows: bool = False,
) -> MemberTables:
    """Returns what `read_members` does of tables that `readers` return, each when it is asked."""
    first = readers[0]()
    index = pd.Index(first["image_id"])
    frame, folds = first[list(ID_COLUMNS)], _folds(first)
    columns = [first[list(label_names)].to_numpy(dtype=np.float64)]
    common, others = np.ones(len(frame), dtype=bool), 0
    del first
    for name, reader in zip(names[1:], readers[1:], strict=True):
        table = reader()
        rows = _places(index, table["image_id"])
        found = rows >= 0
        others += len(table) - int(found.sum())
        common &= found
        if (_folds(table)[rows[found]] != folds[found]).any():
            raise InputError(
                f"{name}: rows are of other folds than in {names[0]}: a blend needs members of "
                f"one fold table, so that none is scored on patients it was trained on"
            )
        values = table[list(label_names)].to_numpy(dtype=np.float64)
        columns.append(values[np.where(found, rows, 0)])
    num_left_out = int((~common).sum()) + others
    if not common.any() or (all_rows and num_left_out):
        raise InputError(
            f"{', '.join(names)}: {int(common.sum())} images are in all tables, {num_left_out} "
            f"are not: blend members that predict the same images"
        )
    if num_left_out:
        logger.warning("%d rows that not all members predict are left out", num_left_out)
        frame, folds = frame[common].reset_index(drop=True), folds[common]
        columns = [column[common] for column in columns]
    return MemberTables(frame, folds, np.stack(columns), num_left_out)


def _read(path: Path, label_names: Sequence[str]) -> pd.DataFrame:
    frame = read_predictions(path, label_names)
    frame = frame[frame["view"] == MEAN_VIEW]
    if frame.empty:
        raise InputError(f"{path}: no row of the view {MEAN_VIEW}")
    return frame.reset_index(drop=True)


def _folds(frame: pd.DataFrame) -> NDArray[np.int64]:
    return frame["fold"].to_numpy(dtype=np.int64, na_value=_NO_FOLD)


def _places(wanted: pd.Index, image_ids: Any) -> NDArray[np.intp]:
    """Returns the place in `image_ids` of each id wanted, -1 where it is missing."""
    given = pd.Index(image_ids)
    if wanted.equals(given):
        return np.arange(len(wanted))
    return np.asarray(given.get_indexer(wanted))
