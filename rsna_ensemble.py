"""A blend of experiments from its flags: members read, fitted across folds, written, scored."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from common.blend_predictor import BlendPredictor
from common.blend_tables import MemberTables, read_members
from common.blending import BlendOptions, Floats
from common.cross_fitting import (
    BlendPlan,
    BlendRows,
    CrossFitted,
    FittedBlend,
    cross_fit,
    fit_blend,
    id_digests,
    patient_groups,
)
from common.errors import InputError
from common.experiment import Experiment
from common.files import write_json, write_parquet
from common.folds import folds_path, read_folds
from common.leakage import folds_digest, require_same_folds, require_unseen_features
from common.metrics import training_prior
from common.pixel_steps import PARAMETER, recorded_steps
from common.predictions import (
    ID_COLUMNS,
    build_predictions,
    read_predictions,
    write_predictions,
)
from common.predictor import JSON_FILE, PREDICTOR_FOLDER, AbstractPredictor, load_predictor
from common.slices import SliceTable
from common.submission import build_submission, read_sample, write_submission
from config import Config, recorded_config
from rsna_blend_evaluation import BLEND_FILE, STUDIES_TABLE, describe_members, write_evaluation
from rsna_model import build_model
from rsna_nested import nested_members
from rsna_prediction import SUBMISSION_FILE
from rsna_scoring import predictor_info, prior_of, task_of
from rsna_task import CHALLENGE, Task

logger = logging.getLogger(__name__)

# Groups of patients where all rows are of one fold.
NUM_GROUPS = 5
BLEND_KIND = BlendPredictor.kind


@dataclass(frozen=True)
class Member:
    """One of what is blended.

    Attributes:
        name: an experiment id, or the path of a table.
        oof: its out-of-fold (or, of one fold, validation) predictions.
        test: its test predictions; there need be none.
        folder: of the experiment; None for a table.
    """

    name: str
    oof: Path
    test: Path
    folder: Path | None = None

    @property
    def info(self) -> dict[str, Any] | None:
        """What its predictor.json says; None where it has none."""
        if self.folder is None or not (self.folder / PREDICTOR_FOLDER / JSON_FILE).is_file():
            return None
        return predictor_info(self.folder)


@dataclass(frozen=True)
class Ensemble:
    """What was made.

    Attributes:
        experiment: the new one.
        metrics: the content of metrics.json.
        submission: the checked submission, where one was asked for.
    """

    experiment: Experiment
    metrics: dict[str, Any]
    submission: Path | None = None

    def lines(self) -> list[str]:
        """Returns the scores in a few lines."""
        found = [f"{'blend':<24} {_shown(self.metrics['weighted_log_loss'])}"]
        for name, values in self.metrics["members"].items():
            found.append(f"{name:<24} {_shown(values['weighted_log_loss'])}")
        for name, values in self.metrics["leave_one_out"].items():
            found.append(f"without {name:<16} {_shown(values['weighted_log_loss'])}")
        found.append(f"report: {self.experiment.folder / 'report.html'}")
        return found + ([f"submission: {self.submission}"] if self.submission else [])


def _shown(value: float | None) -> str:
    return "weighted log loss -" if value is None else f"weighted log loss {value:.4f}"


@dataclass
class EnsembleData:
    """What is blended: the rows with labels, and those of the test.

    Attributes:
        members: in order.
        table: the dataset.
        task: the labels.
        tables: rows that have been predicted out of their fold.
        rows: labels and groups of these.
        by_patients: whether the groups are of patients, as all rows are of one fold.
        test: rows of the test; None where not all members have them.
    """

    members: Sequence[Member]
    table: SliceTable
    task: Task
    tables: MemberTables
    rows: BlendRows
    by_patients: bool
    test: MemberTables | None = field(default=None)


def make_ensemble(config: Config) -> Ensemble:
    """Blends what the flags name into a new experiment, and scores it.

    Raises:
        InputError: a member that can't be used, or members that can't be blended.
    """
    results = Path(config.general.output_dir) / "results"
    if config.general.experiment_id is not None:
        Experiment.refuse_existing(results, config.general.experiment_id)
    members = [find_member(config, name) for name in config.ensemble.members]
    config = ensemble_config(config, members)
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
        kept = fit_blend(plan, data.tables.probabilities, data.rows)
        predictor = _predictor(data, predictors, kept, experiment, config)
        predictor.save(experiment.folder / PREDICTOR_FOLDER)
        _write_tables(data, fitted, kept, experiment)
        told = describe_members(data, plan, fitted, kept, nested)
        write_json(experiment.folder / BLEND_FILE, told)
        metrics = write_evaluation(experiment.folder, data.table)
        submission = None
        if sample is not None:
            place = Path(config.prediction.pr_output or experiment.folder) / SUBMISSION_FILE
            test = read_predictions(experiment.predictions / "test.parquet", data.task.label_names)
            content, missing = build_submission(
                sample, test, predictor.prior, data.task.label_names
            )
            write_submission(place, content, sample)
            submission = place
            if missing:
                logger.warning("%d images asked for are not in the test: prior", len(missing))
    return Ensemble(experiment, metrics, submission)


def find_member(config: Config, name: str) -> Member:
    """Returns the member that --ens_experiments calls so; InputError where there is none."""
    if name.endswith(".parquet"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--ens_experiments {name}: no such prediction table")
        return Member(name, path, path.with_name("test.parquet"))
    folder = config.experiment_folder(name)
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"--ens_experiments {name}: no experiment at {folder}; say where it is with "
            f"--output_dir, or give the path of a prediction table (.parquet)"
        )
    tables = [folder / "predictions" / f"{part}.parquet" for part in ("oof", "valid")]
    oof = next((path for path in tables if path.is_file()), None)
    if oof is None:
        raise InputError(
            f"--ens_experiments {name}: {folder} has neither predictions/oof.parquet nor "
            f"valid.parquet: train it to its end"
        )
    return Member(name, oof, folder / "predictions" / "test.parquet", folder)


def ensemble_config(config: Config, members: Sequence[Member]) -> Config:
    """Returns the flags with the dataset of the members, unless it is given.

    Raises:
        InputError: members are of several datasets.
    """
    recorded = {member.name: recorded_config(member.folder) for member in members if member.folder}
    changes: dict[str, Any] = {}
    for flag in ("data_dataset", "data_input_folder"):
        found = {name: each.flags()[flag] for name, each in recorded.items()}
        if flag in config.given or not found:
            continue
        if flag == "data_dataset" and len(set(found.values())) > 1:
            told = ", ".join(f"{name} of {value}" for name, value in found.items())
            raise InputError(
                f"--ens_experiments: members are of several datasets ({told}): blend those of one"
            )
        changes[flag] = next(iter(found.values()))
    return config.with_flags(**changes, data_fold="all")


def read_data(config: Config, members: Sequence[Member]) -> EnsembleData:
    """Returns what the members predict, with labels and folds.

    Raises:
        InputError: members of different labels, folds or images, or a row that was predicted by a
            model that saw its patient.
    """
    tasks = {task_of(info) for info in (member.info for member in members) if info is not None}
    if len(tasks) > 1:
        raise InputError("--ens_experiments: members predict different labels: blend those of one")
    task = tasks.pop() if tasks else CHALLENGE
    tables = read_members([member.oof for member in members], task.label_names)
    table = SliceTable.load(config.dataset_folder)
    frame, folds = tables.frame, tables.folds
    labels = table.labels(table.rows_of(frame["image_id"]), task.label_names).astype(np.float64)
    if np.isnan(labels).all():
        raise InputError(f"{table.folder}: none of the members' rows has a label")
    _require_unseen(config, members, tables)
    # Anonymised exports may lack patient ids: their studies are taken to be patients.
    patients = frame["patient_id"].fillna(frame["study_id"]).to_numpy(dtype=object)
    by_patients = len(np.unique(folds)) < 2
    groups = folds
    if by_patients:
        logger.info("all rows are of one fold: fitted across %d groups of patients", NUM_GROUPS)
        groups = patient_groups(patients, NUM_GROUPS, config.general.seed)
        if len(np.unique(groups)) < 2:
            raise InputError(
                "--ens_experiments: the rows are of one patient: nothing can be fitted"
            )
    rows = BlendRows(labels, groups, patients, frame["study_id"].to_numpy(dtype=object))
    test = None
    if all(member.test.is_file() for member in members):
        test = read_members([member.test for member in members], task.label_names, all_rows=True)
    elif any(member.test.is_file() for member in members):
        logger.warning("no test.parquet: some members have none")
    return EnsembleData(members, table, task, tables, rows, by_patients, test)


def _require_unseen(config: Config, members: Sequence[Member], tables: MemberTables) -> None:
    """Raises InputError where a row is not of the fold that validates its patient.

    Members that know the folds that they were made with must have been made with these; of the
    others it is trusted.
    """
    present = np.unique(tables.folds)
    if (present < 0).any():
        raise InputError(
            "--ens_experiments: some rows are of no fold: blend out-of-fold predictions, which "
            "train.py leaves in predictions/"
        )
    folds = read_folds(folds_path(config.dataset_folder, int(present[0])))
    if "fold" not in folds:
        logger.info("the split is a given one: that members have not seen these rows is trusted")
        return
    for member in members:
        made_with = ((member.info or {}).get("training") or {}).get("folds_sha256")
        if made_with is not None:
            require_same_folds(f"predictions of {member.name}", made_with, folds)
    ids = tables.frame["image_id"]
    require_unseen_features("the members", ids, tables.folds, folds_digest(folds), folds)


def blend_plan(config: Config) -> BlendPlan:
    """Returns what is to be fitted, as the flags say."""
    flags = config.ensemble
    options = BlendOptions(
        flags.ens_method,
        power=flags.ens_power,
        space=flags.ens_space,
        weight_sum_min=flags.ens_weight_sum_min,
        stack_c=flags.ens_stack_c,
    )
    return BlendPlan(
        options, flags.ens_calibration, bool(flags.ens_consistency), bool(flags.ens_studies)
    )


def load_members(members: Sequence[Member]) -> list[AbstractPredictor]:
    """Returns the members' predictors; none where one of them has none, which is told."""
    lacking = [member.name for member in members if member.info is None]
    if lacking:
        logger.warning(
            "no predictor for new data: %s %s only a table",
            ", ".join(lacking),
            "is" if len(lacking) == 1 else "are",
        )
        return []
    folders = [member.folder for member in members if member.folder is not None]
    return [load_predictor(folder / PREDICTOR_FOLDER, build_model) for folder in folders]


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
    return BlendPredictor(
        members=predictors,
        member_names=[member.name for member in data.members],
        blender=kept.blender,
        label_names=data.task.label_names,
        label_weights=data.task.label_weights,
        prior=np.asarray(prior, dtype=np.float64),
        calibration=kept.finish,
        study_calibration=kept.studies,
        training={
            "experiment_id": experiment.id,
            "dataset": config.data.data_dataset,
            "fold": "all" if not data.by_patients else int(data.tables.folds[0]),
            "iterations": None,
            PARAMETER: recorded_steps(data.table.folder).parameters(),
        },
        fitted_on=id_digests(data.rows.study_ids),
    )


def _write_tables(
    data: EnsembleData, fitted: CrossFitted, kept: FittedBlend, experiment: Experiment
) -> None:
    """Writes the out-of-fold predictions of slices and studies, and those of the test."""
    names = data.task.label_names
    frame = _as_predictions(
        data.tables, fitted.raw_logits, expit(fitted.logits), names, experiment.id
    )
    if kept.consistent and kept.calibration is not None:
        # For the report: what was calibrated, before it was made consistent.
        calibrated = expit(fitted.calibrated_logits)
        frame = frame.assign(**{f"calibrated_{n}": calibrated[:, k] for k, n in enumerate(names)})
    write_predictions(experiment.predictions / "oof.parquet", frame, names)
    studies: dict[str, Any] = {
        "study_id": fitted.study_ids,
        "patient_id": fitted.study_patients,
    }
    told = {"label": fitted.study_labels, "raw": fitted.study_raw}
    if fitted.study_calibrated is not None:
        told["calibrated"] = fitted.study_calibrated
    for kind, values in told.items():
        studies |= {f"{kind}_{name}": values[:, k] for k, name in enumerate(names)}
    write_parquet(experiment.predictions / STUDIES_TABLE, pd.DataFrame(studies))
    if data.test is not None:
        raw = kept.blender.apply(data.test.probabilities)
        final = raw if kept.finish is None else kept.finish.apply(raw)
        frame = _as_predictions(data.test, raw, expit(final), names, experiment.id)
        write_predictions(experiment.predictions / "test.parquet", frame, names)


def _as_predictions(
    tables: MemberTables,
    raw_logits: Floats,
    probabilities: Floats,
    label_names: Sequence[str],
    experiment_id: str,
) -> pd.DataFrame:
    """Returns a prediction table: the blend's own logits, and probabilities in the end."""
    frame = build_predictions(
        tables.frame[list(ID_COLUMNS)], raw_logits, label_names, None, experiment_id
    )
    frame[list(label_names)] = probabilities
    frame["fold"] = pd.array(np.where(tables.folds < 0, 0, tables.folds), dtype="Int64")
    frame.loc[tables.folds < 0, "fold"] = pd.NA
    return frame
