"""Parts of trainings whose samples are series: in common, and of networks that see their images."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.callbacks import Callback
from common.checkpoint import load_weights
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler, LengthSampler
from common.datasets.series import SeriesAugmentation
from common.datasets.series_images import SeriesImageDataset
from common.errors import InputError
from common.models.bag import BagModel
from common.models.encoders import is_whole_network, read_weight_file
from common.models.joint import JointModel
from common.models.volume import VolumeModel
from common.networks import FitSettings
from common.networks.sequence import SeriesImageNetwork
from common.predictors.base import AbstractPredictor
from common.predictors.series import (
    JointPredictor,
    SeriesPredictor,
    VolumePredictor,
    series_per_batch,
)
from common.scoring.metrics import majority, training_prior
from common.slices.folds import draw_studies
from common.slices.pixel_steps import NO_STEPS, PixelSteps
from common.slices.table import SliceTable
from common.transforms import SampleTransform
from common.words import count
from config import Config
from flags.network import NetworkConfig
from rsna.build import build_network
from rsna.data import find_transforms, fold_rows, image_shape, neighbour_offsets
from rsna.training.parts import (
    Model,
    TrainingParts,
    load_start,
    record_of_start,
    require_variance,
    synchronized,
)
from rsna_model import ALIASES
from rsna_network import RSNANetwork

logger = logging.getLogger(__name__)

PREFIX = "joint-"


@dataclass(frozen=True)
class SeriesSides:
    """The data of a training on series.

    Attributes:
        train, valid: the series of the two sides of the fold, `AbstractSeriesDataset`s.
        prior: share of positives per label in the training slices, inside (0, 1).
    """

    train: Any
    valid: Any
    prior: np.ndarray

    def log_sizes(self) -> None:
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            num = count(len(dataset.rows), "slice")
            logger.info("%s: %s of %d series", side, num, len(dataset))
            if dataset.num_without_positions:
                logger.warning(
                    "%s: %d series with a slice without position: their slices count as 5 mm apart",
                    side,
                    dataset.num_without_positions,
                )


Sides = TypeVar("Sides", bound=SeriesSides)


class WholeSeriesParts(TrainingParts[Model, Sides], Generic[Model, Sides]):
    """The parts of a training whose samples are series, whatever the inputs of a slice."""

    network_class: ClassVar[type[RSNANetwork]]

    @abstractmethod
    def _as_validated(self, dataset: Any, rows: NDArray[np.int64]) -> Any:
        """Return the series of a dataset that hold some of the rows, as validation sees them."""

    def _gathers_statistics(self) -> bool:
        """Return whether the network has batch-norm statistics that training changes."""
        return True

    def _augmentation(self) -> SeriesAugmentation:
        own = self.config.data
        return SeriesAugmentation(own.data_study_thin, own.data_study_reverse, own.data_study_crop)

    def _make_sampler(self) -> EpochSampler:
        train = self.data.train
        return LengthSampler(len(train), self.config.general.seed, train.num_steps)

    def make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        return build_network(
            self.config,
            self.model,
            self.settings,
            [self.data.train.sample_id(index) for index in range(len(self.data.train))],
            callbacks,
            network_class=self.network_class,
            auxiliary_weight=self.config.network.net_study_auxiliary,
        )

    def _subset(self) -> Any:
        """See the base; a study counts with its own labels where its slices have none."""
        valid = self.data.valid
        sizes = [len(valid.rows_of_series(index)) for index in range(len(valid))]
        labels = np.fmax(valid.labels, np.repeat(valid.series_labels, sizes, axis=0))
        studies = valid.table.frame["study_id"].to_numpy(dtype=object)[valid.rows].astype(str)
        num_studies, seed = self.config.training.tr_valid_subset, self.config.general.seed
        chosen = draw_studies(studies, labels, num_studies, seed)
        return self._as_validated(valid, valid.rows[chosen])

    def statistics_loader(self) -> Any:
        general, train = self.config.general, self.data.train
        num_slices = min(self.config.optimizer.optim_ema_bn_samples, len(train.rows))
        if not num_slices or not self._gathers_statistics():
            return None
        dataset = self._as_validated(train, train.some_rows(num_slices, general.seed))
        size = self.valid_batch_size
        return make_loader(dataset, size, general.n_jobs, pin_memory=self.pins_memory)


class RSNASeriesNetwork(SeriesImageNetwork, RSNANetwork):
    """Images of whole series, trained and validated with the weights of the task."""


@dataclass(frozen=True)
class SeriesData(SeriesSides):
    """The data of a training on the images of series; see the base.

    Attributes:
        valid_transform: makes the images of validation and prediction.
        tta_transform: draws extra views for predictions.
    """

    valid_transform: SampleTransform
    tta_transform: SampleTransform


SeriesModel = TypeVar("SeriesModel", JointModel, BagModel, VolumeModel)


class SeriesParts(WholeSeriesParts[SeriesModel, SeriesData], Generic[SeriesModel]):
    """The parts of a training of a network that sees the images of series.

    --tr_batch_size counts series, --tr_batch_size_valid slices: 32 of them are a series.
    """

    network_class: ClassVar[type[RSNANetwork]] = RSNASeriesNetwork
    predictor_class: ClassVar[type[SeriesPredictor]]

    def _pixel_steps(self) -> PixelSteps:
        """Return the steps for the pixels of a slice before its transform."""
        return NO_STEPS

    def _slice_offsets(self) -> tuple[int, ...]:
        """Return the neighbours in the image of each slice, by rank."""
        offsets, offsets_mm = neighbour_offsets(self.config.data)
        if offsets_mm:
            raise InputError(
                "--data_neighbor_mm: networks over series take neighbours by number: leave it out"
            )
        if self.config.data.data_neighbor_end != "last":
            raise InputError("--data_neighbor_end: networks over series take the last slice again")
        return offsets

    def _load_data(self) -> SeriesData:
        config, seed = self.config, self.config.general.seed
        table = SliceTable.load(config.dataset_folder)
        study_labels, of_studies = self._study_labels(table)
        train_rows, valid_rows = fold_rows(config, table, of_studies)
        names = self.task.label_names
        offsets = self._slice_offsets()
        transforms = find_transforms(config, self.model.mean, self.model.std, len(offsets))
        options: dict[str, Any] = {
            "slice_offsets": offsets,
            "steps": self._pixel_steps(),
            "seed": seed,
            "study_labels": study_labels,
        }
        training, plain, tta = transforms
        train = SeriesImageDataset(
            table, train_rows, training, names, self._augmentation(), **options
        )
        valid = SeriesImageDataset(table, valid_rows, plain, names, **options)
        return SeriesData(train, valid, training_prior(majority(train.labels)), plain, tta)

    def _study_labels(self, table: SliceTable) -> tuple[pd.DataFrame | None, Any]:
        """Return the labels of studies that are trained on, as `SeriesImageDataset` takes them, and
        which rows count for them; None: none.
        """
        return None, None

    def _split_transform(self) -> None:
        logger.warning("--data_transform_device has no effect on networks that see whole series")

    def _log_transforms(self) -> None:
        logger.info("training transforms: all on the CPU, one draw for all slices of a series")
        logger.info("training samples: %s", self.data.train.augmentation)

    def _as_validated(self, dataset: Any, rows: NDArray[np.int64]) -> SeriesImageDataset:
        return dataset.with_rows(rows, self.data.valid_transform)

    @property
    def valid_batch_size(self) -> int:
        return series_per_batch(self.config.general.tr_batch_size_valid)

    def predictor(self, training: dict[str, Any]) -> AbstractPredictor:
        return self.predictor_class(
            network=self.model,
            model=self.model.specification,
            transform=self.data.valid_transform,
            tta_transform=self.data.tta_transform,
            slice_offsets=self.data.valid.slice_offsets,
            steps=self.data.valid.steps,
            **self.predictor_fields(training),
        )


class EncoderParts(SeriesParts[SeriesModel], Generic[SeriesModel]):
    """The parts of a training of `<prefix><slice network>`: a slice network with more on top.

    --net_weight_file takes the weights of a slice experiment for the encoder, or those of a whole
    network of the kind.
    """

    @abstractmethod
    def _new_model(self, pretrained: bool) -> SeriesModel:
        """Return the network that the flags name, with its first weights."""

    def _create_model(self) -> SeriesModel:
        flags = self.config.network
        model: Any = self._new_model(bool(flags.net_pretrained) and self.starts_at_prior)
        if flags.net_weight_file is not None and not self.is_resumed:
            path = Path(flags.net_weight_file)
            names = read_weight_file(path, "--net_weight_file")
            inner = [name.removeprefix("encoder.") for name in names if name.startswith("encoder.")]
            is_whole = is_whole_network(dict.fromkeys(inner))
            if is_whole:
                load_weights(model, path)
            else:
                self.starts_at_prior = not load_start(model.encoder, path)
            logger.info("weights of %s loaded", "the whole network" if is_whole else "the encoder")
        elif flags.net_encoder_frozen and not self.is_resumed:
            logger.warning(
                "--net_encoder_frozen 1 without --net_weight_file: the encoder has never seen "
                "a head, and will not learn"
            )
        if flags.net_encoder_slices == 1 and not flags.net_encoder_frozen:
            require_variance(model.encoder, self.config, "--net_encoder_slices 1")
        model.encoder = synchronized(model.encoder, self.config, self.settings)
        return cast(SeriesModel, model)

    def weights_record(self) -> dict[str, Any] | None:
        flags, model = self.config.network, cast(Any, self.model)
        return record_of_start(flags, flags.net_model.partition("-")[2], model.encoder)

    def _gathers_statistics(self) -> bool:
        return not self.config.network.net_encoder_frozen


class JointParts(EncoderParts[JointModel]):
    """The parts of a training of `joint-<slice network>`: encoder and transformer as one."""

    predictor_class: ClassVar[type[SeriesPredictor]] = JointPredictor

    def _new_model(self, pretrained: bool) -> JointModel:
        return JointModel(
            **encoder_options(self.config, PREFIX, len(self.task.label_names)),
            sequence=sequence_options(self.config.network),
            pretrained=pretrained,
        )


def sequence_options(flags: NetworkConfig) -> dict[str, Any]:
    """Return the arguments of `SequenceModel` that study and joint networks have in common."""
    return {
        "dim": flags.net_study_dim,
        "num_layers": flags.net_study_layers,
        "num_heads": flags.net_study_heads,
        "drop_rate": flags.net_drop_rate,
        "feature_drop": flags.net_study_feature_drop,
        "metadata": bool(flags.net_study_metadata),
    }


def encoder_options(config: Config, prefix: str, num_labels: int) -> dict[str, Any]:
    """Return the arguments of `SliceEncoderModel` that the flags name."""
    flags = config.network
    backbone = flags.net_model.removeprefix(prefix)
    backbone = ALIASES.get(backbone, backbone)
    return {
        "name": f"{prefix}{backbone}",
        "encoder": {
            "name": backbone,
            "num_classes": num_labels,
            "in_chans": image_shape(config)[0],
            "pooling": flags.net_pooling,
            "head": flags.net_head,
            "drop_rate": flags.net_drop_rate,
            "drop_path_rate": flags.net_drop_path_rate,
        },
        "frozen": bool(flags.net_encoder_frozen),
        "chunk": flags.net_encoder_slices,
        "checkpointing": bool(flags.net_encoder_checkpoint),
    }


class VolumeParts(SeriesParts[VolumeModel]):
    """A training of `volume-<name>`, from random weights or those of --net_weight_file."""

    predictor_class: ClassVar[type[SeriesPredictor]] = VolumePredictor

    def __init__(self, config: Config, settings: FitSettings) -> None:
        # The memory format is one of images, not of volumes.
        super().__init__(config, replace(settings, channels_last=False))

    def _create_model(self) -> VolumeModel:
        flags = self.config.network
        model = VolumeModel(
            flags.net_model,
            len(self.task.label_names),
            in_chans=image_shape(self.config)[0],
            width=flags.net_volume_width,
            spacing_mm=flags.net_volume_mm,
            drop_rate=flags.net_drop_rate,
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            load_weights(model, Path(flags.net_weight_file))
        return model

    def _slice_offsets(self) -> tuple[int, ...]:
        """Return the slice alone: the network sees its neighbours anyway."""
        if self.config.data.data_neighbors:
            raise InputError("--data_neighbors: a 3D network sees whole series: leave it out")
        return (0,)

    def _pixel_steps(self) -> PixelSteps:
        """Return a grid in mm, as large as --data_img_size, if --data_volume_spacing is given."""
        flags = self.config.data
        if not flags.data_volume_spacing:
            return NO_STEPS
        return PixelSteps(spacing_mm=flags.data_volume_spacing, size=flags.data_img_size)
