"""How a dataset is split into training and validation, and the folds.csv that says so."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import write_text
from common.fold_making import (
    check_sources,
    fold_report,
    make_folds,
    make_source_folds,
    make_split,
)
from common.folds import FOLDS_FILE, TRAIN_SPLIT
from common.slices import STATUS_OK

logger = logging.getLogger(__name__)

BY_PATIENT, BY_SOURCE = "patient", "source"


@dataclass(frozen=True)
class FoldPlan:
    """How the folds are to be made.

    Attributes:
        num_folds: number of patient folds; None: none are made.
        fold_seed: their seed.
        valid_fraction: share of the patients that a single split validates on, instead of folds;
            0: folds.
        fold_by: `patient`, or `source`: each fold is what one first folder holds.
    """

    num_folds: int | None = 5
    fold_seed: int = 4667
    valid_fraction: float = 0.0
    fold_by: str = BY_PATIENT

    def parameters(self) -> dict[str, Any]:
        """Returns the attributes, for the manifest."""
        return asdict(self)

    def check(self, files: pd.DataFrame) -> None:
        """Raises InputError where the files can't be split so, before they are read."""
        training = files[files["split"] == TRAIN_SPLIT]
        if self.num_folds is not None and self.fold_by == BY_SOURCE and len(training):
            check_sources(training["source_file"])

    def make(
        self, slices: pd.DataFrame, label_names: Sequence[str]
    ) -> tuple[pd.DataFrame, list[str]]:
        """Returns the table of folds.csv, and for a split by source the source of each fold."""
        if self.fold_by == BY_SOURCE:
            return make_source_folds(slices)
        if self.valid_fraction:
            return make_split(slices, label_names, self.valid_fraction, self.fold_seed), []
        assert self.num_folds is not None
        return make_folds(slices, label_names, self.num_folds, self.fold_seed), []


def write_folds(
    plan: FoldPlan, slices: pd.DataFrame, label_names: Sequence[str], dataset_folder: Path
) -> tuple[pd.DataFrame, float, list[str]]:
    """Writes folds.csv; returns what `fold_report` tells, and the sources by fold if there are."""
    folds, sources = plan.make(slices, label_names)
    text = folds.to_csv(index=False)
    path = dataset_folder / FOLDS_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        logger.warning("the folds have changed: earlier experiments were split differently")
    write_text(path, text)
    in_training = slices["status"].eq(STATUS_OK) & slices["split"].eq(TRAIN_SPLIT)
    alone = in_training & slices["patient_id"].isna()
    if alone.any():
        logger.warning("%d training slices have no patient id: in no fold", alone.sum())
    return *fold_report(folds, slices, label_names), sources
