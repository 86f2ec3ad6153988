"""A frozen encoder whose features of a dataset are extracted once and kept.

    <folder>/<digest>/encoder.b2nd, encoder.parquet   the features (`common.features.store`)
    <folder>/<digest>/manifest.json                   what made them

The digest is of all that makes the features: the weights, the transform, the neighbours, and the
slices with their pixels. Whoever needs the same ones again reads them, also from another training.
"""

import fcntl
import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from common.errors import InputError
from common.features.store import FeatureTable, writing_features
from common.files import make_folder
from common.models import TimmClassifier
from common.predictors.base import PredictOptions
from common.predictors.extraction import BLOCK_ROWS, extract
from common.predictors.slices import SlicePredictor
from common.slices.table import STORE_FOLDER, SliceTable
from common.words import count

logger = logging.getLogger(__name__)

NAME = "encoder"

# Of slices.parquet, what decides which pixels a sample has.
_COLUMNS = (
    *("image_id", "store_file", "store_index", "position_mm", "rank", "rows", "columns"),
    *("window_center", "window_width", "spacing_row", "spacing_column"),
)


@dataclass
class EncoderPredictor(SlicePredictor):
    """A frozen encoder with a head that says nothing: every logit is 0.

    It is saved as the slice predictor that it is.
    """

    network: TimmClassifier

    def __post_init__(self) -> None:
        super().__post_init__()
        for parameter in self.network.classifier.parameters():
            nn.init.zeros_(parameter)
        self.network.requires_grad_(False).eval()

    def store_features(
        self, table: SliceTable, rows: NDArray[np.int64], folder: Path, options: PredictOptions
    ) -> FeatureTable:
        """Return the features of readable rows, those kept in `folder` or newly extracted.

        Other processes that want the same ones wait meanwhile.

        Raises:
            InputError: the folder can't be written to, or slices are damaged.
        """
        made_of = self._made_of(table, rows)
        own = folder / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
        make_folder(own)
        with open(own / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (own / f"{NAME}.parquet").is_file() and _are_sound(own):
                num = count(len(rows), "slice")
                logger.info("features of the encoder: %s, kept in %s", num, own)
            else:
                self._extract(table, rows, own, made_of, options)
            return FeatureTable.load(own, NAME)

    def _extract(
        self,
        table: SliceTable,
        rows: NDArray[np.int64],
        folder: Path,
        made_of: dict[str, Any],
        options: PredictOptions,
    ) -> None:
        logger.info("extracting features of the encoder: %s", count(len(rows), "slice"))
        bar = tqdm(total=len(rows), unit="slice", desc="features", disable=None)
        with writing_features(folder, NAME, made_of) as writer, bar:
            counted = replace(options, on_batch=bar.update)
            found = extract(self, table, rows, counted, writer=writer)
            if found.unreadable.any():
                raise InputError(
                    f"{table.folder}: {count(int(found.unreadable.sum()), 'slice')} damaged in the "
                    f"store: prepare the dataset again"
                )

    def _made_of(self, table: SliceTable, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return all that the features depend on, in plain types."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.cpu().contiguous().numpy().tobytes())
        frame = table.frame.iloc[rows]
        frame = frame[[name for name in _COLUMNS if name in frame]]
        pixels = hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        for name in sorted(frame["store_file"].unique()):
            status = (table.folder / STORE_FOLDER / name).stat()
            pixels.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return {
            "model": self.model,
            "weights_sha256": weights.hexdigest(),
            "transform": self.transform.to_dict(),
            "slice_offsets": list(self.slice_offsets),
            "offsets_mm": list(self.offsets_mm),
            "past_end": self.past_end,
            "pixels_sha256": pixels.hexdigest(),
        }


def _are_sound(folder: Path) -> bool:
    """Return whether kept features can be read, and log a warning where they can't."""
    try:
        stored = FeatureTable.load(folder, NAME)
        for rows in np.array_split(np.arange(len(stored)), len(stored) // BLOCK_ROWS + 1):
            stored.read(rows)
    except InputError as error:
        logger.warning("%s; extracted anew", error)
        return False
    return True
