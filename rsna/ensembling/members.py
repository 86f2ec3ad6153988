"""The members of a blend and what they predict: found, checked, read."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.ensembling.blend_tables import MemberTables, read_members
from common.ensembling.cross_fitting import BlendRows, patient_groups
from common.errors import InputError
from common.experiment import JSON_FILE, PREDICTOR_FOLDER
from common.predictors.base import AbstractPredictor
from common.predictors.loading import load_predictor
from common.slices.folds import folds_path, read_folds
from common.slices.leakage import folds_digest, require_same_folds, require_unseen_features
from common.slices.table import SliceTable
from config import Config, recorded_config
from rsna.evaluation.scoring import predictor_info, task_of
from rsna_model import build_model
from rsna_task import CHALLENGE, Task

logger = logging.getLogger(__name__)

# Groups of patients where all rows are of one fold.
NUM_GROUPS = 5


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
