"""Several slice networks, or several views, in one pass: each slice is read and decoded once.

Images that are made alike, of the same slices by the same transform, are made once for all networks
that see them. The views of a slice go through a network in one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.datasets.base import AbstractDataset
from common.predictors.base import PredictOptions, RowLogits
from common.predictors.engine import batches_for, outputs_of
from common.scoring.predictions import mean_logits
from common.slices.table import SliceTable

if TYPE_CHECKING:
    from common.predictors.slices import SlicePredictor

# Slices that a process remembers: those of a sample and its neighbours, 0.5 MB each.
_REMEMBERED = 16


def predict_slices(
    asked: "Sequence[tuple[SlicePredictor, PredictOptions]]",
    table: SliceTable,
    rows: NDArray[np.int64],
) -> list[RowLogits]:
    """Return the predictions of several slice networks of the same rows, each as it is asked.

    A batch holds about as many images as that of one network with one view.

    Args:
        asked: at least one network with its options; batch size and workers are those of the first.
    """
    wanted = np.unique(rows)
    ordered = table.anatomical_order(wanted[table.readable[wanted]])
    once, datasets = ReadOnce(table), dict[str, AbstractDataset]()
    for predictor, options in asked:
        for view in options.views:
            recipe = predictor.recipe(view, options)
            if recipe not in datasets:
                datasets[recipe] = predictor.dataset(once, ordered, view, options)
    collected = [_Collected(predictor, options, wanted) for predictor, options in asked]
    size = max(asked[0][1].batch_size // len(datasets), 1)
    joint, num_workers = _Joint(datasets), asked[0][1].num_workers
    for batch in batches_for(asked[0][0].network, joint, size, num_workers):
        index = np.asarray(batch["index"])
        places = np.searchsorted(wanted, ordered[index[index >= 0]])
        for each in collected:
            each.add(places, index >= 0, batch)
    return [each.result(rows) for each in collected]


class _Collected:
    """The outputs of one network for rows (n,), the mean over its views."""

    def __init__(
        self, predictor: "SlicePredictor", options: PredictOptions, wanted: NDArray[np.int64]
    ) -> None:
        self.predictor, self.options, self.wanted = predictor, options, wanted
        self.recipes = [predictor.recipe(view, options) for view in options.views]
        self.alone = replace(options, num_workers=0, on_batch=None)
        self.logits = np.zeros((len(wanted), len(predictor.label_names)))
        self.features: NDArray[np.float32] | None = None
        self.is_read = np.zeros(len(wanted), dtype=bool)

    def add(
        self, places: NDArray[np.int64], was_read: NDArray[np.bool_], batch: dict[str, Any]
    ) -> None:
        """Run the network on images (batch, channels, rows, columns) of its recipes."""
        images = [np.asarray(batch[recipe]) for recipe in self.recipes]
        are_alike = len({image.shape for image in images}) == 1
        runs = [np.concatenate(images)] if are_alike and len(images) > 1 else images
        network = self.predictor.network
        parts = [outputs_of(network, "slices", _Made(run), len(run), self.alone) for run in runs]
        by_view = (len(images), len(was_read), -1)
        logits = np.concatenate([part["logits"] for part in parts]).reshape(by_view)[:, was_read]
        self.logits[places] = mean_logits(list(logits), self.options.mean)
        self.is_read[places] = True
        if self.options.with_features:
            features = np.concatenate([part["features"] for part in parts]).reshape(by_view)
            if self.features is None:
                self.features = np.zeros((len(self.wanted), features.shape[-1]), np.float32)
            self.features[places] = features[:, was_read].sum(axis=0) / np.float32(len(images))
        if self.options.on_batch is not None:
            self.options.on_batch(len(places) * len(images))

    def result(self, rows: NDArray[np.int64]) -> RowLogits:
        places = np.searchsorted(self.wanted, rows)
        features = None if self.features is None else self.features[places]
        return self.predictor.filled(self.logits[places], ~self.is_read[places], features)


class ReadOnce(SliceTable):
    """A table that remembers the slices it has read last; they are not to be changed."""

    def __init__(self, table: SliceTable) -> None:
        self.__dict__.update(table.__dict__)
        self._read, self._recent = table.image_hu, dict[int, np.ndarray]()

    def image_hu(self, row: int) -> np.ndarray:
        if row not in self._recent:
            image_hu = self._read(row)
            if len(self._recent) == _REMEMBERED:
                self._recent.pop(next(iter(self._recent)))
            self._recent[row] = image_hu
        return self._recent[row]


class _Joint(AbstractDataset):
    """Samples of several datasets of the same rows: the image of each by its recipe, and `index`,
    -1 where the slice can't be read.
    """

    def __init__(self, datasets: Mapping[str, AbstractDataset]) -> None:
        super().__init__()
        self.datasets = datasets

    def __len__(self) -> int:
        return len(next(iter(self.datasets.values())))

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        # Each has a seed of its own.
        samples = {recipe: dataset.sample(index) for recipe, dataset in self.datasets.items()}
        images = {recipe: sample["image"] for recipe, sample in samples.items()}
        return {**images, "index": min(sample["index"] for sample in samples.values())}


class _Made(AbstractDataset):
    """Images (n, channels, rows, columns) that are made already."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        super().__init__()
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        return {"image": self.images[index], "index": index}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch of consecutive samples, without a copy."""
        import torch

        index = torch.tensor([sample["index"] for sample in samples])
        image = torch.from_numpy(self.images[index[0] : index[-1] + 1])
        return {"image": image, "index": index}
