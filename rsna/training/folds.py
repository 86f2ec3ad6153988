"""A training of every fold (--data_fold all): each resumable, none trained twice, tables of all."""

import contextlib
import gc
import logging
import shutil
import time
from dataclasses import replace
from functools import cached_property
from typing import Any

from common.distributed import Processes, connected, failing_together
from common.experiment import Experiment
from common.slices.table import SliceTable
from common.words import shown
from config import Config, resumed_config
from rsna.build import find_device
from rsna.evaluation.evaluation import evaluate_experiment
from rsna.training.fold_tables import assemble
from rsna.training.kinds import build_parts, parts_class
from rsna.training.parts import TrainingParts
from rsna.training.preflight import fold_flags, preflight, refuse_single_fold, trained_folds
from rsna.training.tracking import tracking
from rsna.training.training import RSNATraining, naming_resume_command, open_experiment

logger = logging.getLogger(__name__)


def make_training(config: Config) -> "RSNATraining | RSNAFoldsTraining":
    """Return the training that the flags name: of one fold or of all, whatever the network."""
    refuse_single_fold(config)
    recorded = resumed_config(config) if config.training.tr_resume else config
    if recorded.data.data_fold == "all":
        return RSNAFoldsTraining(config)
    return RSNATraining(config)


class RSNAFoldsTraining:
    """Trains every fold in a folder `fold_<k>` of its own, then makes tables of all of them.

    A fold is an experiment like any other: `RSNATraining` trains it from its flags alone
    (`--data_fold <k> --experiment_id <id>/fold_<k>`). A fold with a report is done, and is not
    trained again.
    """

    def __init__(self, config: Config) -> None:
        self.config = preflight(config)
        self.is_resumed = bool(config.training.tr_resume)
        self.folds = trained_folds(self.config)
        self.processes = Processes.from_environment()
        self.device = find_device(self.config, self.processes)
        self._started = time.monotonic()
        # The first fold refuses what needs the model or the slices, before a folder is made.
        self._first: TrainingParts | None = None
        if not self.is_resumed:
            self._first = build_parts(self._fold_config(self.folds[0], None))

    def run(self) -> Experiment:
        """Train the remaining folds, write the tables of all folds, and evaluate them."""
        with connected(self.processes, self.device):
            experiment = self.processes.from_main(
                lambda: open_experiment(self.config, self.is_resumed)
            )
            is_main = self.processes.is_main
            with (
                experiment.running() if is_main else contextlib.nullcontext(),
                failing_together(),
                naming_resume_command(self.config, experiment, lambda: True),
            ):
                for fold in self.folds:
                    self._run_fold(experiment, fold)
                self.processes.from_main(lambda: self._finish(experiment))
        return experiment

    @cached_property
    def _table(self) -> SliceTable:
        return SliceTable.load(self.config.dataset_folder)

    def _fold_config(
        self, fold: int, experiment_id: str | None, is_resumed: bool = False
    ) -> Config:
        changes: dict[str, Any] = {
            **fold_flags(self.config, fold),
            "experiment_id": experiment_id,
            "tr_resume": int(is_resumed),
        }
        most = self.config.training.tr_max_hours
        if most:
            used = (time.monotonic() - self._started) / 3600
            changes["tr_max_hours"] = max(most - used, 1e-9)
        config = self.config.with_flags(**changes)
        return replace(config, given=config.given | {"tr_max_hours"} if most else config.given)

    def _run_fold(self, experiment: Experiment, fold: int) -> None:
        """Train a fold, from its last checkpoint if it has one, and evaluate it."""
        own = experiment.fold(fold)
        place = self.processes.from_main(lambda: self._place_of(own, fold))
        if place == "done":
            logger.info("fold %d is done and is not trained again", fold)
            return
        experiment_id = f"{experiment.id}/{own.folder.name}"
        logger.info("fold %d of %d: %s", self.folds.index(fold) + 1, len(self.folds), experiment_id)
        config = self._fold_config(fold, experiment_id, is_resumed=place == "begun")
        parts = self._first if fold == self.folds[0] else None
        self._first = None
        if parts is not None:
            parts.config = config
        RSNATraining(config, parts).run()
        del parts
        gc.collect()
        self.processes.from_main(lambda: self._evaluate_fold(config, own, fold))

    def _place_of(self, own: Experiment, fold: int) -> str:
        """Return the state of a fold: `absent`, `begun` with a checkpoint, or `done`."""
        is_done = own.metrics_file.is_file() and own.report_file.is_file()
        has_checkpoint = own.last_checkpoint.is_file()
        is_wanted = self.config.training.tr_features and parts_class(self.config).gives_features
        lacks_features = is_wanted and not own.features_file("oof").is_file()
        if is_done and has_checkpoint and lacks_features:
            logger.warning("fold %d is trained, but lacks its features: they are made again", fold)
            return "begun"
        if is_done:
            return "done"
        if has_checkpoint:
            return "begun"
        if own.folder.exists():
            # Stopped before its first checkpoint: there is nothing in it to go on from.
            shutil.rmtree(own.folder)
        return "absent"

    def _evaluate_fold(self, config: Config, own: Experiment, fold: int) -> None:
        """Score a fold; its report comes last, and marks the fold as done."""
        with tracking(config, own.folder) as tracker:
            evaluation = evaluate_experiment(own.folder, self._table)
            tracker.start()
        metrics, what = evaluation.metrics, "weighted log loss"
        if metrics["weighted_log_loss"] is None:
            metrics, what = metrics["study"], "weighted log loss of studies"
        logger.info("fold %d: %s %s", fold, what, shown(metrics["weighted_log_loss"], 4))

    def _finish(self, experiment: Experiment) -> None:
        assemble(experiment, self.folds, self.config)
        for line in evaluate_experiment(experiment.folder, self._table).summary().splitlines():
            logger.info("%s", line)
