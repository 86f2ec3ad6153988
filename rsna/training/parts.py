"""Parts of a training, built from its flags: model, data, sampler, loaders, network, predictor."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from common.callbacks import Callback
from common.callbacks.telemetry import find_module
from common.checkpoint import load_weights
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.errors import InputError
from common.models import AbstractModel, TimmClassifier
from common.models.encoders import (
    encoder_record,
    is_whole_network,
    load_encoder,
    read_weight_file,
)
from common.networks import FitSettings
from common.predictors.base import AbstractPredictor
from common.predictors.slices import SlicePredictor
from common.slices.leakage import ENCODER, origins_of_weights
from common.transforms.device import DeviceTransform
from config import Config
from flags.network import NetworkConfig
from rsna.build import build_averages, build_network, log_sampler, make_sampler
from rsna.build import transforms_on_device as are_transforms_on_device
from rsna.data import image_shape, load_data
from rsna.training.preflight import digest_of_folds
from rsna_dataset import RSNAData, draw_subset
from rsna_model import ALIASES, RSNAModel
from rsna_network import RSNANetwork
from rsna_task import TASKS

logger = logging.getLogger(__name__)


class TrainingData(Protocol):
    """The data of a training.

    Attributes:
        train, valid: the datasets of the two sides of the fold.
        prior: share of positives per label in the training slices, inside (0, 1).
    """

    @property
    def train(self) -> Any: ...

    @property
    def valid(self) -> Any: ...

    @property
    def prior(self) -> np.ndarray: ...

    def log_sizes(self) -> None:
        """Log the size of each side, and the samples that lack something."""


Model = TypeVar("Model", bound=AbstractModel)
Data = TypeVar("Data", bound=TrainingData)


class TrainingParts(ABC, Generic[Model, Data]):
    """The parts of a training.

    A kind of network is a subclass and an entry in `rsna.training.kinds.PARTS`. Flags that do not
    go with the model or the data are refused while these are built, before a folder is made.

    Attributes:
        starts_at_prior: whether the head is new, and starts from the prevalences of the training.
        folds_sha256: the digest of the fold table that the rows are split by.
        device_transform: makes training images on the device; None where loaders make them.
    """

    gives_features: ClassVar[bool] = True
    """Whether the predictor gives features of slices."""

    def __init__(self, config: Config, settings: FitSettings) -> None:
        self.config = config
        self.settings = settings
        self.is_resumed = bool(config.training.tr_resume)
        self.starts_at_prior = not self.is_resumed and config.network.net_weight_file is None
        self.task = TASKS[config.network.net_num_classes]
        self.model: Model = self._create_model()
        if config.optimizer.optim_layer_decay != 1:
            self.model.parameter_depths()
        if config.callbacks.cb_telemetry_enabled:
            find_module(self.model, str(config.callbacks.cb_telemetry_module_name))
        self.data: Data = self._load_data()
        self.folds_sha256 = digest_of_folds(config)
        is_on_device = are_transforms_on_device(config, settings.device)
        self.device_transform = self._split_transform() if is_on_device else None
        self.sampler = self._make_sampler()
        if self.starts_at_prior:
            self.model.start_from_prevalence(self.data.prior.tolist())

    @abstractmethod
    def _create_model(self) -> Model:
        """Return the network of the flags, with its first weights."""

    @abstractmethod
    def _load_data(self) -> Data:
        """Return the training and validation data."""

    def _split_transform(self) -> DeviceTransform | None:
        """Leave training images to the device, as far as it can make them."""
        return None

    @abstractmethod
    def _make_sampler(self) -> EpochSampler:
        """Return the sampler of the training samples."""

    @abstractmethod
    def make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        """Return the network to fit."""

    @abstractmethod
    def predictor(self, training: dict[str, Any]) -> AbstractPredictor:
        """Return a predictor of the weights in place; `training` records their origin."""

    def weights_record(self) -> dict[str, Any] | None:
        """Return source and licence of the weights that the training starts from, if any."""
        return None

    @abstractmethod
    def statistics_loader(self) -> Any:
        """Return a loader of training samples for batch norm, not augmented; None if unused."""

    @abstractmethod
    def _subset(self) -> Any:
        """Return the validation samples of `--tr_valid_subset` studies."""

    def log(self) -> None:
        """Log the sizes of the data, and how samples are made and drawn."""
        self.data.log_sizes()
        self._log_transforms()

    def _log_transforms(self) -> None:
        logger.info("training transforms: all on the CPU")

    def predictor_fields(self, training: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of the predictor that every kind has."""
        return {
            "label_names": self.task.label_names,
            "label_weights": self.task.label_weights,
            "prior": self.data.prior,
            "training": training,
        }

    def averages(self) -> list[Any]:
        return list(build_averages(self.config, self.model, self.statistics_loader))

    def seen_values(self) -> np.ndarray:
        """Return the labels of training samples, which a resumed training must find unchanged."""
        return np.asarray(self.data.train.labels)

    @property
    def valid_batch_size(self) -> int:
        return self.config.general.tr_batch_size_valid

    @property
    def pins_memory(self) -> bool:
        """Whether batches wait in pinned memory, which a GPU copies from directly."""
        return bool(self.config.training.tr_pin_memory) and self.settings.device.type == "cuda"

    def train_loader(self) -> Any:
        general, training = self.config.general, self.config.training
        return make_loader(
            self.data.train, training.tr_batch_size, general.n_jobs, self.sampler, self.pins_memory
        )

    def valid_loader(self) -> Any:
        return self._evaluation_loader(self.data.valid)

    def subset_loader(self) -> Any:
        """Return the loader of the subset that is validated; None where all samples are."""
        training = self.config.training
        if not (training.tr_iteration_valid and training.tr_iteration_valid_full):
            return None
        return self._evaluation_loader(self._subset())

    def _evaluation_loader(self, dataset: Any) -> Any:
        return make_loader(
            dataset,
            self.valid_batch_size,
            self.config.general.n_jobs,
            processes=self.settings.processes,
            pin_memory=self.pins_memory,
        )


class SliceParts(TrainingParts[RSNAModel, RSNAData]):
    """The parts of a training of a network for single slices, their neighbours as channels."""

    def _create_model(self) -> RSNAModel:
        flags = self.config.network
        num_channels, *image_size = image_shape(self.config)
        model = RSNAModel(
            flags.net_model,
            flags.net_num_classes,
            in_chans=num_channels,
            image_size=image_size,
            pretrained=bool(flags.net_pretrained) and self.starts_at_prior,
            drop_rate=flags.net_drop_rate,
            drop_path_rate=flags.net_drop_path_rate,
            pooling=flags.net_pooling,
            head=flags.net_head,
            num_dropouts=flags.net_num_dropouts,
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            self.starts_at_prior = not load_start(model, Path(flags.net_weight_file))
        return synchronized(model, self.config, self.settings)

    def weights_record(self) -> dict[str, Any] | None:
        return record_of_start(self.config.network, self.config.network.net_model, self.model)

    def _load_data(self) -> RSNAData:
        data = load_data(self.config, self.model.mean, self.model.std)
        self.model.require_image_size(data.valid.transform.output_size, "data_valid_transform")
        self.model.require_image_size(data.tta_transform.output_size, "data_test_transform")
        return data

    def _split_transform(self) -> DeviceTransform:
        transform = self.data.train.transform
        self.data.train.host_transform = transform.host_part()
        return transform.device_part(self.settings.channels_last)

    def _make_sampler(self) -> EpochSampler:
        sampler = make_sampler(self.config, self.data.train, self.settings.processes.num)
        batch_size = self.config.training.tr_batch_size
        if min(batch_size, sampler.num_samples) == 1:
            few = f"--data_dataset {self.config.data.data_dataset} with 1 slice to train on"
            what = few if batch_size > 1 else "--tr_batch_size 1"
            require_variance(self.model, self.config, what)
        return sampler

    def log(self) -> None:
        super().log()
        log_sampler(self.config, self.sampler, self.data.train, self.settings.processes.num)

    def _log_transforms(self) -> None:
        if self.device_transform is None:
            super()._log_transforms()
        else:
            logger.info("training transforms: %s", self.device_transform.describe())

    def make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        ids = [str(name) for name in self.data.train.image_ids]
        return build_network(
            self.config, self.model, self.settings, ids, callbacks, self.device_transform
        )

    def _subset(self) -> Any:
        training, seed = self.config.training, self.config.general.seed
        return draw_subset(self.data.valid, training.tr_valid_subset, seed)

    def statistics_loader(self) -> Any:
        num_samples = self.config.optimizer.optim_ema_bn_samples
        if not num_samples:
            return None
        # Two at least: one value has no variance.
        num_samples = min(max(num_samples, 2), len(self.data.train))
        batch_size = min(max(self.valid_batch_size, 2), num_samples)
        num_samples -= num_samples % batch_size
        general, train = self.config.general, self.data.train
        draw = np.random.default_rng(general.seed)
        rows = draw.choice(train.rows, num_samples, replace=False)
        dataset = self.data.valid.with_rows(rows)
        return make_loader(dataset, batch_size, general.n_jobs, pin_memory=self.pins_memory)

    def predictor(self, training: dict[str, Any]) -> AbstractPredictor:
        return SlicePredictor(
            network=self.model,
            model=self.model.specification,
            transform=self.data.valid.transform,
            tta_transform=self.data.tta_transform,
            slice_offsets=self.data.valid.slice_offsets,
            offsets_mm=self.data.valid.offsets_mm,
            past_end=self.data.valid.past_end,
            **self.predictor_fields(training),
        )


def load_start(model: TimmClassifier, path: Path) -> bool:
    """Load --net_weight_file, of a whole network of ours or of an encoder; return whether whole."""
    weights = read_weight_file(path, "--net_weight_file")
    is_whole = is_whole_network(weights)
    if is_whole:
        load_weights(model, path)
    else:
        in_chans = model.specification["in_chans"]
        load_encoder(model.backbone, weights, in_chans, f"--net_weight_file {path}")
    return is_whole


def record_of_start(
    flags: NetworkConfig, name: str, model: TimmClassifier
) -> dict[str, Any] | None:
    """Return source and licence of the weights that an encoder starts from; None for random ones.

    Of weights of this project they are those that these started from.

    Args:
        name: of the encoder, as the flags have it.
    """
    file = None if flags.net_weight_file is None else Path(flags.net_weight_file)
    origins = [] if file is None else origins_of_weights(file)
    if origins:
        recorded = [origin.get(ENCODER, origin) for origin in origins]
        return next((dict(found) for found in recorded if found and "source" in found), None)
    if file is None and not flags.net_pretrained:
        return None
    return encoder_record(ALIASES.get(name, name), model.backbone, file)


def synchronized(model: Any, config: Config, settings: FitSettings) -> Any:
    """Return a module whose batch norm counts the batches of all GPUs, if asked for."""
    if not (config.training.tr_sync_bn and settings.device.type == "cuda"):
        return model
    from timm.layers import convert_sync_batchnorm  # imported, timm makes folders

    return convert_sync_batchnorm(model)


def require_variance(model: TimmClassifier, config: Config, what: str) -> None:
    """Raise InputError, which says `what` is so, where a batch of one image can't be trained on."""
    height, width = image_shape(config)[1:]
    if not model.trains_on_one((height, width)):
        raise InputError(
            f"{what}: batches of one, but batch norm of {config.network.net_model} has maps of one "
            f"pixel where images have {height} x {width}, and one value has no variance: give two "
            f"or more"
        )
