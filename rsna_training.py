"""One training from its flags: new or resumed, fitted, and its results written."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.callbacks import CheckpointSaver
from common.checkpoint import inference_weights, load_checkpoint, load_weights
from common.cli import script_command
from common.datasets import EpochSampler, make_loader
from common.errors import InputError, Interrupted
from common.experiment import Experiment
from common.memory import keep_freed_memory
from common.predictions import build_predictions, write_predictions
from common.predictor import PREDICTOR_FOLDER, Predictor
from common.seeding import seed_everything
from common.trackers import Tracker
from config import Config, resumed_config
from rsna_callbacks import build_callbacks, checkpoint_saver, require_usable
from rsna_dataset import RSNAData, RSNADataset, draw_subset, load_data
from rsna_model import RSNAModel
from rsna_network import RSNANetwork, build_network, fit_settings
from rsna_task import LABEL_WEIGHTS, LABELS
from rsna_tracking import require_clients, tracking

logger = logging.getLogger(__name__)


class RSNATraining:
    """A training that can be run once.

    Everything that can be refused is refused here, before a folder is made.

    Args:
        config: the flags; those of a resumed run are completed from what it recorded.
    """

    def __init__(self, config: Config) -> None:
        self.is_resumed = bool(config.training.tr_resume)
        self.config = resumed_config(config) if self.is_resumed else config
        if not self.is_resumed and config.general.experiment_id is not None:
            Experiment.refuse_existing(self._results, config.general.experiment_id)
        require_clients(self.config)
        seed_everything(self.config.general.seed)
        self.settings = fit_settings(self.config)
        self.model = self._create_model()
        require_usable(self.config, self.model)
        self.data = load_data(self.config, self.model.mean, self.model.std)
        if not self.is_resumed and self.config.network.net_weight_file is None:
            self.model.start_from_prevalence(self.data.prior.tolist())
        self.experiment = self._open_experiment()

    def run(self) -> Experiment:
        """Trains, writes predictions and the predictor, and returns the experiment."""
        keep_freed_memory()
        with self.experiment.running(), tracking(self.config, self.experiment.folder) as tracker:
            logger.info("experiment %s in %s", self.experiment.id, self.experiment.folder)
            self.data.log_sizes()
            tracker.log_params(self.config.flags())
            saver = checkpoint_saver(self.config, self.experiment)
            network = self._build_network(saver, tracker)
            if self.is_resumed:
                network.load_state_dict(load_checkpoint(saver.last_path))
                logger.info("resumed after iteration %d", network.state.iteration)
            with self._telling_how_to_go_on(saver.last_path):
                network.fit(self._train_loader(), self._valid_loader(), self._subset_loader())
                self._write_results(network, saver.best_path)
        return self.experiment

    @property
    def _results(self) -> Path:
        return Path(self.config.general.output_dir) / "results"

    def _create_model(self) -> RSNAModel:
        flags = self.config.network
        is_fresh = not self.is_resumed and flags.net_weight_file is None
        model = RSNAModel(
            flags.net_model,
            flags.net_num_classes,
            pretrained=bool(flags.net_pretrained) and is_fresh,
            drop_rate=flags.net_drop_rate,
            drop_path_rate=flags.net_drop_path_rate,
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            load_weights(model, Path(flags.net_weight_file))
        return model

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
        callbacks = build_callbacks(
            self.config, self.model, self.experiment, tracker, saver, self._statistics_loader
        )
        ids = [str(name) for name in self.data.train.image_ids]
        return build_network(self.config, self.model, self.settings, ids, callbacks)

    def _train_loader(self) -> Any:
        general, training = self.config.general, self.config.training
        sampler = EpochSampler(len(self.data.train), general.seed)
        return make_loader(self.data.train, training.tr_batch_size, general.n_jobs, sampler)

    def _valid_loader(self) -> Any:
        general, training = self.config.general, self.config.training
        return make_loader(self.data.valid, training.tr_batch_size_valid, general.n_jobs)

    def _subset_loader(self) -> Any:
        """The slices of the validations between those of the whole; None where all are whole."""
        general, training = self.config.general, self.config.training
        if not (training.tr_iteration_valid and training.tr_iteration_valid_full):
            return None
        subset = draw_subset(self.data.valid, training.tr_valid_subset, general.seed)
        return make_loader(subset, training.tr_batch_size_valid, general.n_jobs)

    def _statistics_loader(self) -> Any:
        """Some training slices as validation sees them, in full batches; None where not asked."""
        batch_size = self.config.training.tr_batch_size_valid
        num_samples = min(self.config.optimizer.optim_ema_bn_samples, len(self.data.train))
        if not num_samples:
            return None
        batch_size = min(batch_size, num_samples)
        num_samples -= num_samples % batch_size
        general, train = self.config.general, self.data.train
        draw = np.random.default_rng(general.seed)
        rows = draw.choice(train.rows, num_samples, replace=False)
        dataset = RSNADataset(train.table, rows, self.data.valid.transform)
        return make_loader(dataset, batch_size, general.n_jobs)

    def _write_results(self, network: RSNANetwork, best_path: Path) -> None:
        """Predictions of the last averaged weights and of the best checkpoint; the predictor."""
        with network.averaged():
            self._write_predictions(network, "valid")
            _predictor(self.model, self.data, self._origin(network)).save(
                self.experiment.folder / PREDICTOR_FOLDER
            )
        if best_path.is_file():
            self.model.load_state_dict(inference_weights(load_checkpoint(best_path)))
            self._write_predictions(network, "valid_best")

    def _write_predictions(self, network: RSNANetwork, name: str) -> None:
        outputs = network.predict(self._valid_loader())
        assert np.array_equal(outputs["index"], np.arange(len(self.data.valid)))
        valid, fold = self.data.valid, self.config.data.data_fold
        assert isinstance(fold, int)
        frame = build_predictions(
            valid.table.frame.iloc[valid.rows],
            outputs["logits"],
            LABELS,
            fold,
            self.experiment.id,
        )
        write_predictions(self.experiment.predictions / f"{name}.parquet", frame, LABELS)

    def _origin(self, network: RSNANetwork) -> dict[str, Any]:
        return {
            "experiment_id": self.experiment.id,
            "dataset": self.config.data.data_dataset,
            "fold": self.config.data.data_fold,
            "iterations": network.state.iteration,
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
            raise Interrupted(number, self._resume_command()) from None
        except OSError:
            if last_path.is_file():
                logger.error("To go on from the last checkpoint: %s", self._resume_command())
            raise

    def _resume_command(self) -> str:
        general = self.config.general
        place = [] if general.output_dir == "output" else ["--output_dir", general.output_dir]
        return script_command("--experiment_id", self.experiment.id, "--tr_resume", "1", *place)


def _predictor(model: RSNAModel, data: RSNAData, origin: dict[str, Any]) -> Predictor:
    return Predictor(
        network=model,
        model=model.specification,
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        transform=data.valid.transform,
        tta_transform=data.tta_transform,
        prior=data.prior,
        slice_offsets=data.valid.slice_offsets,
        training=origin,
    )
