"""What a slice network said of the slices of a table: logits and features, by row of the table.

The networks of different folds have feature spaces of their own. So features are standardised for
each network by itself, with mean and spread of the rows that it has not been trained on; no label
is looked at.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from common.errors import InputError
from common.experiment import Experiment, read_predictor_json
from common.features.store import MANIFEST_FILE, FeatureTable
from common.scoring.predictions import MEAN_VIEW, read_predictions
from common.slices.table import SLICES_FILE, SliceTable

logger = logging.getLogger(__name__)

FOLDS_DIGEST = "folds_sha256"

# Rows from which the statistics of a network's features are measured, at most: with 20,000 the
# standard error of a mean is 0.7 % of the spread.
_MOST_ROWS = 20_000
_BLOCK_ROWS = 4096
# Features that are read into memory whole: a series is then read in no time.
_MOST_BYTES = 1 << 30
# Features that hardly vary are not blown up.
_LEAST_SPREAD = 1e-3
# A standardised feature further out says no more than this one.
_LARGEST = 10.0


class Features(Protocol):
    """Rows of features, wherever they are."""

    dim: int

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return float32 (n, dim)."""


class FeaturesInMemory:
    """Features that have been read, or that a network has just made: (n, dim)."""

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.values = values
        self.dim = values.shape[1]

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return float32 (n, dim)."""
        return self.values[np.asarray(rows, dtype=np.int64)].astype(np.float32)


class _MeanOfViews:
    """The mean over several rows of a feature table: those of an image in several views."""

    def __init__(self, table: FeatureTable, rows: NDArray[np.int64]) -> None:
        self.table, self.rows, self.dim = table, rows, table.dim

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return float32 (n, dim); a row is an image."""
        chosen = self.rows[np.asarray(rows, dtype=np.int64)]
        total = np.zeros((len(chosen), self.dim), np.float32)
        for view in range(chosen.shape[1]):
            total += self.table.read(chosen[:, view])
        return total / chosen.shape[1]


@dataclass(frozen=True)
class Scaling:
    """Mean and spread of each feature of one network, float32 (dim,)."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features (n, dim), within 10 spreads of the mean."""
        return ((features - self.mean) / self.spread).clip(-_LARGEST, _LARGEST)


@dataclass(frozen=True)
class SliceOutputs:
    """What the networks of a slice experiment said of the slices of a table.

    Attributes:
        name: the experiment's id.
        logits: float32 (rows of the table, labels), NaN where there are none.
        folds: int64 (rows of the table,), the fold whose network said it; -1 where none did.
        features: where the features are; None where they are not used.
        feature_rows: int64 (rows of the table,), where those of a row are.
        scaling: of the features, by fold.
        folds_digest: of the fold table that the networks were trained with; None where unknown.
    """

    name: str
    logits: NDArray[np.float32]
    folds: NDArray[np.int64]
    features: Features | None = None
    feature_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scaling: Mapping[int, Scaling] = field(default_factory=dict)
    folds_digest: str | None = None

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """bool (rows of the table,): the rows with outputs."""
        return self.folds >= 0

    def read_features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the standardised features of rows of the table, float32 (n, dim)."""
        assert self.features is not None
        features = self.features.read(self.feature_rows[rows])
        folds = self.folds[rows]
        for fold in np.unique(folds):
            chosen = folds == fold
            features[chosen] = self.scaling[int(fold)].apply(features[chosen])
        return features


def load_slice_outputs(
    experiment_folder: Path,
    table: SliceTable,
    label_names: Sequence[str],
    views: Sequence[str] | None = None,
) -> SliceOutputs:
    """Return the out-of-fold outputs of a slice experiment, of all folds or of one.

    Args:
        experiment_folder: the experiment's.
        table: the dataset that it was trained on.
        label_names: the labels, which must be its own.
        views: those whose mean the features are to be; None for no features.

    Raises:
        InputError: it has no such outputs, or they are of other images.
    """
    experiment = Experiment(experiment_folder)
    predictions = read_predictions(experiment.out_of_fold_file, label_names)
    is_out_of_fold = predictions["view"].eq(MEAN_VIEW) & predictions["fold"].notna()
    outputs = _kept(
        predictions[is_out_of_fold], table, label_names, views, experiment.features, "oof"
    )
    outputs = replace(outputs, name=experiment_folder.name, folds_digest=_folds_digest(experiment))
    if outputs.features is None:
        return outputs
    scaling = {
        int(fold): measure_scaling(outputs.features, outputs.feature_rows[outputs.folds == fold])
        for fold in np.unique(outputs.folds[outputs.is_known])
    }
    return replace(outputs, scaling=scaling)


def load_test_outputs(
    experiment_folder: Path,
    fold: int,
    table: SliceTable,
    views: Sequence[str] | None,
    scaling: Scaling | None,
) -> SliceOutputs | None:
    """Return what the network of one fold said of the test rows when it had been trained.

    Args:
        views, table: as of `load_slice_outputs`.
        scaling: of the features of this network.

    Returns:
        the outputs, without rows that have the prior; None where they were not kept, or can't be
        used: then they are computed again.
    """
    own = Experiment(experiment_folder).fold(fold)
    if not own.predictions_file("test").is_file():
        return None
    try:
        _require_newer(own.predictions_file("test"), table.folder / SLICES_FILE)
        content = read_predictor_json(own.predictor)
        names = content["label_names"]
        predictions = read_predictions(own.predictions_file("test"), names)
        logits = predictions[[f"logit_{name}" for name in names]].to_numpy(np.float64)
        prior = logit(np.array([content["prior"][name] for name in names]))
        predictions = predictions[~np.isclose(logits, prior, atol=1e-4).all(axis=1)]
        outputs = _kept(predictions, table, names, views, own.features, "test")
    except InputError as error:
        logger.warning("slice outputs of the test rows are computed again: %s", error)
        return None
    return replace(outputs, scaling={} if scaling is None else {fold: scaling})


def _require_newer(path: Path, other: Path) -> None:
    """Raise InputError where a dataset may have other pixels than when outputs were made of it."""
    if path.stat().st_mtime_ns < other.stat().st_mtime_ns:
        raise InputError(f"{path} is older than {other}: the dataset was prepared again since")


def _kept(
    predictions: pd.DataFrame,
    table: SliceTable,
    label_names: Sequence[str],
    views: Sequence[str] | None,
    features_folder: Path,
    name: str,
) -> SliceOutputs:
    """Return the outputs in a prediction table, with features where there are views to average.

    Raises:
        InputError: images or features are missing, or not of the same folds.
    """
    image_ids = predictions["image_id"].to_numpy(dtype=object)
    rows = table.rows_of(image_ids)
    logits = np.full((len(table), len(label_names)), np.nan, np.float32)
    logits[rows] = predictions[[f"logit_{label}" for label in label_names]].to_numpy(np.float32)
    folds = np.full(len(table), -1, np.int64)
    folds[rows] = predictions["fold"].to_numpy(np.int64)
    if views is None:
        return SliceOutputs("", logits, folds)
    features = FeatureTable.load(features_folder, name)
    of_views = np.stack([features.rows_of(image_ids, view=view) for view in views], axis=1)
    made_by = features.frame["fold"].to_numpy(np.int64)[np.argsort(features.frame["row"])]
    if not np.array_equal(made_by[of_views[:, 0]], folds[rows]):
        raise InputError(
            f"{features_folder.parent}: features and predictions of an image are of different "
            f"folds: go on with the experiment by --tr_resume 1"
        )
    feature_rows = np.full(len(table), -1, np.int64)
    feature_rows[rows] = np.arange(len(rows))
    near = _near(_MeanOfViews(features, of_views), len(rows))
    return SliceOutputs("", logits, folds, near, feature_rows)


def outputs_of_encoder(
    features: FeatureTable,
    table: SliceTable,
    rows: NDArray[np.int64],
    trained: NDArray[np.int64],
    fold: int,
    num_labels: int,
) -> SliceOutputs:
    """Return the features of a frozen encoder as outputs of a slice network whose logits are 0.

    Args:
        features: of all of `rows`.
        table: the dataset.
        rows: of the table, those that have features.
        trained: of the table, those that are trained on; their features are measured for scaling.
        fold: that is validated.
    """
    logits = np.full((len(table), num_labels), np.nan, np.float32)
    folds, feature_rows = np.full((2, len(table)), -1, np.int64)
    logits[rows], folds[rows], feature_rows[rows] = 0, fold, np.arange(len(rows))
    stored = features.rows_of(table.frame["image_id"].to_numpy(dtype=object)[rows])
    near = _near(_MeanOfViews(features, stored[:, None]), len(rows))
    scaling = {fold: measure_scaling(near, feature_rows[trained])}
    return SliceOutputs("encoder", logits, folds, near, feature_rows, scaling)


def measure_scaling(features: Features, rows: NDArray[np.int64]) -> Scaling:
    """Return mean and spread of features over rows, of evenly spaced ones where there are many."""
    if len(rows) > _MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(np.int64)]
    rows = np.sort(rows)
    mean, squares, num_read = np.zeros(features.dim), np.zeros(features.dim), 0
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = features.read(rows[start : start + _BLOCK_ROWS]).astype(np.float64)
        own_mean, share = block.mean(axis=0), len(block) / (num_read + len(block))
        squares += ((block - own_mean) ** 2).sum(axis=0)
        squares += (own_mean - mean) ** 2 * num_read * share
        mean += (own_mean - mean) * share
        num_read += len(block)
    spread = np.sqrt(squares / len(rows))
    return Scaling(mean.astype(np.float32), np.maximum(spread, _LEAST_SPREAD).astype(np.float32))


def _folds_digest(experiment: Experiment) -> str | None:
    """The digest of the folds that an experiment was made with, as its features or networks say."""
    manifest = experiment.features / MANIFEST_FILE
    if manifest.is_file():
        try:
            digest = dict(json.loads(manifest.read_text(encoding="utf-8"))).get(FOLDS_DIGEST)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{manifest} can't be read ({error}): remove the folder, and go on with the "
                f"experiment by --tr_resume 1"
            ) from error
    else:
        content = read_predictor_json(experiment.predictor)
        digest = content["training"].get(FOLDS_DIGEST)
    return None if digest is None else str(digest)


def _near(features: Features, num_rows: int) -> Features:
    """Return the features in memory where they fit."""
    if 2 * num_rows * features.dim > _MOST_BYTES:
        return features
    values = np.empty((num_rows, features.dim), np.float16)
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        values[start:stop] = features.read(np.arange(start, stop))
    return FeaturesInMemory(values)
