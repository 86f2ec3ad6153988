"""Prediction tables of several members, put together row by row."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.ensembling.blending import Floats
from common.errors import InputError
from common.scoring.predictions import ID_COLUMNS, MEAN_VIEW, build_predictions, read_predictions

logger = logging.getLogger(__name__)

_NO_FOLD = -1


@dataclass(frozen=True)
class MemberTables:
    """The rows that all members predict.

    Attributes:
        frame: image_id, patient_id, study_id, series_id of n rows.
        folds: (n,), -1 where there is none.
        probabilities: (m, n, k).
        logits: float32 (m, n, k), before calibration.
        num_left_out: rows that some members predict and others don't.
    """

    frame: pd.DataFrame
    folds: NDArray[np.int64]
    probabilities: Floats
    logits: NDArray[np.float32]
    num_left_out: int = 0

    def predictions(
        self,
        logits: ArrayLike,
        label_names: Sequence[str],
        experiment_id: str,
        probabilities: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Return the prediction table of what was made of the members.

        Args:
            logits: (n, k), before calibration.
            probabilities: (n, k) in the end; None for those of the logits.
        """
        frame = build_predictions(self.frame, logits, label_names, None, experiment_id)
        if probabilities is not None:
            frame = frame.assign(**dict(zip(label_names, np.asarray(probabilities).T, strict=True)))
        folds = pd.Series(self.folds, dtype="Int64")
        return frame.assign(fold=folds.mask(folds < 0))


def read_members(
    paths: Sequence[Path],
    label_names: Sequence[str],
    *,
    all_rows: bool = False,
    folds: Sequence[pd.Series | None] = (),
) -> MemberTables:
    """Return the rows that all members' tables have, in the order of the first one.

    Rows of the view `mean` count. One table at a time is in memory whole.

    Args:
        all_rows: whether it is an error that a table lacks rows of another.
        folds: of each table, for one of a model that was trained on none of its rows, the fold of
            each image id, which rows must have; None where the table knows its folds.

    Raises:
        InputError: no table, no row in common, rows missing where all are wanted, or rows that
            are of different folds in two tables.
    """
    values = [list(label_names), [f"logit_{name}" for name in label_names]]
    given = list(folds) or [None] * len(paths)
    first = _read(paths[0], label_names, given[0])
    index = pd.Index(first["image_id"])
    frame, of_rows = first[list(ID_COLUMNS)], _folds(first)
    columns = [[first[names].to_numpy() for names in values]]
    common, others = np.ones(len(frame), dtype=bool), 0
    del first
    for path, own_folds in zip(paths[1:], given[1:], strict=True):
        table = _read(path, label_names, own_folds)
        rows = _places(index, table["image_id"])
        found = rows >= 0
        others += len(table) - int(found.sum())
        common &= found
        if (_folds(table)[rows[found]] != of_rows[found]).any():
            raise InputError(
                f"{path}: rows are of other folds than in {paths[0]}: all members must be of one "
                f"fold table, so that none is scored on patients it was trained on"
            )
        columns.append([table[names].to_numpy()[np.where(found, rows, 0)] for names in values])
    num_left_out = int((~common).sum()) + others
    if not common.any() or (all_rows and num_left_out):
        raise InputError(
            f"{', '.join(map(str, paths))}: {int(common.sum())} images are in all tables, "
            f"{num_left_out} are not: use members that predict the same images"
        )
    if num_left_out:
        logger.warning("%d rows that not all members predict are left out", num_left_out)
        frame, of_rows = frame[common].reset_index(drop=True), of_rows[common]
        columns = [[part[common] for part in parts] for parts in columns]
    probabilities, logits = (np.stack(parts) for parts in zip(*columns, strict=True))
    both = probabilities.astype(np.float64), logits.astype(np.float32)
    return MemberTables(frame, of_rows, *both, num_left_out)


def _read(path: Path, label_names: Sequence[str], folds: pd.Series | None) -> pd.DataFrame:
    frame = read_predictions(path, label_names)
    frame = frame[frame["view"] == MEAN_VIEW]
    if folds is not None:
        own = frame["image_id"].map(folds)
        frame = frame.assign(fold=own.astype("Int64"))[own.notna() & (own >= 0)]
    if frame.empty:
        raise InputError(f"{path}: no row of the view {MEAN_VIEW}")
    return frame.reset_index(drop=True)


def _folds(frame: pd.DataFrame) -> NDArray[np.int64]:
    return frame["fold"].to_numpy(dtype=np.int64, na_value=_NO_FOLD)


def _places(wanted: pd.Index, image_ids: Any) -> NDArray[np.intp]:
    """Return the place in `image_ids` of each id wanted, -1 where it is missing."""
    given = pd.Index(image_ids)
    if wanted.equals(given):
        return np.arange(len(wanted))
    return np.asarray(given.get_indexer(wanted))
