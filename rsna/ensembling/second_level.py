"""A second level over slice experiments, as an experiment of its own."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.ensembling.boosting import BoostingSettings, fit_boosting, require_lightgbm
from common.ensembling.sequences import LevelInputs, level_inputs
from common.ensembling.smoothing import Smoothing, choose_smoothings
from common.errors import InputError
from common.experiment import PREDICTOR_FOLDER, Experiment
from common.files import write_json
from common.predictors.loading import load_predictor
from common.predictors.second_level import Level, SecondLevelPredictor, mean_of_levels
from common.report import EvaluationReport
from common.scoring.metrics import Floats, training_prior
from common.scoring.predictions import (
    build_predictions,
    prior_logits,
    read_predictions,
    write_predictions,
)
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.leakage import require_unseen_features
from common.slices.pixel_steps import PARAMETER
from common.slices.table import SliceTable
from config import Config, recorded_config
from rsna.evaluation.scoring import predictor_info, score_predictions, task_of
from rsna_model import build_model
from rsna_task import Task

logger = logging.getLogger(__name__)

OOF = "oof"
TEST = "test"
# What --sl_ does not say is as in the experiments below; of the other flags these are its own.
_OWN_FLAGS = {"experiment_id", "output_dir", "data_input_folder", "seed", "n_jobs"}


@dataclass(frozen=True)
class Member:
    """An experiment below the second level.

    Attributes:
        id: the experiment's.
        folder: its folder.
        config: its flags.
        info: the content of its predictor.json.
        oof: its out-of-fold predictions.
        test: its predictions of the test rows, where there are any.
    """

    id: str
    folder: Path
    config: Config
    info: dict[str, Any]
    oof: pd.DataFrame
    test: pd.DataFrame | None


class SecondLevel:
    """A second level that can be fitted once.

    The second level of fold k is fitted on the out-of-fold predictions of all other folds, and
    predicts those of fold k. What is made of the test is the mean over the folds.

    Args:
        config: the flags.

    Raises:
        InputError: experiments are missing, differ in their data, or their rows are not those of
            the fold table.
    """

    def __init__(self, config: Config) -> None:
        flags = config.second_level
        if not flags.sl_experiments:
            raise InputError("--sl_experiments is missing: say which, such as 0003,0004")
        if flags.sl_method == "boosting":
            require_lightgbm("--sl_method boosting")
        for name in sorted(config.given - set(config.second_level.__dict__) - _OWN_FLAGS):
            logger.warning("--%s has no effect: it is as in the experiments below", name)
        if config.general.experiment_id is not None:
            Experiment.refuse_existing(_results(config), config.general.experiment_id)
        self.members = [_read_member(config, name) for name in flags.experiment_ids]
        first = self.members[0]
        _require_alike(self.members)
        self.config = _own_config(config, first.config)
        self.table = SliceTable.load(self.config.dataset_folder)
        self.task: Task = task_of(first.info)
        ids = first.oof["image_id"].to_numpy(dtype=object)
        self.rows = self.table.rows_of(ids)
        self.folds = first.oof["fold"].to_numpy(dtype=np.int64)
        folds = read_folds(self.table.folder / FOLDS_FILE)
        for member in self.members:
            what = f"predictions of experiment {member.id}"
            digest = member.info["training"].get("folds_sha256")
            require_unseen_features(what, ids, self.folds, digest, folds)
        self.labels = self.table.labels(self.rows, self.task.label_names).astype(np.float64)

    def run(self) -> Experiment:
        """Fits, writes predictions, metrics, report and predictor, and returns the experiment."""
        config_yaml = self.config.to_yaml()
        experiment_id = self.config.general.experiment_id
        experiment = Experiment.create(_results(self.config), experiment_id, config_yaml)
        with experiment.running():
            names = ", ".join(member.id for member in self.members)
            logger.info("experiment %s over %s in %s", experiment.id, names, experiment.folder)
            levels = self._fit()
            oof = self._write_oof(levels, experiment)
            self._write_test(levels, experiment)
            self._predictor(levels, experiment).save(experiment.folder / PREDICTOR_FOLDER)
            self._write_report(oof, experiment)
        return experiment

    def _fit(self) -> dict[int, Level]:
        flags = self.config.second_level
        inputs = self._inputs(OOF)
        logger.info(
            "%s: %d slices of %d series, %d folds",
            flags.sl_method,
            len(inputs),
            int(inputs.sequences.series.max()) + 1,
            len(set(self.folds.tolist())),
        )
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
        names = self.task.label_names
        if isinstance(level, Smoothing):
            parts = [f"{name} {width:g}" for name, width in zip(names, level.widths)]
            return f"widths in {level.unit}: {', '.join(parts)}"
        trees = [0 if booster is None else booster.num_trees() for booster in level.boosters]
        return "trees: " + ", ".join(f"{name} {num}" for name, num in zip(names, trees))

    def _inputs(self, name: str, rows: NDArray[np.int64] | None = None) -> LevelInputs:
        """Returns the inputs of the rows of a table of all members, or of some of its rows."""
        rows = self.rows if rows is None else rows
        ids = self.table.frame["image_id"].to_numpy(dtype=object)[rows]
        return level_inputs(self.table, rows, self._member_logits(name, ids))

    def _member_logits(self, name: str, ids: NDArray) -> NDArray[np.float32]:
        """Returns float32 (n, experiments, labels): what the members say of images."""
        columns = [f"logit_{label}" for label in self.task.label_names]
        logits = []
        for member in self.members:
            frame = member.oof if name == OOF else member.test
            assert frame is not None
            logits.append(frame.set_index("image_id").loc[ids, columns].to_numpy(np.float32))
        return np.stack(logits, axis=1)

    def _write_oof(self, levels: dict[int, Level], experiment: Experiment) -> pd.DataFrame:
        """Writes what each fold's level says of the rows of its fold."""
        parts = []
        for fold, level in levels.items():
            rows = self.rows[self.folds == fold]
            logits = level.predict(self._inputs(OOF, rows))
            frame = self.table.frame.iloc[rows]
            names = self.task.label_names
            parts.append(build_predictions(frame, logits, names, fold, experiment.id))
        oof = pd.concat(parts, ignore_index=True)
        path = experiment.predictions / f"{OOF}.parquet"
        write_predictions(path, oof, self.task.label_names)
        return oof

    def _write_test(self, levels: dict[int, Level], experiment: Experiment) -> None:
        tables = [member.test for member in self.members]
        if any(test is None for test in tables):
            without = ", ".join(member.id for member in self.members if member.test is None)
            logger.info("no predictions of a test: experiment %s has none", without)
            return
        assert tables[0] is not None
        rows = self.table.rows_of(tables[0]["image_id"])
        logits = np.empty((len(rows), len(self.task.label_names)), dtype=np.float32)
        logits[:] = prior_logits(self._prior())
        readable = self.table.readable[rows]
        if readable.any():
            logits[readable] = mean_of_levels(levels, self._inputs(TEST, rows[readable]))
        frame = self.table.frame.iloc[rows]
        test = build_predictions(frame, logits, self.task.label_names, None, experiment.id)
        write_predictions(experiment.predictions / f"{TEST}.parquet", test, self.task.label_names)

    def _prior(self) -> Floats:
        return training_prior(self.labels)

    def _fold_priors(self) -> dict[int, Floats]:
        """The prior of what the level of each fold is fitted on."""
        return {
            fold: training_prior(self.labels[self.folds != fold])
            for fold in sorted(set(self.folds.tolist()))
        }

    def _predictor(self, levels: dict[int, Level], experiment: Experiment) -> SecondLevelPredictor:
        members = [
            load_predictor(member.folder / PREDICTOR_FOLDER, build_model) for member in self.members
        ]
        return SecondLevelPredictor(
            members,
            levels,
            self._fold_priors(),
            label_names=self.task.label_names,
            label_weights=self.task.label_weights,
            prior=self._prior(),
            training={
                "experiment_id": experiment.id,
                "dataset": self.config.data.data_dataset,
                "fold": "all",
                "folds_sha256": self.members[0].info["training"].get("folds_sha256"),
                "experiments": [member.id for member in self.members],
                PARAMETER: self.members[0].info["training"].get(PARAMETER, {}),
            },
        )

    def _write_report(self, oof: pd.DataFrame, experiment: Experiment) -> None:
        """Scores out-of-fold rows beside those of the members, and writes the page."""
        priors = self._fold_priors()
        prior = np.stack([priors[fold] for fold in oof["fold"].to_numpy(dtype=np.int64)])
        main = score_predictions("second level", oof, self.table, prior, task=self.task)
        others = []
        for member in self.members:
            same = member.oof.set_index("image_id").loc[oof["image_id"]].reset_index()
            name = f"experiment {member.id}"
            others.append(score_predictions(name, same, self.table, prior, task=self.task))
        losses = {
            member.id: scored.metrics["weighted_log_loss"]
            for member, scored in zip(self.members, others)
        }
        metrics = {**main.metrics, "members": losses}
        write_json(experiment.folder / "metrics.json", metrics)
        EvaluationReport(
            title=f"Experiment {experiment.id}",
            subtitle=f"Out-of-fold rows of {self.config.data.data_dataset}",
            label_names=self.task.label_names,
            main=main,
            others=others,
            facts={
                "model": f"second level: {self.config.second_level.sl_method}",
                "experiments below": ", ".join(losses),
                "folds": len(priors),
            },
        ).write(experiment.folder / "report.html")
        logger.info(
            "weighted log loss %s; below: %s",
            _shown(metrics["weighted_log_loss"]),
            ", ".join(f"{name} {_shown(loss)}" for name, loss in losses.items()),
        )


def _results(config: Config) -> Path:
    return Path(config.general.output_dir) / "results"


def _own_config(config: Config, below: Config) -> Config:
    """Returns the flags as recorded: the data are those of the experiments below."""
    data = replace(below.data, data_fold="all")
    if "data_input_folder" in config.given:
        data = replace(data, data_input_folder=config.data.data_input_folder)
    return replace(config, data=data, network=below.network)


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
        max(config.general.n_jobs, 1),
    )


def _read_member(config: Config, experiment_id: str) -> Member:
    folder = config.experiment_folder(experiment_id)
    path = folder / "predictions" / f"{OOF}.parquet"
    if not path.is_file():
        raise InputError(
            f"--sl_experiments {experiment_id}: no out-of-fold predictions at {path}: train the "
            f"experiment with --data_fold all, or say where it is with --output_dir"
        )
    info = predictor_info(folder)
    oof = read_predictions(path, info["label_names"])
    if oof["fold"].isna().any() or oof["image_id"].duplicated().any():
        raise InputError(f"{path}: a slice has no fold or several rows: make the table again")
    if oof["fold"].nunique() < 2:
        raise InputError(
            f"{path} has the rows of one fold alone, and a second level is fitted on other folds "
            f"than it predicts: train with --data_fold all"
        )
    test_path = path.with_name(f"{TEST}.parquet")
    test = read_predictions(test_path, info["label_names"]) if test_path.is_file() else None
    return Member(experiment_id, folder, recorded_config(folder), info, oof, test)


def _require_alike(members: Sequence[Member]) -> None:
    """Raises InputError unless all have the same dataset, labels, rows and folds."""
    first = members[0]
    for member in members[1:]:
        pair = f"--sl_experiments: {first.id} and {member.id}"
        names = [m.config.data.data_dataset for m in (first, member)]
        if names[0] != names[1]:
            raise InputError(f"{pair} are of the datasets {names[0]} and {names[1]}")
        if first.info["label_names"] != member.info["label_names"]:
            raise InputError(f"{pair} have different labels")
        if first.info["training"].get(PARAMETER) != member.info["training"].get(PARAMETER):
            raise InputError(f"{pair} were trained on pixels prepared in different ways")
        for name in (OOF, TEST):
            one, other = getattr(first, name), getattr(member, name)
            if one is None or other is None:
                continue
            one, other = (t.set_index("image_id")["fold"].sort_index() for t in (one, other))
            if not one.index.equals(other.index) or not one.equals(other):
                raise InputError(f"{pair} predicted other slices, or in other folds ({name})")


def _shown(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
