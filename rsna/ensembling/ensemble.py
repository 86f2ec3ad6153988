"""A blend of experiments from its flags: members read, fitted across folds, written, scored."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from common.ensembling.blending import BlendOptions
from common.ensembling.cross_fitting import (
    BlendPlan,
    CrossFitted,
    FittedBlend,
    cross_fit,
    fit_blend,
)
from common.errors import InputError
from common.experiment import Experiment, results_folder
from common.files import write_json
from common.predictors.base import AbstractPredictor
from common.predictors.blend import BlendPredictor
from common.predictors.composed import mean_study_prior
from common.scoring.kaggle_client import KaggleClient
from common.scoring.metrics import training_prior
from common.scoring.predictions import read_predictions, write_predictions
from common.scoring.submission import build_submission, read_sample, write_submission
from common.slices.leakage import id_digests
from common.tables import write_parquet
from common.words import shown
from config import Config
from rsna.ensembling.members import (
    EnsembleData,
    find_member,
    load_members,
    read_data,
    recorded_data,
)
from rsna.ensembling.nested import nested_members
from rsna.evaluation.blend import describe_members, write_evaluation
from rsna.evaluation.model_card import write_card
from rsna.evaluation.prediction import SUBMISSION_FILE
from rsna.evaluation.scoring import prior_of

logger = logging.getLogger(__name__)

# Groups of flags that a blend shares with other scripts, and which of them it uses.
_SHARED = ("data_", "pr_")
_USED = {"data_dataset", "data_input_folder", "pr_dataframe", "pr_output", "pr_submit"}


@dataclass(frozen=True)
class Ensemble:
    """The blend of experiments."""

    experiment: Experiment
    metrics: dict[str, Any]
    submission: Path | None = None

    def lines(self) -> list[str]:
        scores = [("blend", self.metrics), *self.metrics["members"].items()]
        scores += [(f"without {n:<16}", v) for n, v in self.metrics["leave_one_out"].items()]
        found = [
            f"{name:<24} weighted log loss {shown(values['weighted_log_loss'], 4)}"
            for name, values in scores
        ]
        found.append(f"report: {self.experiment.report_file}")
        return found + ([f"submission: {self.submission}"] if self.submission else [])


def make_ensemble(config: Config) -> Ensemble:
    """Blend what the flags name into a new experiment, score it, and submit it where asked for."""
    for name in sorted(config.given - _USED):
        if name.startswith(_SHARED):
            logger.warning("--%s has no effect: members have their own", name)
    competition = config.prediction.pr_submit
    client = KaggleClient(competition) if competition else None
    results = results_folder(config.general.output_dir)
    if config.general.experiment_id is not None:
        Experiment.refuse_existing(results, config.general.experiment_id)
    members = [find_member(config, name) for name in config.ensemble.members]
    config = config.with_flags(**recorded_data(members, config.given), data_fold="all")
    data = read_data(config, members)
    sample, asked_for = None, config.prediction.pr_dataframe
    if asked_for is not None:
        if data.test is None:
            raise InputError(
                "--pr_dataframe needs predictions/test.parquet of every member: train them on a "
                "dataset with test slices, or use predict.py with the blend"
            )
        sample = read_sample(Path(asked_for), data.task.label_names)
    nested = nested_members(config, data) if config.ensemble.stack_nested else None
    predictors = load_members(members)
    experiment = Experiment.create(results, config.general.experiment_id, config.to_yaml())
    with experiment.running():
        logger.info("experiment %s in %s", experiment.id, experiment.folder)
        plan = blend_plan(config)
        fitted = cross_fit(plan, data.tables.probabilities, data.rows, nested)
        names = data.task.label_names
        kept = fit_blend(plan, data.tables.probabilities, data.rows, names)
        predictor = _predictor(data, predictors, kept, experiment, config)
        predictor.save(experiment.predictor)
        write_card(experiment, data.table, new=True)
        _write_tables(data, fitted, kept, experiment)
        described = describe_members(data, plan, fitted, kept, nested)
        write_json(experiment.blend_file, described)
        metrics = write_evaluation(experiment, data.table)
        submission = None
        if sample is not None:
            place = Path(config.prediction.pr_output or experiment.folder) / SUBMISSION_FILE
            test = read_predictions(experiment.predictions_file("test"), names)
            content, missing = build_submission(sample, test, predictor.prior, names)
            write_submission(place, content, sample)
            submission = place
            if missing:
                logger.warning("%d images asked for are not in the test: prior", len(missing))
    ensemble = Ensemble(experiment, metrics, submission)
    for line in ensemble.lines():
        logger.info(line)
    if client is not None and submission is not None:
        client.submit(submission, f"experiment {experiment.id}")
    return ensemble


def blend_plan(config: Config) -> BlendPlan:
    """Return what is to be fitted by the flags."""
    flags = config.ensemble
    options = BlendOptions(
        flags.ens_method,
        flags.ens_power,
        flags.ens_space,
        flags.ens_weight_sum_min,
        flags.ens_stack_c,
    )
    return BlendPlan(
        options, flags.ens_calibration, bool(flags.ens_consistency), bool(flags.ens_studies)
    )


def _predictor(
    data: EnsembleData,
    predictors: Sequence[AbstractPredictor],
    kept: FittedBlend,
    experiment: Experiment,
    config: Config,
) -> BlendPredictor:
    infos = [info for info in (member.info for member in data.members) if info is not None]
    priors = [prior_of(info) for info in infos]
    prior = np.mean(priors, axis=0) if priors else training_prior(data.rows.labels)
    of_studies = mean_study_prior(predictors)
    if of_studies is None:
        of_studies = training_prior(data.rows.labels_by_study()[1])
    # Patient ids may be short enough to be guessed from plain digests.
    salt = secrets.token_hex(16)
    return BlendPredictor(
        members=predictors,
        member_names=[member.name for member in data.members],
        blender=kept.blender,
        label_names=data.task.label_names,
        label_weights=data.task.label_weights,
        prior=np.asarray(prior, dtype=np.float64),
        study_prior=of_studies,
        calibration=kept.finish,
        study_calibration=kept.studies,
        training={**data.origin(experiment, config), "iterations": None},
        fitted_on=id_digests([*data.rows.patient_ids, *data.rows.study_ids], salt),
        fitted_on_salt=salt,
        fold_priors=data.fold_priors(),
    )


def _write_tables(
    data: EnsembleData, fitted: CrossFitted, kept: FittedBlend, experiment: Experiment
) -> None:
    names, own_id = data.task.label_names, experiment.id
    frame = data.tables.predictions(fitted.raw_logits, names, own_id, expit(fitted.logits))
    if kept.consistent and kept.calibration is not None:
        # For the report: what was calibrated, before it was made consistent.
        calibrated = expit(fitted.calibrated_logits)
        frame = frame.assign(**{f"calibrated_{n}": calibrated[:, k] for k, n in enumerate(names)})
    write_predictions(experiment.predictions_file("oof"), frame, names)
    studies = {"study_id": fitted.study_ids, "patient_id": fitted.study_patients}
    for kind, values in (
        ("label", fitted.study_labels),
        ("raw", fitted.study_raw),
        ("calibrated", fitted.study_calibrated),
    ):
        if values is not None:
            studies |= {f"{kind}_{name}": values[:, k] for k, name in enumerate(names)}
    write_parquet(experiment.predictions_file("studies"), pd.DataFrame(studies))
    if data.test is not None:
        raw = kept.blender.apply(data.test.probabilities)
        final = raw if kept.finish is None else kept.finish.apply(raw)
        frame = data.test.predictions(raw, names, own_id, expit(final))
        write_predictions(experiment.predictions_file("test"), frame, names)
