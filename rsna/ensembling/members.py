"""The members of a blend or of a second level, and their predictions: found, checked, read."""

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.ensembling.blend_tables import MemberTables, read_members
from common.ensembling.cross_fitting import BlendRows, patient_groups
from common.errors import InputError
from common.experiment import Experiment, PredictorHome, find_predictor
from common.predictors.base import AbstractPredictor
from common.predictors.loading import load_predictor
from common.scoring.metrics import Floats, majority, training_prior
from common.slices.folds import FOLDS_FILE, fold_numbers, folds_path, owners, read_folds
from common.slices.leakage import (
    SOURCES,
    dataset_sources,
    folds_digest,
    require_same_folds,
    require_unseen_features,
)
from common.slices.pixel_steps import PARAMETER, recorded_steps, require_same_steps
from common.slices.study_labels import labels_by_study
from common.slices.table import SliceTable
from config import Config, recorded_config
from rsna.evaluation.scoring import predictor_info, prior_of, task_of, used_of
from rsna.evaluation.unseen import require_unseen_rows
from rsna_model import build_model
from rsna_task import CHALLENGE, Task

logger = logging.getLogger(__name__)

# Groups of patients where all rows are of one fold.
NUM_GROUPS = 5


@dataclass(frozen=True)
class Member:
    """One of the experiments, predictors or prediction tables that something is made of.

    Attributes:
        name: an experiment id, or the path of a predictor or of a table.
        oof: its out-of-fold (or, of one fold, validation) predictions.
        home: None for a table.
        is_evaluated: whether these are of an evaluation on the dataset, which the predictor has
            not been trained on; then the rows are of the folds of the dataset.
    """

    name: str
    oof: Path
    test: Path
    home: PredictorHome | None = None
    is_evaluated: bool = False

    @property
    def experiment(self) -> Experiment | None:
        """The experiment, where the predictions are of its own training."""
        return self.home if isinstance(self.home, Experiment) and not self.is_evaluated else None

    @property
    def info(self) -> dict[str, Any] | None:
        """The content of its predictor.json; None where it has none."""
        if self.home is None or not self.home.has_predictor:
            return None
        return predictor_info(self.home)

    @property
    def folds_sha256(self) -> str | None:
        """The digest of the folds that it was made with; None where unknown."""
        if self.is_evaluated:
            return None
        return ((self.info or {}).get("training") or {}).get("folds_sha256")

    def prior_of_fold(self, fold: int) -> Floats | None:
        """Return the prior (k,) that it is compared with on rows of a fold; None for a table."""
        info = self.info
        if info is None:
            return None
        own = info.get("fold_priors", {}).get(str(fold))
        return prior_of(info if own is None else {**info, "prior": own})

    @property
    def config(self) -> Config | None:
        return None if self.experiment is None else recorded_config(self.experiment.folder)


@dataclass
class EnsembleData:
    """Predictions of members: of the rows with labels, and those of the test.

    Attributes:
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
    test: MemberTables | None = None

    def fold_priors(self) -> dict[int, Floats]:
        """Return the prior (k,) of each fold: the mean over those that members are compared with.

        Where no member knows one, the share of positives in the rows of the other folds.
        """
        found = {}
        for fold in np.unique(self.tables.folds).tolist():
            own = [member.prior_of_fold(fold) for member in self.members]
            known = [prior for prior in own if prior is not None]
            others = self.rows.labels[(self.tables.folds != fold) | self.by_patients]
            found[fold] = np.mean(known, axis=0) if known else training_prior(others)
        return found

    def origin(self, experiment: Experiment, config: Config) -> dict[str, Any]:
        """Return `training` of the predictor.json of what is made of the members."""
        return {
            "experiment_id": experiment.id,
            "dataset": config.data.data_dataset,
            SOURCES: dataset_sources(self.table.folder),
            "fold": "all" if not self.by_patients else int(self.tables.folds[0]),
            PARAMETER: recorded_steps(self.table.folder).parameters(),
        }


def find_member(config: Config, name: str, flag: str = "--ens_experiments") -> Member:
    """Return the member of this name; InputError, naming the flag, where there is none.

    A predictor folder, or an experiment that has no out-of-fold predictions of its own, as imported
    weights, is a member of blends by its evaluation on --data_dataset.
    """
    if name.endswith(".parquet"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{flag} {name}: no such prediction table")
        return Member(name, path, path.with_stem("test"))
    home: PredictorHome = Experiment(config.experiment_folder(name))
    if not Experiment(home.folder).exists:
        if not Path(name).is_dir():
            raise InputError(
                f"{flag} {name}: no experiment at {home.folder}; say where it is with "
                f"--output_dir, or give the folder of a predictor"
            )
        home = find_predictor(Path(name), flag)
    if isinstance(home, Experiment):
        oof = home.out_of_fold_file
        if oof.is_file():
            return Member(name, oof, home.predictions_file("test"), home)
    reason = f"{flag} {name}: {home.folder} has neither predictions/oof.parquet nor valid.parquet"
    if flag != "--ens_experiments" or not home.has_predictor:
        raise InputError(f"{reason}: train it to its end")
    dataset = config.data.data_dataset
    place = home.evaluation(dataset)
    if "data_dataset" not in config.given or not place.predictions_file.is_file():
        # The weights of a blend are fitted on predictions of patients that no member has seen.
        raise InputError(
            f"{reason}: give --data_dataset, which it was not trained on, and first evaluate.py "
            f"--pr_predictor {home.predictor} --data_dataset <the same>"
        )
    none = place.predictions_file.with_stem("test")
    return Member(name, place.predictions_file, none, home, is_evaluated=True)


def recorded_data(
    members: Sequence[Member], given: Set[str], flag: str = "--ens_experiments"
) -> dict[str, str]:
    """Return --data_dataset and --data_input_folder of the members, as far as they are not given.

    Raises:
        InputError: members are of several datasets.
    """
    data = {m.name: config.data for m in members if (config := m.config) is not None}
    several = len({each.data_dataset for each in data.values()}) > 1
    if several and "data_dataset" not in given:
        found = ", ".join(f"{name} of {each.data_dataset}" for name, each in data.items())
        raise InputError(f"{flag}: members are of several datasets ({found}): give those of one")
    first = next(iter(data.values()), None)
    if first is None:
        return {}
    names = {"data_dataset", "data_input_folder"} - given
    return {name: getattr(first, name) for name in names}


def read_data(
    config: Config,
    members: Sequence[Member],
    flag: str = "--ens_experiments",
    *,
    across_folds: bool = False,
) -> EnsembleData:
    """Return the predictions of the members, with labels and folds.

    Args:
        across_folds: refuse rows of one fold alone, rows that not all members predict, and members
            that do not know their folds.

    Raises:
        InputError: members of different labels, folds or images, or a row that was predicted by a
            model that saw its patient.
    """
    infos = [info for info in (member.info for member in members) if info is not None]
    tasks = {task_of(info) for info in infos}
    if len(tasks) > 1:
        raise InputError(f"{flag}: members predict different labels: give those of one task")
    task = tasks.pop() if tasks else CHALLENGE
    table = SliceTable.load(config.dataset_folder)
    own_folds = None
    if any(member.is_evaluated for member in members):
        own_folds = fold_numbers(read_folds(config.dataset_folder / FOLDS_FILE))
    tables = read_members(
        [member.oof for member in members],
        task.label_names,
        all_rows=across_folds,
        folds=[own_folds if member.is_evaluated else None for member in members],
    )
    for info in infos:
        require_same_steps(info["training"], table.folder)
    frame, folds = tables.frame, tables.folds
    rows_of_table = table.rows_of(frame["image_id"])
    labels = majority(table.labels(rows_of_table, task.label_names))
    if np.isnan(labels).all():
        raise InputError(f"{table.folder}: none of the members' rows has a label")
    for member in members:
        if member.is_evaluated and member.home is not None:
            require_unseen_rows(member.home, table, rows_of_table, config.data.data_dataset)
    _require_unseen(config, members, tables, flag, is_digest_needed=across_folds)
    patients = owners(frame).to_numpy(dtype=object)
    by_patients = len(np.unique(folds)) < 2
    groups = folds
    if by_patients:
        if across_folds:
            raise InputError(
                f"{flag}: the predictions are of the rows of one fold alone, and are fitted on "
                f"other folds than they are scored on: train with --data_fold all"
            )
        logger.info("all rows are of one fold: fitted across %d groups of patients", NUM_GROUPS)
        groups = patient_groups(patients, NUM_GROUPS, config.general.seed)
        if len(np.unique(groups)) < 2:
            raise InputError(f"{flag}: the rows are of one patient: nothing can be fitted")
    used, study_ids = used_of(table, rows_of_table), frame["study_id"].to_numpy(dtype=object)
    ids, given = labels_by_study(table, task.label_names, labels, study_ids)
    of_studies = pd.DataFrame(given, pd.Index(ids)).reindex(study_ids).to_numpy()
    rows = BlendRows(labels, groups, patients, study_ids, used, of_studies)
    test, paths = None, [member.test for member in members]
    if all(path.is_file() for path in paths):
        test = read_members(paths, task.label_names, all_rows=True)
    elif any(path.is_file() for path in paths):
        logger.warning("no test.parquet: some members have none")
    return EnsembleData(members, table, task, tables, rows, by_patients, test)


def _require_unseen(
    config: Config,
    members: Sequence[Member],
    tables: MemberTables,
    flag: str,
    is_digest_needed: bool,
) -> None:
    """Raise InputError where a row is not of the fold that validates its patient.

    Members that know the folds that they were made with must have been made with these; the others
    are trusted, unless all have to know.
    """
    present = np.unique(tables.folds)
    if (present < 0).any():
        raise InputError(
            f"{flag}: some rows are of no fold: give out-of-fold predictions, which train.py "
            f"leaves in predictions/"
        )
    folds = read_folds(folds_path(config.dataset_folder, int(present[0])))
    if "fold" not in folds and not is_digest_needed:
        logger.info("the split is a given one: that members have not seen these rows is trusted")
        return
    for member in members:
        if is_digest_needed or member.folds_sha256 is not None:
            require_same_folds(f"predictions of {member.name}", member.folds_sha256, folds)
    ids = tables.frame["image_id"]
    require_unseen_features("the members", ids, tables.folds, folds_digest(folds), folds)


def load_members(members: Sequence[Member]) -> list[AbstractPredictor]:
    """Return the members' predictors; none, with a warning, where one of them has none."""
    lacking = [member.name for member in members if member.info is None]
    if lacking:
        logger.warning("no predictor for new data: %s: no predictor.json", ", ".join(lacking))
        return []
    homes = [member.home for member in members if member.home is not None]
    return [load_predictor(home.predictor, build_model) for home in homes]
