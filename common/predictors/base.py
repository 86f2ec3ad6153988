"""A predictor: weights, transform, labels, prior and calibration as one folder that stands alone.

    predictor.json   everything but the weights, in plain JSON
    model.pt         the plain state dict

Whoever predicts loads this folder and needs nothing of the training run that wrote it.
"""

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from common.errors import InputError
from common.experiment import FORMAT_VERSION, JSON_FILE, read_predictor_json
from common.scoring.metrics import Floats
from common.scoring.predictions import Calibrator, Mean
from common.scoring.study_calibration import StudyCalibration
from common.slices.table import SliceTable
from common.transforms.views import PLAIN, RANDOM

WEIGHTS_FILE = "model.pt"

BuildModel = Callable[[dict[str, Any]], nn.Module]

# kind in predictor.json -> where its class is. A folder without a kind is of the first one.
KINDS = {
    "slices": "common.predictors.slices:SlicePredictor",
    "blend": "common.predictors.blend:BlendPredictor",
    "joint": "common.predictors.series:JointPredictor",
    "volume": "common.predictors.series:VolumePredictor",
    "second_level": "common.predictors.second_level:SecondLevelPredictor",
    "study": "common.predictors.sequence:StudyPredictor",
    "folds": "common.predictors.folds:FoldsPredictor",
}


@dataclass(frozen=True)
class RowLogits:
    """What a predictor says of n rows of a slice table.

    Attributes:
        logits: float32 (n, labels), the mean over views; the prior's where nothing could be read.
        unreadable: bool (n,): the rows that have the prior.
        features: float16 (n, dim), the mean over views, 0 where nothing could be read; None where
            they were not asked for.
    """

    logits: NDArray[np.float32]
    unreadable: NDArray[np.bool_]
    features: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class PredictOptions:
    """How rows are predicted; see `AbstractPredictor.predict_rows`."""

    batch_size: int = 64
    num_workers: int = 0
    num_views: int = 0
    seed: int = 0
    device: torch.device | str = "cpu"
    on_batch: Callable[[int], object] | None = None
    views: Sequence[str] = (PLAIN,)
    mean: Mean = "logits"
    with_features: bool = False

    @property
    def view_names(self) -> list[str]:
        """All views, the random ones last."""
        return [*self.views, *(f"{RANDOM}{number}" for number in range(1, self.num_views + 1))]

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of `predict_rows`, for a predictor that asks others."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class AbstractPredictor(ABC):
    """What predicts the rows of a slice table, kept in a folder that stands alone.

    A kind of predictor is a subclass and an entry in `KINDS`: a network for slices, or something
    made of other predictors, which lie in folders inside its own.

    Attributes:
        kind: its name in predictor.json.
        gives_features: whether `predict_rows` can be asked for features.
        label_names: the labels, in the order of the logits.
        label_weights: their weights in the weighted log loss.
        prior: share of positives per label in training, clipped (`metrics.training_prior`).
        calibration: turns logits into calibrated ones; None where the logits are used as they are.
        study_calibration: makes probabilities of studies of those of slices; None for the largest.
        threshold: from which probability on a label is called present.
        training: where it comes from (experiment, dataset, fold, ...); plain types.
    """

    kind: ClassVar[str]
    gives_features: ClassVar[bool] = False
    label_names: Sequence[str]
    label_weights: Sequence[float]
    prior: Floats
    calibration: Calibrator | None
    study_calibration: StudyCalibration | None = None
    threshold: float
    training: dict[str, Any]

    @property
    def num_networks(self) -> int:
        """Networks that see each slice, for progress."""
        return 1

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes predictor.json and what belongs to it, each in one step."""

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor of this kind in `folder`, whose predictor.json holds `content`."""

    def predict_rows(
        self,
        table: SliceTable,
        rows: ArrayLike,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        num_views: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        on_batch: Callable[[int], object] | None = None,
        views: Sequence[str] = (PLAIN,),
        mean: Mean = "logits",
        with_features: bool = False,
    ) -> RowLogits:
        """Returns the logits of rows of a slice table, in their order.

        A row without readable pixels gets the prior.

        Args:
            table: the slices.
            rows: int (n,), rows of the table, readable or not.
            batch_size: slices that go through a network at once.
            num_workers: processes that read and transform.
            num_views: random views beside `views`: these are random_1, random_2, ...
            seed: of random views; one of an image depends on it, the view and the image id.
            device: where networks run.
            on_batch: told the number of slices done with each batch, all views counted.
            views: what is averaged, by name; see `common.transforms.views`. `(PLAIN,)` is what
                validation sees.
            mean: whether logits or probabilities are averaged over the views.
            with_features: whether features are wanted; InputError where there are none.
        """
        if with_features and not self.gives_features:
            raise InputError(
                f"a predictor of the kind {self.kind!r} has no features of slices: ask the slice "
                f"predictors in it"
            )
        options = PredictOptions(
            batch_size, num_workers, num_views, seed, device, on_batch, views, mean, with_features
        )
        return self._predict(table, np.asarray(rows, dtype=np.int64), options)

    @abstractmethod
    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        """What `predict_rows` returns."""

    def _shared_json(self) -> dict[str, Any]:
        """What predictor.json holds for every kind, but for the calibration."""
        prior = np.asarray(self.prior).tolist()
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "label_names": list(self.label_names),
            "label_weights": list(self.label_weights),
            "prior": dict(zip(self.label_names, prior, strict=True)),
            "threshold": self.threshold,
            "training": self.training,
        }

    @staticmethod
    def _shared_fields(content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of every kind that predictor.json holds, but for the calibration."""
        names = tuple(content["label_names"])
        return {
            "label_names": names,
            "label_weights": tuple(content["label_weights"]),
            "prior": np.array([content["prior"][name] for name in names]),
            "threshold": content["threshold"],
            "training": content["training"],
        }


def load_predictor(folder: Path, build_model: BuildModel) -> AbstractPredictor:
    """Returns the predictor in `folder`, of whatever kind, ready to predict on the CPU.

    Args:
        folder: where `save` wrote.
        build_model: makes a network, with any weights, from the `model` dict of predictor.json.

    Raises:
        InputError: the folder is no predictor, is damaged, or is of another version.
    """
    content = read_predictor_json(folder)
    kind = content.get("kind", next(iter(KINDS)))
    if kind not in KINDS:
        raise InputError(
            f"{folder / JSON_FILE} is a predictor of the kind {kind!r}: predict with the version "
            f"that wrote it"
        )
    module, name = KINDS[kind].split(":")
    predictor: type[AbstractPredictor] = getattr(importlib.import_module(module), name)
    return predictor.from_folder(folder, content, build_model)


def checked_weights(folder: Path, content: Mapping[str, Any]) -> Path:
    """Returns the weights file of a predictor; InputError unless it is what was written."""
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{weights} is missing: copy the whole predictor folder")
    if _sha256(weights) != content["weights_sha256"]:
        raise InputError(f"{weights} is not the file that {JSON_FILE} was written for")
    return weights


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
