"""Trainings of networks that see the images of whole series."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.callbacks import Callback
from common.datasets.series_images import SeriesImageDataset
from common.errors import InputError
from common.metrics import training_prior
from common.models import AbstractModel
from common.networks.series_images import SeriesImageNetwork
from common.pixel_steps import NO_STEPS, PixelSteps
from common.predictor import AbstractPredictor
from common.series_predictor import SeriesPredictor, series_per_batch
from common.slices import SliceTable
from common.transforms import SampleTransform
from rsna_dataset import find_transforms, fold_rows, neighbour_offsets
from rsna_network import RSNANetwork, build_network
from rsna_sequence_training import RSNASequenceTraining, SequenceData

logger = logging.getLogger(__name__)


class RSNASeriesNetwork(SeriesImageNetwork, RSNANetwork):
    """Images of whole series, trained and validated with the weights of the task."""


@dataclass(frozen=True)
class SeriesData(SequenceData):
    """What a training reads; see the base.

    Attributes:
        valid_transform: makes the images of validation and prediction.
        tta_transform: draws extra views for predictions.
    """

    valid_transform: SampleTransform
    tta_transform: SampleTransform


class RSNASeriesTraining(RSNASequenceTraining):
    """A training on samples that are series; subclasses say which network, and which predictor.

    --tr_batch_size counts series, --tr_batch_size_valid slices: 32 of them are a series.
    """

    predictor_class: ClassVar[type[SeriesPredictor]]
    data: SeriesData  # type: ignore[assignment]
    model: Any

    @abstractmethod
    def _create_model(self) -> Any:
        """The network that --net_model names."""

    def _pixel_steps(self) -> PixelSteps:
        """What is done to the pixels of a slice before its transform."""
        return NO_STEPS

    def _slice_offsets(self) -> tuple[int, ...]:
        """The neighbours in the image of each slice, by rank.

        Raises:
            InputError: they are asked for in mm.
        """
        offsets, offsets_mm = neighbour_offsets(self.config.data)
        if offsets_mm:
            raise InputError(
                "--data_neighbor_mm: networks over series take neighbours by number: leave it out"
            )
        return offsets

    def _load_data(self) -> SeriesData:  # type: ignore[override]
        """The series of both sides."""
        config, seed = self.config, self.config.general.seed
        table = SliceTable.load(config.dataset_folder)
        train_rows, valid_rows = fold_rows(config, table)
        names = self.task.label_names
        offsets = self._slice_offsets()
        transforms = find_transforms(config, self.model.mean, self.model.std, len(offsets))
        options: dict[str, Any] = {
            "slice_offsets": offsets,
            "steps": self._pixel_steps(),
            "seed": seed,
        }
        train = SeriesImageDataset(
            table, train_rows, transforms[0], names, self._augmentation(), **options
        )
        valid = SeriesImageDataset(table, valid_rows, transforms[1], names, **options)
        prior = training_prior(train.labels)
        return SeriesData(train, valid, prior, transforms[1], transforms[2])

    def _make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        return build_network(
            self.config,
            self.model,
            self.settings,
            self._train_ids,
            callbacks,
            network_class=RSNASeriesNetwork,
        )

    def _split_transform(self) -> None:  # type: ignore[override]
        logger.warning("--data_transform_device has no effect on networks that see whole series")

    def _log_transforms(self) -> None:
        logger.info("training transforms: all on the CPU, one draw for all slices of a series")
        logger.info("training samples: %s", self.data.train.augmentation)

    def _as_validated(self, dataset: Any, rows: NDArray[np.int64]) -> SeriesImageDataset:
        return dataset.with_rows(rows, self.data.valid_transform)

    @property
    def _valid_batch_size(self) -> int:
        return series_per_batch(self.config.training.tr_batch_size_valid)

    def _predictor(self, network: RSNANetwork) -> AbstractPredictor:
        model: AbstractModel = self.model
        return self.predictor_class(
            network=model,
            model=model.specification,
            label_names=self.task.label_names,
            label_weights=self.task.label_weights,
            transform=self.data.valid_transform,
            tta_transform=self.data.tta_transform,
            prior=self.data.prior,
            slice_offsets=self.data.valid.slice_offsets,
            steps=self.data.valid.steps,
            training=self._origin(network),
        )
