"""A second level over slice experiments, as an experiment of its own."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.ensembling.blend_tables import MemberTables
from common.ensembling.boosting import BoostingSettings, fit_boosting, require_lightgbm
from common.ensembling.sequences import LevelInputs, level_inputs
from common.ensembling.smoothing import Smoothing, choose_smoothings
from common.errors import InputError
from common.experiment import Experiment, results_folder
from common.files import write_json
from common.predictors.loading import load_predictor
from common.predictors.second_level import Level, SecondLevelPredictor, mean_of_levels
from common.report import EvaluationReport
from common.scoring.metrics import Floats, training_prior
from common.scoring.predictions import prior_logits, write_predictions
from common.words import shown
from config import Config
from rsna.ensembling.members import Member, find_member, read_data, recorded_data
from rsna.evaluation.flow import write_flow
from rsna.evaluation.model_card import weights_digest, write_card
from rsna.evaluation.scoring import score_predictions
from rsna_model import build_model

logger = logging.getLogger(__name__)

# What --sl_ leaves open is as in the experiments below; of the other flags these are its own.
_OWN_FLAGS = {"experiment_id", "output_dir", "data_input_folder", "seed", "n_jobs"}
_FLAG = "--sl_experiments"


class SecondLevel:
    """A second level that can be fitted once.

    The second level of fold k is fitted on the out-of-fold predictions of all other folds, and
    predicts those of fold k. Test rows get the mean over the folds.

    Raises:
        InputError: experiments are missing, differ in their data, or their rows are not those of
            the fold table.
    """

    def __init__(self, config: Config) -> None:
        flags = config.second_level
        if not flags.sl_experiments:
            raise InputError(f"{_FLAG} is missing: give some, such as 0003,0004")
        if flags.sl_method == "boosting":
            require_lightgbm("--sl_method boosting")
        for name in sorted(config.given - set(config.second_level.__dict__) - _OWN_FLAGS):
            logger.warning("--%s has no effect: it is as in the experiments below", name)
        self.results = results_folder(config.general.output_dir)
        if config.general.experiment_id is not None:
            Experiment.refuse_existing(self.results, config.general.experiment_id)
        members = [find_member(config, name, _FLAG) for name in flags.experiment_ids]
        self.predictors = [
            load_predictor(member.experiment.predictor, build_model)
            for member in members
            if member.experiment is not None
        ]
        self.config = _own_config(config, members)
        self.data = read_data(self.config, members, _FLAG, across_folds=True)
        self.rows = self.data.table.rows_of(self.data.tables.frame["image_id"])
        self.folds, self.labels = self.data.rows.groups, self.data.rows.labels
        self.fold_priors: dict[int, Floats] = {
            fold: training_prior(self.labels[self.folds != fold])
            for fold in sorted(set(self.folds.tolist()))
        }

    def run(self) -> Experiment:
        config_yaml = self.config.to_yaml()
        experiment_id = self.config.general.experiment_id
        experiment = Experiment.create(self.results, experiment_id, config_yaml)
        with experiment.running():
            names = ", ".join(member.name for member in self.data.members)
            logger.info("experiment %s over %s in %s", experiment.id, names, experiment.folder)
            levels = self._fit()
            oof = self._write_oof(levels, experiment)
            self._write_test(levels, experiment)
            self._predictor(levels, experiment).save(experiment.predictor)
            self._write_report(oof, experiment)
        return experiment

    def _fit(self) -> dict[int, Level]:
        flags = self.config.second_level
        inputs = self._inputs(self.data.tables, self.rows)
        num_series, num_folds = int(inputs.sequences.series.max()) + 1, len(self.fold_priors)
        what = "%s: %d slices of %d series, %d folds"
        logger.info(what, flags.sl_method, len(inputs), num_series, num_folds)
        levels: dict[int, Level] = {}
        if flags.sl_method == "boosting":
            settings = _boosting_settings(self.config)
            levels |= fit_boosting(inputs, self.labels, self.folds, settings)
        else:
            levels |= choose_smoothings(
                inputs,
                self.labels,
                self.folds,
                flags.sl_smooth_widths,
                flags.sl_smooth_kernel,
                flags.sl_smooth_unit,
                flags.sl_smooth_space,
            )
        for fold, level in levels.items():
            logger.info("fold %d: %s", fold, self._described(level))
        return levels

    def _described(self, level: Level) -> str:
        names = self.data.task.label_names
        if isinstance(level, Smoothing):
            parts = [f"{name} {width:g}" for name, width in zip(names, level.widths)]
            return f"widths in {level.unit}: {', '.join(parts)}"
        trees = [0 if booster is None else booster.num_trees() for booster in level.boosters]
        return "trees: " + ", ".join(f"{name} {num}" for name, num in zip(names, trees))

    def _inputs(
        self,
        tables: MemberTables,
        rows: NDArray[np.int64],
        chosen: NDArray[np.bool_] | slice = slice(None),
    ) -> LevelInputs:
        """Return the inputs of the chosen ones of `rows`, which are those of the tables."""
        logits = np.moveaxis(tables.logits[:, chosen], 0, 1)
        return level_inputs(self.data.table, rows[chosen], logits)

    def _write_oof(self, levels: dict[int, Level], experiment: Experiment) -> pd.DataFrame:
        tables, names = self.data.tables, self.data.task.label_names
        logits = np.empty((len(self.rows), len(names)), dtype=np.float32)
        for fold, level in levels.items():
            chosen = self.folds == fold
            logits[chosen] = level.predict(self._inputs(tables, self.rows, chosen))
        oof = tables.predictions(logits, names, experiment.id)
        write_predictions(experiment.predictions_file("oof"), oof, names)
        return oof

    def _write_test(self, levels: dict[int, Level], experiment: Experiment) -> None:
        tables, names = self.data.test, self.data.task.label_names
        if tables is None:
            return
        rows = self.data.table.rows_of(tables.frame["image_id"])
        logits = np.empty((len(rows), len(names)), dtype=np.float32)
        logits[:] = prior_logits(training_prior(self.labels))
        readable = self.data.table.readable[rows]
        if readable.any():
            logits[readable] = mean_of_levels(levels, self._inputs(tables, rows, readable))
        test = tables.predictions(logits, names, experiment.id)
        write_predictions(experiment.predictions_file("test"), test, names)

    def _predictor(self, levels: dict[int, Level], experiment: Experiment) -> SecondLevelPredictor:
        return SecondLevelPredictor(
            self.predictors,
            levels,
            self.fold_priors,
            label_names=self.data.task.label_names,
            label_weights=self.data.task.label_weights,
            prior=training_prior(self.labels),
            study_prior=training_prior(self.data.rows.labels_by_study()[1]),
            training={
                **self.data.origin(experiment, self.config),
                "folds_sha256": self.data.members[0].folds_sha256,
                "experiments": [member.name for member in self.data.members],
            },
        )

    def _write_report(self, oof: pd.DataFrame, experiment: Experiment) -> None:
        table, task, tables = self.data.table, self.data.task, self.data.tables
        prior = np.stack([self.fold_priors[fold] for fold in self.folds])
        options: dict[str, Any] = {
            "task": task,
            "prior_of_studies": training_prior(self.data.rows.labels_by_study()[1]),
        }
        main = score_predictions("second level", oof, table, prior, **options)
        others, losses = [], {}
        for member, logits, probabilities in zip(
            self.data.members, tables.logits, tables.probabilities, strict=True
        ):
            own = tables.predictions(logits, task.label_names, member.name, probabilities)
            title = f"experiment {member.name}"
            others.append(score_predictions(title, own, table, prior, **options))
            losses[member.name] = others[-1].metrics["weighted_log_loss"]
        metrics = {**main.metrics, "members": losses}
        why_not = "not predicted out of fold"
        metrics["flow"], flow = write_flow(experiment, main, table, task, why_not)
        metrics["weights_sha256"] = weights_digest(experiment.predictor)
        write_json(experiment.metrics_file, metrics)
        EvaluationReport(
            title=f"Experiment {experiment.id}",
            subtitle=f"Out-of-fold rows of {self.config.data.data_dataset}",
            label_names=task.label_names,
            main=main,
            others=others,
            facts={
                "model": f"second level: {self.config.second_level.sl_method}",
                "experiments below": ", ".join(losses),
                "folds": len(self.fold_priors),
            },
            flow=flow,
        ).write(experiment.report_file)
        write_card(experiment, table, new=True)
        below = ", ".join(f"{name} {shown(loss, 4)}" for name, loss in losses.items())
        loss = shown(metrics["weighted_log_loss"], 4)
        logger.info("weighted log loss %s; below: %s", loss, below)


def _own_config(config: Config, members: Sequence[Member]) -> Config:
    """Return the flags as recorded: the data are those of the experiments below."""
    below = members[0].config
    assert below is not None
    found = recorded_data(members, config.given & {"data_input_folder"}, _FLAG)
    data = replace(below.data, data_input_folder=config.data.data_input_folder)
    own = replace(config, data=data, network=below.network)
    return own.with_flags(**found, data_fold="all")


def _boosting_settings(config: Config) -> BoostingSettings:
    flags = config.second_level
    return BoostingSettings(
        flags.sl_neighbors,
        flags.sl_rounds,
        flags.sl_patience,
        flags.sl_learning_rate,
        flags.sl_num_leaves,
        flags.sl_min_leaf,
        config.general.seed % 2**31,
        max(config.resolved("preparation").general.n_jobs, 1),
    )
