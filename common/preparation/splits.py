"""The split of a dataset into training and validation, written to folds.csv."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_text
from common.preparation.fold_making import (
    fold_report,
    make_folds,
    make_source_folds,
    make_split,
    sources_of,
)
from common.slices.copies import DROP_COPIES, leaking_copies
from common.slices.folds import FOLDS_FILE, TRAIN_SPLIT, fold_numbers, owners, read_folds
from common.slices.table import STATUS_OK
from common.words import count

logger = logging.getLogger(__name__)

BY_PATIENT, BY_SOURCE = "patient", "source"


@dataclass(frozen=True)
class FoldPlan:
    """How to make folds.

    Attributes:
        num_folds: number of patient folds; None: none are made.
        valid_fraction: share of the patients that a single split validates on, instead of folds;
            0: folds.
        fold_by: `patient`, or `source`: each fold is what one source (`sources_of`) holds.
    """

    num_folds: int | None = 5
    fold_seed: int = 4667
    valid_fraction: float = 0.0
    fold_by: str = BY_PATIENT

    def check(self, headers: pd.DataFrame, sources: pd.Series | None) -> None:
        """Raise InputError where slices can't be split so, before their pixels are read.

        Args:
            headers: with split, ids and what `sources_of` needs.
            sources: the source by image_id, where a label table has it.
        """
        training = headers["split"].eq(TRAIN_SPLIT) & headers["status"].eq(STATUS_OK)
        if self.num_folds is not None and self.fold_by == BY_SOURCE and training.any():
            sources_of(headers, sources)

    def make(
        self, slices: pd.DataFrame, label_names: Sequence[str], sources: pd.Series | None = None
    ) -> tuple[pd.DataFrame, list[str]]:
        """Return the table of folds.csv, and for a split by source the source of each fold."""
        if self.fold_by == BY_SOURCE:
            return make_source_folds(slices, sources)
        if self.valid_fraction:
            return make_split(slices, label_names, self.valid_fraction, self.fold_seed), []
        assert self.num_folds is not None
        return make_folds(slices, label_names, self.num_folds, self.fold_seed), []


def write_folds(
    plan: FoldPlan,
    slices: pd.DataFrame,
    label_names: Sequence[str],
    dataset_folder: Path,
    sources: pd.Series | None = None,
) -> tuple[pd.DataFrame, float, list[str]]:
    """Write folds.csv; return the report of `fold_report`, and sources by fold if there are any."""
    folds, source_names = plan.make(slices, label_names, sources)
    text = folds.to_csv(index=False)
    path = dataset_folder / FOLDS_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        logger.warning("the folds have changed: earlier experiments were split differently")
    write_text(path, text)
    in_training = slices["status"].eq(STATUS_OK) & slices["split"].eq(TRAIN_SPLIT)
    alone = in_training & slices["patient_id"].isna()
    if alone.any():
        logger.warning(
            "%s without patient id: their studies are taken for patients",
            count(alone.sum(), "training slice"),
        )
    return *fold_report(folds, slices, label_names), source_names


def log_fold_copies(
    slices: pd.DataFrame, copies: pd.Series, dataset_folder: Path, is_dropped: bool
) -> NDArray[np.bool_]:
    """Return the slices of patients who share pixels with patients of another fold, bool (rows,).

    Args:
        slices: the slice table; what is not trained on is none of them.
        copies: of `identical_pixels`, by row.
        dataset_folder: with folds.csv.
        is_dropped: whether they will be left out of training, for the log.
    """
    folds = slices["image_id"].map(fold_numbers(read_folds(dataset_folder / FOLDS_FILE)))
    kept = slices["keep_for_training"].to_numpy(dtype=bool)
    leaks = leaking_copies(copies, folds, kept)
    patients = owners(slices)
    concerned = patients.isin(patients[leaks]).to_numpy(dtype=bool) & kept & folds.notna()
    if leaks.any():
        logger.warning(
            "%s with the pixels of slices of other patients in other folds, which concerns %s: %s",
            count(int(leaks.sum()), "training slice"),
            count(int(concerned.sum()), "slice"),
            "they are not trained on" if is_dropped else DROP_COPIES,
        )
    return concerned.to_numpy(dtype=bool)


def mark_brain_range(slices: pd.DataFrame, least: float) -> pd.Series:
    """Return the training slices outside the brain range of their store file, as bool by row.

    The range goes from the first to the last slice, in rank order, of which at least the share
    `least` of the pixels is in the brain window (`brain_fraction`). All of a store file without
    such a slice is outside. Slices without pixels and those of other splits never are.
    """
    has_pixels = slices["store_file"].notna()
    enough = (slices["brain_fraction"] >= least).to_numpy(dtype=bool, na_value=False)
    ranks = slices["rank"].astype("float64")
    by_file = ranks.where(enough).groupby(slices["store_file"])
    first, last = by_file.transform("min"), by_file.transform("max")
    inside = (ranks >= first) & (ranks <= last)
    return has_pixels & slices["split"].eq(TRAIN_SPLIT) & ~inside


def log_marked(marked: pd.Series, slices: pd.DataFrame, label: str) -> None:
    """Log how many slices are marked, and how many of them are positive."""
    positive = int((marked & (slices[label] > 0.5)).sum())
    level = logging.WARNING if positive else logging.INFO
    share = 100 * float(np.mean(marked[slices["split"] == TRAIN_SPLIT])) if marked.any() else 0.0
    logger.log(
        level,
        "%s (%.1f %%) outside the brain range, not to be trained on, %d of them with %s",
        count(int(marked.sum()), "training slice"),
        share,
        positive,
        label,
    )
