"""A training of every fold (--data_fold all): each resumable, none trained twice, tables of all."""

import contextlib
import gc
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.distributed import Processes, connected, failing_together
from common.errors import InputError, Interrupted
from common.experiment import Experiment
from common.features.store import FEATURES_FOLDER
from common.slices.folds import ALWAYS_TRAINING, FOLDS_FILE, read_folds
from common.slices.table import SliceTable
from config import Config, resumed_config
from rsna.build import find_device
from rsna.evaluation.evaluation import METRICS_FILE, REPORT_FILE, Evaluation, evaluate_experiment
from rsna.evaluation.scoring import summary
from rsna.training.fold_tables import assemble
from rsna.training.preflight import require_unseen_weights
from rsna.training.tracking import tracking
from rsna.training.training import RSNATraining, resume_command, training_class

logger = logging.getLogger(__name__)

FOLD_PLACE = "{fold}"
"""In --net_weight_file: the number of the fold."""


def make_training(config: Config) -> "RSNATraining | RSNAFoldsTraining":
    """Returns the training that the flags name: of one fold or of all, whatever the network.

    Raises:
        InputError: flags or data that can't be used.
    """
    is_resumed = bool(config.training.tr_resume)
    if config.is_one_of_all_folds and not is_resumed:
        parent = str(config.general.experiment_id).partition("/")[0]
        raise InputError(
            f"--experiment_id {config.general.experiment_id}: folds are trained by their "
            f"experiment: --experiment_id {parent} --tr_resume 1"
        )
    recorded = resumed_config(config) if is_resumed else config
    if recorded.data.data_fold == "all":
        return RSNAFoldsTraining(config)
    return training_class(config)(config)


class RSNAFoldsTraining:
    """Trains every fold in a folder `fold_<k>` of its own, then makes tables of all of them.

    A fold is an experiment like any other: the training class that --net_model names trains it,
    told by nothing but its flags (`--data_fold <k> --experiment_id <id>/fold_<k>`). A fold with a
    report is done, and is not trained again.

    Args:
        config: the flags; those of a resumed run are completed from what it recorded.
    """

    def __init__(self, config: Config) -> None:
        self.is_resumed = bool(config.training.tr_resume)
        self.config = resumed_config(config) if self.is_resumed else config
        if not self.is_resumed and config.general.experiment_id is not None:
            Experiment.refuse_existing(self._results, config.general.experiment_id)
        left_out = self.config.data.data_leave_out_fold
        self.folds = [f for f in find_folds(self.config.dataset_folder) if f != left_out]
        self.kind = training_class(config)
        self.processes = Processes.from_environment()
        self.device = find_device(self.config, self.processes)
        self._started = time.monotonic()
        if not self.is_resumed:
            for fold in self.folds:
                require_unseen_weights(self._fold_config(fold, None))
        # What can be refused is refused by the first fold's training before a folder is made.
        self._first = None if self.is_resumed else self.kind(self._fold_config(self.folds[0], None))

    def run(self) -> Experiment:
        """Trains what is left to train, writes the tables of all folds, and evaluates them."""
        with connected(self.processes, self.device):
            self.experiment = self.processes.from_main(self._open_experiment)
            with self._open_record(), failing_together(), self._telling_how_to_go_on():
                for fold in self.folds:
                    self._run_fold(fold)
                self.processes.from_main(self._finish)
        return self.experiment

    @property
    def _results(self) -> Path:
        return Path(self.config.general.output_dir) / "results"

    @cached_property
    def _table(self) -> SliceTable:
        return SliceTable.load(self.config.dataset_folder)

    def _open_experiment(self) -> Experiment:
        experiment_id = self.config.general.experiment_id
        if self.is_resumed:
            return Experiment(self._results / str(experiment_id))
        return Experiment.create(self._results, experiment_id, self.config.to_yaml())

    @contextlib.contextmanager
    def _open_record(self) -> Iterator[None]:
        """Lock and log for the block, in the process that writes."""
        with self.experiment.running() if self.processes.is_main else contextlib.nullcontext():
            yield

    def _fold_folder(self, fold: int) -> Path:
        return self.experiment.folder / f"fold_{fold}"

    def _fold_config(
        self, fold: int, experiment_id: str | None, is_resumed: bool = False
    ) -> Config:
        """The flags of the training of one fold."""
        changes: dict[str, Any] = {
            "data_fold": fold,
            "experiment_id": experiment_id,
            "tr_resume": int(is_resumed),
        }
        weights = self.config.network.net_weight_file
        if weights is not None:
            changes["net_weight_file"] = weights.replace(FOLD_PLACE, str(fold))
        most = self.config.training.tr_max_hours
        if most:
            used = (time.monotonic() - self._started) / 3600
            changes["tr_max_hours"] = max(most - used, 1e-9)
        config = self.config.with_flags(**changes)
        return replace(config, given=config.given | {"tr_max_hours"} if most else config.given)

    def _run_fold(self, fold: int) -> None:
        """Trains a fold, from where it stands, and evaluates it."""
        place = self.processes.from_main(lambda: self._place_of(fold))
        if place == "done":
            logger.info("fold %d is done and is not trained again", fold)
            return
        experiment_id = f"{self.experiment.id}/fold_{fold}"
        logger.info("fold %d of %d: %s", self.folds.index(fold) + 1, len(self.folds), experiment_id)
        config = self._fold_config(fold, experiment_id, is_resumed=place == "begun")
        training, self._first = self._first, None
        if training is None or training.config.data.data_fold != fold:
            training = self.kind(config)
        training.config = config
        training.run()
        del training
        gc.collect()
        self.processes.from_main(lambda: self._evaluate_fold(config, fold))

    def _place_of(self, fold: int) -> str:
        """Where a fold stands: `absent`, `begun` with a checkpoint to go on from, or `done`."""
        folder = self._fold_folder(fold)
        is_done = all((folder / name).is_file() for name in (METRICS_FILE, REPORT_FILE))
        has_checkpoint = (folder / "checkpoints" / "last.pt").is_file()
        if is_done and has_checkpoint and self._lacks_features(folder):
            logger.warning("fold %d is trained, but lacks its features: they are made again", fold)
            return "begun"
        if is_done:
            return "done"
        if has_checkpoint:
            return "begun"
        if folder.exists():
            # Stopped before its first checkpoint: there is nothing in it to go on from.
            shutil.rmtree(folder)
        return "absent"

    def _lacks_features(self, folder: Path) -> bool:
        """Whether a fold should have left features, and they are gone."""
        is_wanted = self.config.training.tr_features and self.kind.gives_features
        return bool(is_wanted) and not (folder / FEATURES_FOLDER / "oof.parquet").is_file()

    def _evaluate_fold(self, config: Config, fold: int) -> None:
        """Scores a fold; its report comes last, and says that the fold is done."""
        folder = self._fold_folder(fold)
        with tracking(config, folder) as tracker:
            evaluation = evaluate_experiment(folder, self._table)
            for path in (evaluation.metrics_file, evaluation.report):
                tracker.log_artifact(path)
        loss = evaluation.metrics["weighted_log_loss"]
        logger.info("fold %d: weighted log loss %.4f", fold, loss)

    def _finish(self) -> None:
        """Tables, features and predictor of all folds, and what they score."""
        assemble(self.experiment, self.folds, self.config)
        evaluation: Evaluation = evaluate_experiment(self.experiment.folder, self._table)
        for line in summary(evaluation.metrics, evaluation.report).splitlines():
            logger.info("%s", line)

    @contextlib.contextmanager
    def _telling_how_to_go_on(self) -> Iterator[None]:
        """What stops the block is told with the command that goes on with all folds."""
        command = resume_command(self.config, self.experiment.id)
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
            raise Interrupted(number, command if self.processes.is_main else "") from None
        except OSError:
            logger.error("To go on with what is left: %s", command)
            raise


def find_folds(dataset_folder: Path) -> list[int]:
    """Returns the folds of a dataset, ascending.

    Raises:
        InputError: it is not known for every patient which fold validates it.
    """
    given = sorted(dataset_folder.glob(f"dataset_{dataset_folder.name}_fold_*.csv"))
    if given:
        raise InputError(
            f"--data_fold all: {given[0].name} gives the split of one fold, and which fold "
            f"validates a patient has to be known of all: give the number of the fold, or remove "
            f"the file to split by {FOLDS_FILE}"
        )
    folds = read_folds(dataset_folder / FOLDS_FILE)
    known = sorted(set(folds.get("fold", [])) - {ALWAYS_TRAINING})
    if len(known) < 2:
        raise InputError(
            f"--data_fold all: {FOLDS_FILE} splits off one part (--pre_valid_fraction): give "
            f"--data_fold 0, or make folds with preprocessing.py --pre_num_folds"
        )
    return [int(fold) for fold in known]
