"""Predictors whose network sees the images of whole series: joint and 3D networks.

predictor.json and model.pt lie in the folder as they do for a network of slices.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from common.datasets import make_loader
from common.datasets.series_images import SeriesImageDataset
from common.errors import InputError
from common.networks.series_images import SeriesImageNetwork
from common.networks.state import FitSettings
from common.precision import keep_freed_memory
from common.predictors.base import PredictOptions, RowLogits
from common.predictors.network import FeatureMean, NetworkPredictor
from common.scoring.predictions import LogitMean, prior_logits
from common.slices.pixel_steps import NO_STEPS, PixelSteps
from common.slices.table import SliceTable
from common.transforms.views import random_number

# A series is taken to have this many slices where a batch is given in slices.
USUAL_NUM_SLICES = 32


@dataclass
class SeriesPredictor(NetworkPredictor):
    """A network that sees whole series: inputs of `SeriesImageDataset` to (series, steps, labels).

    Rows are predicted within their whole series, whichever of its rows are asked for. A slice that
    is read from a damaged store is left out of its series and has the prior. A batch holds a series
    for every 32 slices of `batch_size`, at least one.

    Attributes:
        steps: what is done to the pixels of a slice first.
    """

    steps: PixelSteps = NO_STEPS

    def _predict(
        self, table: SliceTable, rows: NDArray[np.int64], options: PredictOptions
    ) -> RowLogits:
        keep_freed_memory()
        names = options.view_names
        transforms = [self._view_transform(name) for name in names]
        readable = np.unique(rows[table.readable[rows]])
        is_read = np.zeros(len(table), dtype=bool)
        is_read[readable] = True
        settings = FitSettings(iteration_num=0, device=torch.device(options.device))
        network = SeriesImageNetwork(
            self.network, settings, self.label_weights, with_features=options.with_features
        )
        total, features = LogitMean(options.mean), FeatureMean(len(table))
        for name, transform in zip(names, transforms, strict=True):
            logits = np.zeros((len(table), len(self.label_names)))
            if len(readable):
                outputs, found = self._outputs(network, table, readable, transform, name, options)
                logits[found] = outputs["logits"]
                was_read = np.zeros(len(table), dtype=bool)
                was_read[found] = True
                is_read &= was_read
                if options.with_features:
                    features.add(found, outputs["features"])
            total.add(logits[rows])
        values, unreadable = total.result(), ~is_read[rows]
        if not np.isfinite(values[~unreadable]).all():
            raise InputError("the network gives logits that are not finite: its weights are bad")
        values[unreadable] = prior_logits(self.prior, self.calibration)
        said = features.result(is_read)[rows] if options.with_features else None
        return RowLogits(values.astype(np.float32), unreadable, said)

    def _outputs(
        self,
        network: SeriesImageNetwork,
        table: SliceTable,
        rows: NDArray[np.int64],
        transform: Any,
        view: str,
        options: PredictOptions,
    ) -> tuple[dict[str, np.ndarray], NDArray[np.int64]]:
        """Returns what the network says in one view, and of which rows of the table."""
        dataset = SeriesImageDataset(
            table,
            rows,
            transform,
            (),
            slice_offsets=self.slice_offsets,
            steps=self.steps,
            seed=options.seed,
            view=random_number(view),
            skips_damaged=True,
        )
        loader = make_loader(dataset, series_per_batch(options.batch_size), options.num_workers)
        outputs = network.predict(cast(DataLoader, _told(loader, options.on_batch)))
        return outputs, dataset.rows[outputs["index"]]

    @classmethod
    def _own_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {"steps": PixelSteps(**content["series_pixels"])}

    def _own_json(self) -> dict[str, Any]:
        return {"series_pixels": asdict(self.steps)}


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
