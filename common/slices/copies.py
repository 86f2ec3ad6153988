"""Slices of identical pixels, whatever their ids: found by the checksums of the store."""

import contextlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.slices.folds import TEST_SPLIT
from common.slices.store import SliceStore, UnreadableSlice
from common.slices.table import SliceTable
from common.words import count

DROP_COPIES = "preprocessing.py --pre_drop_overlap 1 leaves them out of training"
_MEASURES = ["rows", "columns", "hu_min", "hu_max", "hu_mean", "brain_fraction"]


def identical_pixels(slices: pd.DataFrame, store: SliceStore) -> pd.Series:
    """Return for each row a number that slices of identical pixels share; NaN: no other has them.

    Slices of one value (blank ones) are like no other. Size, measures and CRC-32 must be equal:
    the checksum alone would take two of a million different slices for the same 100 times.
    """
    group_of = pd.Series(np.nan, index=slices.index)
    with_pixels = slices["store_index"].notna() & slices["store_file"].notna()
    candidates = slices[with_pixels & (slices["hu_min"] < slices["hu_max"]).fillna(False)]
    candidates = candidates[candidates.duplicated(_MEASURES, keep=False)]
    found = candidates[_MEASURES].assign(checksum=-1)
    for store_file, rows in candidates.groupby("store_file").groups.items():
        try:
            checksums = store.checksums(str(store_file))
        except UnreadableSlice:
            continue
        indices = candidates.loc[rows, "store_index"].to_numpy(dtype=np.int64)
        known = indices < len(checksums)
        found.loc[rows[known], "checksum"] = checksums[indices[known]].astype(np.int64)
    found = found[found["checksum"] >= 0]
    found = found[found.duplicated(keep=False)]
    if len(found):
        group_of.loc[found.index] = found.groupby(list(found)).ngroup().astype("float64")
    return group_of


def pixel_names(table: SliceTable, study_ids: pd.Series) -> list[str]:
    """Return a name for the pixels of each study, whatever its ids: of its slice with most brain.

    Studies whose slices are blank, or were not measured, have none.
    """
    frame = table.frame[table.readable & table.frame["study_id"].isin(study_ids)]
    frame = frame[(frame["hu_min"] < frame["hu_max"]).fillna(False)]
    frame = frame.sort_values(_MEASURES[::-1]).drop_duplicates("study_id", keep="last")
    names = []
    for store_file, index, *measures in frame[["store_file", "store_index", *_MEASURES]].values:
        with contextlib.suppress(UnreadableSlice, IndexError):
            checksum = table.store.checksums(str(store_file))[int(index)]
            names.append(" ".join(map(str, (*measures, checksum))))
    return names


def leaking_copies(
    groups: pd.Series, folds: pd.Series, is_trained: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which rows are trained on while another fold validates their pixels, bool (rows,).

    Args:
        groups: (rows,) of `identical_pixels`.
        folds: (rows,) float, the fold that validates a row; negative: none does, NaN: in no split.
        is_trained: (rows,) which rows are trained on in the other folds.
    """
    validated = folds.where(folds >= 0).groupby(groups)
    first, last = validated.transform("min"), validated.transform("max")
    elsewhere = first.notna() & (first.ne(folds) | last.ne(folds))
    return is_trained & (folds.notna() & elsewhere).to_numpy(dtype=bool)


def require_unseen_pixels(
    table: SliceTable, train_rows: np.ndarray, valid_rows: np.ndarray, fold: int
) -> None:
    """Raise InputError where pixels that are trained on are validated or tested, under other ids.

    Args:
        table: the slices; no pixels are read.
        train_rows, valid_rows: the two sides of the fold.
    """
    in_test = table.readable & table.frame["split"].eq(TEST_SPLIT).to_numpy(dtype=bool)
    is_scored = in_test.copy()
    is_scored[valid_rows] = True
    rows = np.union1d(train_rows, np.flatnonzero(is_scored))
    groups = identical_pixels(table.frame.iloc[rows], table.store)
    scored = groups[is_scored[rows]].dropna()
    num_seen = int((groups.isin(scored) & ~is_scored[rows]).sum())
    if num_seen:
        raise InputError(
            f"{count(num_seen, 'training slice')} with the pixels of slices that fold {fold} "
            f"validates, or of the test, under other ids: {DROP_COPIES}"
        )
