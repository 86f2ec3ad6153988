"""Trainings of networks that see the images of whole series."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from common.callbacks import Callback
from common.datasets import EpochSampler, make_loader
from common.datasets.series_images import SeriesImageDataset
from common.datasets.studies import StudyAugmentation
from common.errors import InputError
from common.metrics import training_prior
from common.models import AbstractModel
from common.networks.series_images import SeriesImageNetwork
from common.pixel_steps import NO_STEPS, PixelSteps
from common.predictor import AbstractPredictor
from common.series_predictor import SeriesPredictor, series_per_batch
from common.slices import SliceTable
from common.subset import draw_studies
from common.transforms import SampleTransform
from rsna_dataset import find_transforms, fold_rows, neighbour_offsets
from rsna_network import RSNANetwork, build_network
from rsna_training import RSNATraining

logger = logging.getLogger(__name__)


class RSNASeriesNetwork(SeriesImageNetwork, RSNANetwork):
    """Images of whole series, trained and validated with the weights of the task."""


@dataclass(frozen=True)
class SeriesData:
    """What a training reads.

    Attributes:
        train, valid: the series of the two sides of the fold.
        prior: share of positives per label in the training slices, inside (0, 1).
        valid_transform: makes the images of validation and prediction.
        tta_transform: draws extra views for predictions.
    """

    train: SeriesImageDataset
    valid: SeriesImageDataset
    prior: np.ndarray
    valid_transform: SampleTransform
    tta_transform: SampleTransform

    def log_sizes(self) -> None:
        """Tells the log how many slices and series each side has."""
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            logger.info("%s: %d slices of %d series", side, len(dataset.rows), len(dataset))
            if dataset.num_without_positions:
                logger.warning(
                    "%s: %d series have slices without a position: they count as 5 mm apart",
                    side,
                    dataset.num_without_positions,
                )


class RSNASeriesTraining(RSNATraining):
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
        config, flags, seed = self.config, self.config.data, self.config.general.seed
        table = SliceTable.load(config.dataset_folder)
        train_rows, valid_rows = fold_rows(config, table)
        names = self.task.label_names
        offsets = self._slice_offsets()
        transforms = find_transforms(config, self.model.mean, self.model.std, len(offsets))
        augmentation = StudyAugmentation(
            flags.data_study_thin, flags.data_study_reverse, flags.data_study_crop
        )
        options: dict[str, Any] = {
            "slice_offsets": offsets,
            "steps": self._pixel_steps(),
            "seed": seed,
        }
        train = SeriesImageDataset(table, train_rows, transforms[0], names, augmentation, **options)
        valid = SeriesImageDataset(table, valid_rows, transforms[1], names, **options)
        prior = training_prior(train.labels)
        return SeriesData(train, valid, prior, transforms[1], transforms[2])

    def _make_sampler(self) -> EpochSampler:
        return EpochSampler(len(self.data.train), self.config.general.seed)

    def _make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        train = self.data.train
        ids = [train.sample_id(index) for index in range(len(train))]
        return build_network(
            self.config, self.model, self.settings, ids, callbacks, network_class=RSNASeriesNetwork
        )

    def _split_transform(self) -> None:  # type: ignore[override]
        logger.warning("--data_transform_device has no effect on networks that see whole series")

    def _log_transforms(self) -> None:
        logger.info("training transforms: all on the CPU, one draw for all slices of a series")
        logger.info("training samples: %s", self.data.train.augmentation)

    def _evaluation_loader(self, dataset: Any) -> Any:
        general, training = self.config.general, self.config.training
        return make_loader(
            dataset,
            series_per_batch(training.tr_batch_size_valid),
            general.n_jobs,
            processes=self.processes,
            pin_memory=self._pins_memory,
        )

    def _subset_loader(self) -> Any:
        training, valid = self.config.training, self.data.valid
        if not (training.tr_iteration_valid and training.tr_iteration_valid_full):
            return None
        studies = valid.table.frame["study_id"].to_numpy(dtype=object)[valid.rows].astype(str)
        seed = self.config.general.seed
        chosen = draw_studies(studies, valid.labels, training.tr_valid_subset, seed)
        return self._evaluation_loader(
            valid.with_rows(valid.rows[chosen], self.data.valid_transform)
        )

    def _gathers_statistics(self) -> bool:
        """Whether the network has batch-norm statistics that training changes."""
        return True

    def _statistics_loader(self) -> Any:
        """Some training series as validation sees them; None where nothing gathers statistics."""
        train = self.data.train
        num_slices = min(self.config.optimizer.optim_ema_bn_samples, len(train.rows))
        if not num_slices or not self._gathers_statistics():
            return None
        rows: list[np.ndarray] = []
        for index in np.random.default_rng(self.config.general.seed).permutation(len(train)):
            rows.append(train.rows_of_series(int(index)))
            if sum(map(len, rows)) >= num_slices:
                break
        dataset = train.with_rows(np.concatenate(rows), self.data.valid_transform)
        size = series_per_batch(self.config.training.tr_batch_size_valid)
        return make_loader(dataset, size, self.config.general.n_jobs, pin_memory=self._pins_memory)

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
