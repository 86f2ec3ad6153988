"""Predictors whose network sees the images of whole series: joint and 3D networks.

predictor.json and model.pt lie in the folder as they do for a network of slices.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.utils.data import DataLoader

from common.checkpoint import load_weights, save_weights
from common.datasets import make_loader
from common.datasets.series_images import SeriesImageDataset
from common.errors import InputError
from common.files import write_json
from common.memory import keep_freed_memory
from common.metrics import DEFAULT_THRESHOLD, Floats
from common.networks.series_images import SeriesImageNetwork
from common.networks.state import FitSettings
from common.pixel_steps import NO_STEPS, PixelSteps
from common.predictions import Calibration, prior_logits
from common.predictor import (
    FORMAT_VERSION,
    JSON_FILE,
    WEIGHTS_FILE,
    AbstractPredictor,
    BuildModel,
    RowLogits,
)
from common.slices import SliceTable
from common.transforms import SampleTransform
from common.views import PLAIN, RANDOM, LogitMean, Mean, ViewTransform, random_number

# A series is taken to have this many slices where a batch is given in slices.
USUAL_NUM_SLICES = 32


@dataclass
class SeriesPredictor(AbstractPredictor):
    """A network that sees whole series with all that is needed to use it; see the base.

    Rows are predicted within their whole series, whichever of its rows are asked for. A slice that
    is read from a damaged store is left out of its series and has the prior.

    Attributes:
        network: inputs as `SeriesImageDataset` makes them to logits (series, steps, labels).
        model: what `build_model` needs to make the network again; plain types.
        transform: makes the image of a slice; not random.
        tta_transform: draws extra views, the same draw for a series; None where there are none.
        slice_offsets: the neighbours in the image of a slice, by rank.
        steps: what is done to the pixels of a slice first.
    """

    kind: ClassVar[str]
    gives_features: ClassVar[bool] = True
    network: nn.Module
    model: dict[str, Any]
    label_names: Sequence[str]
    label_weights: Sequence[float]
    transform: SampleTransform
    prior: Floats
    tta_transform: SampleTransform | None = None
    slice_offsets: Sequence[int] = (0,)
    steps: PixelSteps = NO_STEPS
    calibration: Calibration | None = None
    threshold: float = DEFAULT_THRESHOLD
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.prior) == len(self.label_names) == len(self.label_weights)
        self.transform.require_deterministic()

    def save(self, folder: Path) -> None:
        """Writes model.pt and predictor.json, each in one step."""
        digest = save_weights(folder / WEIGHTS_FILE, self.network.state_dict())
        write_json(folder / JSON_FILE, {**self._to_json(), "weights_sha256": digest})

    @classmethod
    def from_folder(cls, folder: Path, content: dict[str, Any], build_model: BuildModel) -> Self:
        """Returns the predictor in `folder`, its network in evaluation mode on the CPU."""
        weights = folder / WEIGHTS_FILE
        if not weights.is_file():
            raise InputError(f"{weights} is missing: copy the whole predictor folder")
        if _sha256(weights) != content["weights_sha256"]:
            raise InputError(f"{weights} is not the file that {JSON_FILE} was written for")
        network = build_model(content["model"])
        load_weights(network, weights, "predictor")
        calibration, tta = content["calibration"], content["tta_transform"]
        where = str(folder / JSON_FILE)
        return cls(
            network=network.eval(),
            model=content["model"],
            label_names=tuple(content["label_names"]),
            label_weights=tuple(content["label_weights"]),
            transform=SampleTransform.from_dict(content["transform"], where),
            prior=np.array([content["prior"][name] for name in content["label_names"]]),
            tta_transform=tta and SampleTransform.from_dict(tta, where),
            slice_offsets=tuple(content["slice_offsets"]),
            steps=PixelSteps(**content["series_pixels"]),
            calibration=calibration
            and Calibration(tuple(calibration["temperature"]), tuple(calibration["bias"])),
            threshold=content["threshold"],
            training=content["training"],
        )

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
        """Returns the logits of rows, averaged over the views; see the base.

        A batch holds a series for every 32 slices of `batch_size`, at least one.
        """
        keep_freed_memory()
        rows = np.asarray(rows, dtype=np.int64)
        names = [*views, *(f"{RANDOM}{number}" for number in range(1, num_views + 1))]
        transforms = [self._view_transform(name) for name in names]
        readable = np.unique(rows[table.readable[rows]])
        is_read = np.zeros(len(table), dtype=bool)
        is_read[readable] = True
        settings = FitSettings(iteration_num=0, device=torch.device(device))
        network = SeriesImageNetwork(
            self.network, settings, self.label_weights, with_features=with_features
        )
        total = LogitMean(mean)
        features: NDArray[np.float32] | None = None
        for name, transform in zip(names, transforms, strict=True):
            logits = np.zeros((len(table), len(self.label_names)))
            if len(readable):
                outputs, found = self._outputs(
                    network,
                    table,
                    readable,
                    transform,
                    name,
                    seed,
                    batch_size,
                    num_workers,
                    on_batch,
                )
                logits[found] = outputs["logits"]
                was_read = np.zeros(len(table), dtype=bool)
                was_read[found] = True
                is_read &= was_read
                if with_features:
                    dim = outputs["features"].shape[1]
                    features = (
                        np.zeros((len(table), dim), np.float32) if features is None else features
                    )
                    features[found] += outputs["features"] / len(names)
            total.add(logits[rows])
        values, unreadable = total.result(), ~is_read[rows]
        if not np.isfinite(values[~unreadable]).all():
            raise InputError("the network gives logits that are not finite: its weights are bad")
        values[unreadable] = prior_logits(self.prior, self.calibration)
        if not with_features:
            return RowLogits(values.astype(np.float32), unreadable)
        if features is None:
            raise InputError("no slice can be read: there are no features")
        features[~is_read] = 0
        return RowLogits(values.astype(np.float32), unreadable, features[rows].astype(np.float16))

    def _outputs(
        self,
        network: SeriesImageNetwork,
        table: SliceTable,
        rows: NDArray[np.int64],
        transform: Any,
        view: str,
        seed: int,
        batch_size: int,
        num_workers: int,
        on_batch: Callable[[int], object] | None,
    ) -> tuple[dict[str, np.ndarray], NDArray[np.int64]]:
        """Returns what the network says in one view, and of which rows of the table."""
        dataset = SeriesImageDataset(
            table,
            rows,
            transform,
            (),
            slice_offsets=self.slice_offsets,
            steps=self.steps,
            seed=seed,
            view=random_number(view),
            skips_damaged=True,
        )
        loader = make_loader(dataset, series_per_batch(batch_size), num_workers)
        outputs = network.predict(cast(DataLoader, _told(loader, on_batch)))
        return outputs, dataset.rows[outputs["index"]]

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
        calibration = self.calibration
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "model": self.model,
            "label_names": list(self.label_names),
            "label_weights": list(self.label_weights),
            "prior": dict(zip(self.label_names, self.prior.tolist(), strict=True)),
            "slice_offsets": list(self.slice_offsets),
            "series_pixels": asdict(self.steps),
            "transform": self.transform.to_dict(),
            "tta_transform": self.tta_transform and self.tta_transform.to_dict(),
            "calibration": calibration and asdict(calibration),
            "threshold": self.threshold,
            "training": self.training,
        }


class JointPredictor(SeriesPredictor):
    """A slice encoder with a sequence transformer, trained as one."""

    kind: ClassVar[str] = "joint"


class VolumePredictor(SeriesPredictor):
    """A 3D network."""

    kind: ClassVar[str] = "volume"


def series_per_batch(num_slices: int) -> int:
    """Returns how many series make a batch of about so many slices."""
    return max(1, num_slices // USUAL_NUM_SLICES)


def _told(
    loader: Iterable[dict[str, Any]], on_batch: Callable[[int], object] | None
) -> Iterator[dict[str, Any]]:
    """Yields the batches, telling how many slices each had that count."""
    for batch in loader:
        yield batch
        if on_batch is not None:
            on_batch(int((batch["index"] >= 0).sum()))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
