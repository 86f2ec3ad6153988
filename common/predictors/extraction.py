"""Runs a predictor over many slices, block by block: logits, and features on their way to disk."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from common.features.store import FeatureWriter
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.scoring.predictions import mean_logits
from common.slices.table import SliceTable

# The features of a block are held at once: 67 MB of 2048.
BLOCK_ROWS = 16384


def extract(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: ArrayLike,
    options: PredictOptions,
    *,
    writer: FeatureWriter | None = None,
    fold: int = 0,
    on_block: Callable[[int], object] | None = None,
) -> RowLogits:
    """Return the logits of rows of a slice table, and give the features of each view to `writer`.

    The rows are read study by study, so that the features of a study lie together. A row that can't
    be read gets the prior and has no features.

    Args:
        predictor: one that gives features where there is a writer.
        rows: int (n,), rows of the table.
        writer: takes the features; None where none are wanted.
        fold: whose network it is, for the writer.
        on_block: called with the number of rows of each finished block, all views counted.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    ordered = table.anatomical_order(wanted)
    image_ids = table.frame["image_id"].to_numpy(dtype=object)
    logits = np.empty((len(table), len(predictor.label_names)), np.float32)
    of_series: np.ndarray | None = None
    unreadable = np.ones(len(table), dtype=bool)
    for start in range(0, len(ordered), BLOCK_ROWS):
        block = ordered[start : start + BLOCK_ROWS]
        parts, own_parts = [], []
        for view in options.views:
            # A block that holds nothing readable has no features either.
            with_features = writer is not None and bool(table.readable[block].any())
            of_view = replace(options, views=(view,), with_features=with_features)
            result = predictor.predict_rows(table, block, of_view)
            parts.append(result.logits)
            if result.series_logits is not None:
                own_parts.append(result.series_logits)
            unreadable[block] = result.unreadable
            seen = ~result.unreadable
            if writer is not None and result.features is not None and seen.any():
                writer.append(image_ids[block[seen]], result.features[seen], fold, view)
            if on_block is not None:
                on_block(len(block))
        logits[block] = mean_logits(parts, options.mean)
        if own_parts:
            of_series = np.empty_like(logits) if of_series is None else of_series
            of_series[block] = mean_logits(own_parts, options.mean)
    own = None if of_series is None else of_series[wanted]
    return RowLogits(logits[wanted], unreadable[wanted], series_logits=own)
