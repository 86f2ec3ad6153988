"""One training from its flags: new or resumed, fitted, and its results written."""

import contextlib
import importlib
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common.callbacks import Callback, CheckpointSaver, LatestOutputs, SameData
from common.checkpoint import inference_weights, load_checkpoint, load_weights
from common.cli import script_command
from common.datasets import EpochSampler, make_loader
from common.distributed import Processes, connected, failing_together
from common.errors import InputError, Interrupted
from common.experiment import PREDICTOR_FOLDER, Experiment
from common.precision import keep_freed_memory, require_compiler, set_precision
from common.predictors.base import AbstractPredictor, RowLogits
from common.predictors.slices import SlicePredictor
from common.scoring.predictions import build_predictions, write_predictions
from common.seeding import seed_everything
from common.slices.leakage import (
    STARTED_FROM,
    origins_of_weights,
)
from common.slices.pixel_steps import PARAMETER, recorded_steps
from common.trackers import Tracker
from common.transforms.device import DeviceTransform
from config import Config, resumed_config
from rsna.build import (
    build_averages,
    build_callbacks,
    build_network,
    checkpoint_saver,
    fit_settings,
    log_sampler,
    make_sampler,
    transforms_on_device,
)
from rsna.data import image_shape, load_data
from rsna.training.preflight import (
    digest_of_folds,
    require_clients,
    require_unseen_weights,
    require_usable,
)
from rsna.training.results import extract_rows, write_oof_features, write_test_outputs
from rsna.training.tracking import tracking
from rsna_dataset import RSNAData, RSNADataset, draw_subset
from rsna_model import RSNAModel
from rsna_network import RSNANetwork
from rsna_task import TASKS

logger = logging.getLogger(__name__)

# Prefix of --net_model -> the class of its training, where it is not a network of single slices.
TRAININGS = {
    "study-": "rsna.training.sequence:RSNAStudyTraining",
    "joint-": "rsna.training.series:RSNAJointTraining",
    "volume-": "rsna.training.series:RSNAVolumeTraining",
}


def training_class(config: Config) -> "type[RSNATraining]":
    """Returns the class that trains what --net_model names; resumed: what the run recorded."""
    if config.training.tr_resume:
        config = resumed_config(config)
    name = config.network.net_model
    place = next((place for prefix, place in TRAININGS.items() if name.startswith(prefix)), None)
    if place is None:
        return RSNATraining
    module, class_name = place.split(":")
    found: type[RSNATraining] = getattr(importlib.import_module(module), class_name)
    return found


class RSNATraining:
    """A training that can be run once.

    Everything that can be refused is refused here, before a folder is made. `training_class` knows
    the subclasses, each an override of the hooks `_create_model`, `_load_data`, `_make_sampler`,
    `_make_network`, `_statistics_loader`, `_write_predictions` and `_predictor`.

    Args:
        config: the flags; those of a resumed run are completed from what it recorded.
    """

    gives_features: ClassVar[bool] = True
    """Whether the predictor gives features of slices."""

    def __init__(self, config: Config) -> None:
        self.is_resumed = bool(config.training.tr_resume)
        self.config = resumed_config(config) if self.is_resumed else config
        if not self.is_resumed and config.general.experiment_id is not None:
            Experiment.refuse_existing(self._results, config.general.experiment_id)
        self.task = TASKS[self.config.network.net_num_classes]
        require_clients(self.config)
        seed_everything(self.config.general.seed)
        self.settings = fit_settings(self.config)
        self._set_precision()
        if not self.is_resumed:
            require_unseen_weights(self.config)
        is_on_device = transforms_on_device(self.config, self.settings.device)
        self.model = self._create_model()
        require_usable(self.config, self.model, self.task.label_names)
        self.data = self._load_data()
        self.folds_sha256 = self._folds_digest()
        self.device_transform = self._split_transform() if is_on_device else None
        self.sampler = self._make_sampler()
        self.latest = LatestOutputs()
        # By name of the table, what the views of the validation rows gave.
        self._of_views: dict[str, RowLogits] = {}
        if not self.is_resumed and self.config.network.net_weight_file is None:
            self.model.start_from_prevalence(self.data.prior.tolist())

    def run(self) -> Experiment:
        """Trains, writes predictions and the predictor, and returns the experiment."""
        keep_freed_memory()
        with connected(self.processes, self.settings.device):
            self.experiment = self.processes.from_main(self._open_experiment)
            with self._open_records() as tracker, failing_together():
                self._train(tracker)
        return self.experiment

    @property
    def processes(self) -> Processes:
        """Who trains together."""
        return self.settings.processes

    def _train(self, tracker: Tracker) -> None:
        logger.info("experiment %s in %s", self.experiment.id, self.experiment.folder)
        self.data.log_sizes()
        self._log_transforms()
        log_sampler(self.config, self.sampler, self.data.train, self.processes.num)
        tracker.log_params(self.config.flags())
        saver = checkpoint_saver(self.config, self.experiment)
        network = self._build_network(saver, tracker)
        if self.is_resumed:
            state = self.processes.from_main(lambda: load_checkpoint(saver.last_path))
            network.load_state_dict(state)
            logger.info("resumed after iteration %d", network.state.iteration)
        elif self.processes.rank:
            # The weights are the main process's; dropout must differ.
            seed_everything(self.config.general.seed + self.processes.rank)
        with self._telling_how_to_go_on(saver.last_path):
            network.fit(self._train_loader(), self._valid_loader(), self._subset_loader())
            self._write_results(network, saver.best_path)

    @contextlib.contextmanager
    def _open_records(self) -> Iterator[Tracker]:
        """Lock, log and trackers for the block, in the process that writes."""
        if not self.processes.is_main:
            yield Tracker()
            return
        with self.experiment.running(), tracking(self.config, self.experiment.folder) as tracker:
            yield tracker

    def _set_precision(self) -> None:
        training, device = self.config.training, self.settings.device
        deterministic, compiled = bool(training.tr_deterministic), bool(training.tr_compile)
        set_precision(device, bool(training.tr_tf32), deterministic, compiled)
        if compiled:
            require_compiler(device)
        if training.tr_sync_bn and not (self.processes.are_many and device.type == "cuda"):
            logger.warning("--tr_sync_bn has no effect without torchrun and GPUs")

    @property
    def _results(self) -> Path:
        return Path(self.config.general.output_dir) / "results"

    def _split_transform(self) -> DeviceTransform:
        """Leaves training images to the device, as far as it knows how."""
        transform = self.data.train.transform
        self.data.train.host_transform = transform.host_part()
        return transform.device_part(self.settings.channels_last)

    def _log_transforms(self) -> None:
        if self.device_transform is None:
            logger.info("training transforms: all on the CPU")
        else:
            logger.info("training transforms: %s", self.device_transform.describe())

    def _create_model(self) -> RSNAModel:
        flags = self.config.network
        is_fresh = not self.is_resumed and flags.net_weight_file is None
        num_channels, *image_size = image_shape(self.config)
        model = RSNAModel(
            flags.net_model,
            flags.net_num_classes,
            in_chans=num_channels,
            image_size=image_size,
            pretrained=bool(flags.net_pretrained) and is_fresh,
            drop_rate=flags.net_drop_rate,
            drop_path_rate=flags.net_drop_path_rate,
            pooling=flags.net_pooling,
            head=flags.net_head,
            num_dropouts=flags.net_num_dropouts,
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            load_weights(model, Path(flags.net_weight_file))
        if self.config.training.tr_sync_bn and self.settings.device.type == "cuda":
            # Imported late: timm makes folders when it is.
            from timm.layers import convert_sync_batchnorm

            model = convert_sync_batchnorm(model)
        return model

    def _load_data(self) -> RSNAData:
        """What is trained and validated on."""
        data = load_data(self.config, self.model.mean, self.model.std)
        self.model.require_image_size(data.valid.transform.output_size, "data_valid_transform")
        self.model.require_image_size(data.tta_transform.output_size, "data_test_transform")
        return data

    def _folds_digest(self) -> str:
        """Which fold table the rows are split by; see `folds_digest`."""
        return digest_of_folds(self.config)

    def _make_sampler(self) -> EpochSampler:
        """Which samples come in an epoch."""
        return make_sampler(self.config, self.data.train, self.processes.num)

    def _make_network(self, callbacks: Sequence[Callback]) -> RSNANetwork:
        """The network that is fitted."""
        ids = [str(name) for name in self.data.train.image_ids]
        return build_network(
            self.config, self.model, self.settings, ids, callbacks, self.device_transform
        )

    def _open_experiment(self) -> Experiment:
        experiment_id = self.config.general.experiment_id
        if not self.is_resumed:
            return Experiment.create(self._results, experiment_id, self.config.to_yaml())
        experiment = Experiment(self._results / str(experiment_id))
        if not (experiment.checkpoints / "last.pt").is_file():
            raise InputError(
                f"--tr_resume 1: experiment {experiment.id} has no checkpoint yet: start a new one"
            )
        return experiment

    def _build_network(self, saver: CheckpointSaver, tracker: Tracker) -> RSNANetwork:
        train = self.data.train
        first = build_averages(self.config, self.model, self._statistics_loader)
        callbacks = build_callbacks(
            self.config,
            self.model,
            self.task.label_names,
            self.processes.is_main,
            self.experiment,
            tracker,
        )
        same_data = SameData(train.image_ids, self._seen_values())
        return self._make_network([*first, *callbacks, same_data, self.latest, saver])

    def _seen_values(self) -> np.ndarray:
        """What a resumed training must find as it was: the labels of the training samples."""
        return self.data.train.labels

    @property
    def _pins_memory(self) -> bool:
        """Whether batches wait in memory that a GPU copies from without a detour."""
        return self.settings.device.type == "cuda"

    def _train_loader(self) -> Any:
        general, training = self.config.general, self.config.training
        return make_loader(
            self.data.train,
            training.tr_batch_size,
            general.n_jobs,
            self.sampler,
            self._pins_memory,
        )

    def _valid_loader(self) -> Any:
        return self._evaluation_loader(self.data.valid)

    @property
    def _valid_batch_size(self) -> int:
        """Samples of a batch where nothing is learned."""
        return self.config.training.tr_batch_size_valid

    def _evaluation_loader(self, dataset: RSNADataset) -> Any:
        return make_loader(
            dataset,
            self._valid_batch_size,
            self.config.general.n_jobs,
            processes=self.processes,
            pin_memory=self._pins_memory,
        )

    def _subset_loader(self) -> Any:
        """The slices of the validations between those of the whole; None where all are whole."""
        general, training = self.config.general, self.config.training
        if not (training.tr_iteration_valid and training.tr_iteration_valid_full):
            return None
        subset = draw_subset(self.data.valid, training.tr_valid_subset, general.seed)
        return self._evaluation_loader(subset)

    def _statistics_loader(self) -> Any:
        """Some training slices as validation sees them, in full batches; None where not asked."""
        batch_size = self._valid_batch_size
        num_samples = min(self.config.optimizer.optim_ema_bn_samples, len(self.data.train))
        if not num_samples:
            return None
        batch_size = min(batch_size, num_samples)
        num_samples -= num_samples % batch_size
        general, train = self.config.general, self.data.train
        draw = np.random.default_rng(general.seed)
        rows = draw.choice(train.rows, num_samples, replace=False)
        dataset = self.data.valid.with_rows(rows)
        return make_loader(dataset, batch_size, general.n_jobs, pin_memory=self._pins_memory)

    def _write_results(self, network: RSNANetwork, best_path: Path) -> None:
        """Predictions of the last averaged weights and of the best checkpoint; the predictor."""
        logger.info("predictions are of the %s weights", network.weights_name)
        with network.averaged():
            if self.config.is_one_of_all_folds:
                self.processes.from_main(lambda: self._write_fold_outputs(network))
            self._write_predictions(network, "valid", network.state.iteration)
            if self.processes.is_main:
                self._predictor(network).save(self.experiment.folder / PREDICTOR_FOLDER)
        best = self.processes.from_main(
            lambda: load_checkpoint(best_path) if best_path.is_file() else None
        )
        if best is not None:
            self.model.load_state_dict(inference_weights(best))
            self._write_predictions(network, "valid_best", best["iteration"])

    def _write_predictions(self, network: RSNANetwork, name: str, iteration: int) -> None:
        """Writes what the weights in place, those to predict with after `iteration`, predict."""
        if len(self.config.views.names) > 1:
            logits = self.processes.from_main(lambda: self._logits_of_views(network, name))
        else:
            if self.latest.iteration == iteration:
                outputs = self.latest.outputs
            else:
                outputs = network.predict(self._valid_loader())
            assert np.array_equal(outputs["index"], np.arange(len(self.data.valid.rows)))
            logits = outputs["logits"]
        if not self.processes.is_main:
            return
        valid, fold = self.data.valid, self.config.data.data_fold
        assert isinstance(fold, int)
        frame = build_predictions(
            valid.table.frame.iloc[valid.rows],
            logits,
            self.task.label_names,
            fold,
            self.experiment.id,
        )
        path = self.experiment.predictions / f"{name}.parquet"
        write_predictions(path, frame, self.task.label_names)

    def _logits_of_views(self, network: RSNANetwork, name: str) -> np.ndarray:
        """The mean logits of the validation rows over the views that the flags name."""
        if name not in self._of_views:
            valid = self.data.valid
            self._of_views[name] = extract_rows(
                self._predictor(network), valid.table, valid.rows, self.config, self.settings.device
            )
        result = self._of_views.pop(name)
        if result.unreadable.any():
            logger.warning("%d slices are damaged and have the prior", result.unreadable.sum())
        return result.logits

    def _write_fold_outputs(self, network: RSNANetwork) -> None:
        """What one of all folds leaves beside its predictions: features, and test rows.

        In the main process; the weights to predict with are in place.
        """
        predictor, device = self._predictor(network), self.settings.device
        valid = self.data.valid
        if self.config.training.tr_features and predictor.gives_features:
            self._of_views["valid"] = write_oof_features(
                predictor, valid.table, valid.rows, self.config, self.experiment, device
            )
        write_test_outputs(predictor, valid.table, self.config, self.experiment, device)

    def _predictor(self, network: RSNANetwork) -> AbstractPredictor:
        """What predicts as the network does with the weights in place."""
        return SlicePredictor(
            network=self.model,
            model=self.model.specification,
            label_names=self.task.label_names,
            label_weights=self.task.label_weights,
            transform=self.data.valid.transform,
            tta_transform=self.data.tta_transform,
            prior=self.data.prior,
            slice_offsets=self.data.valid.slice_offsets,
            offsets_mm=self.data.valid.offsets_mm,
            training=self._origin(network),
        )

    def _origin(self, network: RSNANetwork) -> dict[str, Any]:
        start = self.config.network.net_weight_file
        return {
            "experiment_id": self.experiment.id,
            "dataset": self.config.data.data_dataset,
            "fold": self.config.data.data_fold,
            "folds_sha256": self.folds_sha256,
            "iterations": network.state.iteration,
            STARTED_FROM: origins_of_weights(Path(start)) if start else [],
            PARAMETER: recorded_steps(self.data.train.table.folder).parameters(),
        }

    @contextlib.contextmanager
    def _telling_how_to_go_on(self, last_path: Path) -> Iterator[None]:
        """What stops the block after a checkpoint was saved is told with the command to resume."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            if not last_path.is_file():
                raise
            number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
            command = self._resume_command() if self.processes.is_main else ""
            raise Interrupted(number, command) from None
        except OSError:
            if last_path.is_file():
                logger.error("To go on from the last checkpoint: %s", self._resume_command())
            raise

    def _resume_command(self) -> str:
        return resume_command(self.config, self.experiment.id)


def resume_command(config: Config, experiment_id: str) -> str:
    """Returns the command that goes on with an experiment."""
    output_dir = config.general.output_dir
    place = [] if output_dir == "output" else ["--output_dir", output_dir]
    return script_command("--experiment_id", experiment_id, "--tr_resume", "1", *place)
