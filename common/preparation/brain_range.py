"""Marks training slices below and above the brain, which have little to teach."""

import logging

import numpy as np
import pandas as pd

from common.folds import TRAIN_SPLIT

logger = logging.getLogger(__name__)


def mark_brain_range(slices: pd.DataFrame, least: float) -> pd.Series:
    """Returns the training slices outside the brain range of their store file, as bool by row.

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


def tell_marked(marked: pd.Series, slices: pd.DataFrame, label: str) -> None:
    """Tells the log how many slices are marked, and how many of them are positive."""
    positive = int((marked & (slices[label] == 1)).sum())
    level = logging.WARNING if positive else logging.INFO
    share = 100 * float(np.mean(marked[slices["split"] == TRAIN_SPLIT])) if marked.any() else 0.0
    logger.log(
        level,
        "%d training slices (%.1f %%) lie outside the brain range and are not trained on, %d of "
        "them with %s",
        int(marked.sum()),
        share,
        positive,
        label,
    )
