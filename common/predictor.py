"""A predictor: weights, transform, labels, prior and calibration as one folder that stands alone.

    predictor.json   everything but the weights, in plain JSON
    model.pt         the plain state dict

Whoever predicts loads this folder and needs nothing of the training run that wrote it.
"""

import hashlib
import importlib
import json
import logging
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.utils.data import DataLoader

from common.checkpoint import save_weights
from common.datasets import ImageClassificationDataset, make_loader
from common.errors import InputError
from common.files import write_json
from common.memory import keep_freed_memory
from common.metrics import DEFAULT_THRESHOLD, Floats
from common.networks.classifier import ImageClassifierNetwork
from common.networks.state import FitSettings
from common.predictions import Calibration, Calibrator, prior_logits
from common.slices import SliceTable
from common.store import UnreadableSlice
from common.study_calibration import StudyCalibration
from common.transforms import SampleTransform
from common.views import PLAIN, RANDOM, LogitMean, Mean, ViewTransform, random_number

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
JSON_FILE = "predictor.json"
WEIGHTS_FILE = "model.pt"
PREDICTOR_FOLDER = "predictor"

BuildModel = Callable[[dict[str, Any]], nn.Module]

# kind in predictor.json -> where its class is. A folder without a kind is of the first one.
KINDS = {
    "slices": "common.predictor:Predictor",
    "blend": "common.blend_predictor:BlendPredictor",
    "joint": "common.series_predictor:JointPredictor",
    "volume": "common.series_predictor:VolumePredictor",
    "second_level": "common.second_level.predictor:SecondLevelPredictor",
    "study": "common.study_predictor:StudyPredictor",
    "folds": "common.fold_predictor:FoldsPredictor",
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
            views: what is averaged, by name; see `common.views`. `(PLAIN,)` is what validation
                sees.
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


@dataclass
class NetworkPredictor(AbstractPredictor):
    """One network with all that is needed to use it; see the base for what all have.

    predictor.json and model.pt lie in its folder.

    Attributes:
        network: what `build_model` made, to logits.
        model: what `build_model` needs to make the network again; plain types.
        transform: makes the image of a slice, with its windows, size and normalization; not random.
        tta_transform: draws the extra views of test-time augmentation; None where there are none.
        slice_offsets: the neighbours in a sample, by rank.
    """

    gives_features: ClassVar[bool] = True
    network: nn.Module
    model: dict[str, Any]
    label_names: Sequence[str]
    label_weights: Sequence[float]
    transform: SampleTransform
    prior: Floats
    tta_transform: SampleTransform | None = None
    slice_offsets: Sequence[int] = (0,)
    calibration: Calibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.prior) == len(self.label_names) == len(self.label_weights)
        assert ((self.prior > 0) & (self.prior < 1)).all(), "a prior is inside (0, 1)"
        self.transform.require_deterministic()

    def save(self, folder: Path) -> None:
        """Writes predictor.json and model.pt, each in one step."""
        digest = save_weights(folder / WEIGHTS_FILE, self.network.state_dict())
        write_json(folder / JSON_FILE, {**self._to_json(), "weights_sha256": digest})

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor in `folder`, its network in evaluation mode on the CPU."""
        network = build_model(content["model"])
        _load_weights(network, checked_weights(folder, content))
        tta, where = content["tta_transform"], str(folder / JSON_FILE)
        return cls(
            network=network.eval(),
            model=content["model"],
            transform=SampleTransform.from_dict(content["transform"], where),
            tta_transform=tta and SampleTransform.from_dict(tta, where),
            slice_offsets=tuple(content["slice_offsets"]),
            calibration=Calibration.from_json(content["calibration"]),
            **cls._shared_fields(content),
            **cls._own_fields(content),
        )

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The fields of a subclass that predictor.json holds."""
        return {}

    def _own_json(self) -> dict[str, Any]:
        """What predictor.json holds of them."""
        return {}

    def _view_transform(self, view: str) -> Any:
        """What makes the images of a view; InputError where this predictor can't have it."""
        if random_number(view):
            if self.tta_transform is None:
                raise InputError(f"--pr_tta: this predictor has no test-time transform for {view}")
            return self.tta_transform
        if view == "swap" and len(self.slice_offsets) == 1:
            raise InputError("--pr_tta_views swap: the images of this network have no neighbours")
        return self.transform if view == PLAIN else ViewTransform(view, self.transform)

    def _to_json(self) -> dict[str, Any]:
        return {
            **self._shared_json(),
            "model": self.model,
            "slice_offsets": list(self.slice_offsets),
            "transform": self.transform.to_dict(),
            "tta_transform": self.tta_transform and self.tta_transform.to_dict(),
            "calibration": self.calibration and self.calibration.to_json(),
            **self._own_json(),
        }


@dataclass
class Predictor(NetworkPredictor):
    """A network for slices: images (batch, channels, rows, columns) to logits (batch, labels).

    Attributes:
        offsets_mm: as many distances in mm as `slice_offsets`, which count in their place; empty:
            none.
    """

    kind: ClassVar[str] = "slices"
    offsets_mm: Sequence[float] = ()

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        keep_freed_memory()
        names = options.view_names
        transforms = [self._view_transform(name) for name in names]
        readable: NDArray[np.bool_] = table.readable[rows].copy()
        settings = FitSettings(
            iteration_num=0, channels_last=True, device=torch.device(options.device)
        )
        network = ImageClassifierNetwork(
            self.network, settings, self.label_weights, with_features=options.with_features
        )
        total, features = LogitMean(options.mean), _FeatureMean(len(rows))
        for name, transform in zip(names, transforms, strict=True):
            indices = np.flatnonzero(readable)
            dataset = _PredictionDataset(
                table,
                rows[indices],
                transform,
                (),
                self.slice_offsets,
                options.seed,
                random_number(name),
                self.offsets_mm,
            )
            if name == names[0]:
                dataset.warn_of_fallbacks("prediction")
            loader = make_loader(dataset, options.batch_size, options.num_workers)
            was_read: list[NDArray[np.bool_]] = []
            outputs = network.predict(
                cast(DataLoader, _watched(loader, was_read, options.on_batch))
            )
            logits = np.zeros((len(rows), len(self.label_names)))
            if len(indices):
                logits[indices] = outputs["logits"]
                readable[indices] = np.concatenate(was_read)
                if options.with_features:
                    features.add(indices, outputs["features"])
            total.add(logits)
        values = total.result()
        if not np.isfinite(values[readable]).all():
            raise InputError("the network gives logits that are not finite: its weights are bad")
        values[~readable] = prior_logits(self.prior, self.calibration)
        found = features.result(readable) if options.with_features else None
        return RowLogits(values.astype(np.float32), ~readable, found)

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        # Folders of before there were distances lack them.
        return {"offsets_mm": tuple(content.get("offsets_mm", ()))}

    def _own_json(self) -> dict[str, Any]:
        return {"offsets_mm": list(self.offsets_mm)}


def read_predictor_json(folder: Path) -> dict[str, Any]:
    """Returns the content of a predictor's JSON file; InputError where there is none of use."""
    path = folder / JSON_FILE
    if not path.is_file():
        raise InputError(f"no predictor at {folder} (no {JSON_FILE}): train the experiment first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON ({error}): restore it") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            f"predict with the version that wrote it"
        )
    return content


class _PredictionDataset(ImageClassificationDataset):
    """Samples with `readable`: false, and the image air, where the store is damaged."""

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        try:
            return {**super().make_sample(index, seed), "readable": True}
        except UnreadableSlice as error:
            row = int(self.rows[index])
            logger.warning("image %s can't be read: %s", self.sample_id(index), error)
            size = self.table.frame.loc[row, ["rows", "columns"]].astype(int)
            air_hu = np.full((*size, len(self.slice_offsets)), -1024, dtype=np.int16)
            image = torch.from_numpy(self.transform(air_hu, seed))
            labels = torch.from_numpy(self.labels[index])
            return {"image": image, "labels": labels, "index": index, "readable": False}


class _FeatureMean:
    """The mean of features (n, dim) over views, 0 for rows without any."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._total: NDArray[np.float32] | None = None
        self._num = 0

    def add(self, indices: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        if self._total is None:
            self._total = np.zeros((self.num_rows, features.shape[1]), np.float32)
        self._total[indices] += features
        self._num += 1

    def result(self, readable: NDArray[np.bool_]) -> NDArray[np.float16]:
        if self._total is None:
            raise InputError("no slice can be read: there are no features")
        mean = self._total / np.float32(self._num)
        mean[~readable] = 0
        return mean.astype(np.float16)


def _watched(
    loader: Iterable[dict[str, torch.Tensor]],
    was_read: list[NDArray[np.bool_]],
    on_batch: Callable[[int], object] | None,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the batches, noting in `was_read` which of their samples could be read."""
    for batch in loader:
        was_read.append(batch["readable"].numpy())
        yield batch
        if on_batch is not None:
            on_batch(len(batch["readable"]))


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        raise InputError(f"{path} does not hold the weights of this network: {error}") from error


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
