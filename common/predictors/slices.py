"""The predictor of a network for slices."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from common.datasets import ImageClassificationDataset, make_loader
from common.errors import InputError
from common.networks.classifier import ImageClassifierNetwork
from common.networks.state import FitSettings
from common.precision import keep_freed_memory
from common.predictors.base import PredictOptions, RowLogits
from common.predictors.network import FeatureMean, NetworkPredictor
from common.scoring.predictions import LogitMean, prior_logits
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from common.transforms.views import random_number
from common.windows import AIR_HU

logger = logging.getLogger(__name__)


@dataclass
class SlicePredictor(NetworkPredictor):
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
        total, features = LogitMean(options.mean), FeatureMean(len(rows))
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


class _PredictionDataset(ImageClassificationDataset):
    """Samples with `readable`: false, and the image air, where the store is damaged."""

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        try:
            return {**super().make_sample(index, seed), "readable": True}
        except UnreadableSlice as error:
            row = int(self.rows[index])
            logger.warning("image %s can't be read: %s", self.sample_id(index), error)
            size = self.table.frame.loc[row, ["rows", "columns"]].astype(int)
            air_hu = np.full((*size, len(self.slice_offsets)), AIR_HU, dtype=np.int16)
            image = torch.from_numpy(self.transform(air_hu, seed))
            labels = torch.from_numpy(self.labels[index])
            return {"image": image, "labels": labels, "index": index, "readable": False}


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
