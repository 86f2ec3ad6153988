"""What a predictor was trained and fitted on, and what may be scored with it.

One way for experiments and for predictors alone: what counts is recorded in predictor.json of the
predictor and of all that lie in it (`common.slices.leakage`).
"""

import logging
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from common.errors import InputError
from common.experiment import PredictorHome
from common.slices.folds import FOLDS_FILE, folds_path, is_in, is_validated, owners, read_folds
from common.slices.leakage import (
    TRAINED_ON,
    folds_digest,
    id_digests,
    origins_of_predictor,
    recorded_predictors,
    saw_source,
)
from common.slices.table import SliceTable
from common.words import count

logger = logging.getLogger(__name__)


def require_unseen_source(
    home: PredictorHome, table: SliceTable, name: str, held_out: AbstractSet[str] | None
) -> None:
    """Raise InputError where imported weights saw what a dataset was made from.

    Args:
        held_out: ids of what they did not see; None where none are named.
    """
    if held_out is None and _saw_source(home, table):
        raise InputError(
            f"--data_dataset {name}: the weights were trained on the data that it was made from: "
            f"name the patients that were held out by --ev_held_out, or score other data"
        )


def require_unseen_rows(
    home: PredictorHome, table: SliceTable, rows: np.ndarray, name: str
) -> None:
    """Raise InputError where a predictor was trained, or fitted, on patients of rows of a table.

    Patients of other datasets are known by their ids, where those datasets are beside this one;
    that is logged as a warning.

    Args:
        rows: those that are scored, or fitted on.
        name: of the dataset.
    """
    for content in recorded_predictors(home.predictor):
        fitted, salt = content.get("fitted_on", ()), content.get("fitted_on_salt", "")
        num = _num_fitted_on(fitted, salt, table, rows)
        if num:
            raise InputError(
                f"--data_dataset {name}: {home.title} would be scored on {count(num, 'patient')} "
                f"that it was fitted on (blend or calibration): name others by --ev_held_out, or "
                f"take other data"
            )
    _require_untrained(home, table, rows, name)
    _warn_of_shared_patients(home, table, rows)


def refused_decisions(
    kept: Mapping[str, Any], table: SliceTable, rows: np.ndarray
) -> dict[str, str]:
    """Return why thresholds and triage of a predictor are not scored on rows, by key.

    Args:
        kept: of predictor.json, those that would be scored.
    """
    refused, known = {}, {"": 0}
    for key, record in kept.items():
        fitted = record["fitted_on"] or {"salt": ""}
        salt = fitted["salt"]  # what was fitted at once has one, and digests take long
        if salt not in known:
            known[salt] = _num_fitted_on(fitted["digests"], salt, table, rows)
        if known[salt]:
            refused[key] = (
                f"{count(known[salt], 'patient')} of these were used to choose it: name others by "
                f"--ev_held_out, or choose anew by --ev_rule and --ev_error"
            )
            logger.warning("%s: the predictor's own is not scored: %s", key, refused[key])
    return refused


def _num_fitted_on(fitted: Iterable[str], salt: str, table: SliceTable, rows: np.ndarray) -> int:
    """Return how many patients of rows have a digest among those of what something was fitted on.

    Either data may lack the ids of patients, and then it is studies; old blends know those alone.
    """
    digests, frame = set(fitted), table.frame.iloc[rows]
    owner, studies = owners(frame), frame["study_id"].dropna()
    for ids in ((owner, studies) if salt else (studies,)) if digests else ():
        num = len(digests.intersection(id_digests(ids.unique(), salt)))
        if num:
            return num
    return 0


def source_note(home: PredictorHome, table: SliceTable) -> dict[str, Any]:
    """Return what a page says where the weights started from some that saw the dataset's source."""
    if not _saw_source(home, table):
        return {}
    note = "the training before this one saw the source of these rows: scores may be too good"
    logger.warning("%s: %s", home.title, note)
    return {"started from": note}


def _saw_source(home: PredictorHome, table: SliceTable) -> bool:
    return any(saw_source(each, table.folder) for each in origins_of_predictor(home.predictor))


def _require_untrained(home: PredictorHome, table: SliceTable, rows: np.ndarray, name: str) -> None:
    """Raise InputError where the folds show that the rows were trained on."""
    image_ids = table.frame["image_id"].iloc[rows]
    for origin in origins_of_predictor(home.predictor):
        fold, made_with = origin.get("fold"), origin.get("folds_sha256")
        path = table.folder / FOLDS_FILE
        if isinstance(fold, int):
            path = folds_path(table.folder, fold)
        if fold is None or not path.is_file():
            continue
        folds = read_folds(path)
        is_same_name = origin.get("dataset") == table.folder.name
        if made_with != folds_digest(folds) and not (made_with is None and is_same_name):
            continue
        trained = folds[~is_validated(folds, fold)] if isinstance(fold, int) else folds
        seen = is_in(image_ids, trained["image_id"])
        if seen.any():
            patients = owners(table.frame.iloc[rows[seen]]).nunique()
            raise InputError(
                f"--data_dataset {name}: {home.title} was trained on "
                f"{count(patients, 'patient')} of it (--data_fold {fold}): evaluate its experiment "
                f"(--experiment_id), name others by --ev_held_out, or take other data"
            )


def _warn_of_shared_patients(home: PredictorHome, table: SliceTable, rows: np.ndarray) -> None:
    """Log a warning of patients that are in a dataset of a training too, where it is there."""
    origins = origins_of_predictor(home.predictor)
    names = {origin.get("dataset") or origin.get(TRAINED_ON) for origin in origins}
    for own in sorted(filter(None, names - {table.folder.name})):
        path = table.folder.parent / own / FOLDS_FILE
        if not path.is_file():
            continue
        folds, frame = read_folds(path), table.frame.iloc[rows]
        num_images = int(is_in(frame["image_id"], folds["image_id"]).sum())
        num_patients = 0
        if "patient_id" in folds:
            patients = owners(frame)
            num_patients = patients[is_in(patients, folds["patient_id"])].nunique()
        if num_images or num_patients:
            logger.warning(
                "--data_dataset: %d patients and %d images are, by their ids, in the dataset %s "
                "too, which the predictor was trained on: scores are too good",
                num_patients,
                num_images,
                own,
            )
