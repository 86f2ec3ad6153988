"""What a predictor was trained and fitted on, and what may be scored with it.

One way for experiments and for predictors alone: what counts is recorded in predictor.json of the
predictor and of all that lie in it (`common.slices.leakage`).
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from common.errors import InputError
from common.experiment import PredictorHome
from common.slices.copies import pixel_names
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

_OTHER_FOLDS = (
    "the predictor was trained on a dataset of this name with other folds than it has now: it may "
    "have seen any patient, and scores may be too good"
)


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
) -> dict[str, str]:
    """Raise InputError where a predictor was trained, or fitted, on patients of rows of a table.

    Return what a page says where it may have been, which is logged as a warning: patients of other
    datasets are known by their ids alone, where those datasets are beside this one.

    Args:
        rows: those that are scored, or fitted on.
    """
    for content in recorded_predictors(home.predictor):
        salt, fitted = content.get("fitted_on_salt", ""), content.get("fitted_on", ())
        for known_by, num, what in _fitted_on(fitted, salt, table, rows):
            raise InputError(
                f"--data_dataset {name}: {home.title} would be scored on {count(num, what)} "
                f"that it was fitted on (blend or calibration), known by {known_by}: name "
                f"others by --ev_held_out, or take other data"
            )
    notes = _require_untrained(home, table, rows, name)
    notes += _notes_of_shared_patients(home, table, rows)
    for note in notes:
        logger.warning("--data_dataset %s: %s", name, note)
    return {"seen before": "; ".join(notes)} if notes else {}


def fitted_ids(
    table: SliceTable, rows: np.ndarray, salted: bool = True
) -> Mapping[tuple[str, str], list[str]]:
    """Return what tells the owners of rows from others, by what it is of and what it is.

    Either data may lack the ids of patients, or have other ids for the same pixels.

    Args:
        salted: False for old blends, which know nothing else than studies.
    """
    frame = table.frame.iloc[rows]
    studies = frame["study_id"].dropna().drop_duplicates()
    of_studies = {("study", "id"): list(studies)}
    if not salted:
        return of_studies
    patients = list(owners(frame).unique())
    pixels = pixel_names(table, studies)
    return {("patient", "id"): patients, **of_studies, ("study", "pixels"): pixels}


def refused_decisions(
    kept: Mapping[str, Any], table: SliceTable, rows: np.ndarray
) -> dict[str, str]:
    """Return why thresholds and triage of a predictor are not scored on rows, by key.

    Args:
        kept: of predictor.json, those that would be scored.
    """
    refused: dict[str, str] = {}
    known: dict[str, str | None] = {"": None}
    for key, record in kept.items():
        fitted = record["fitted_on"] or {"salt": ""}
        salt = fitted["salt"]  # what was fitted at once has one, and digests take long
        if salt not in known:
            hits = _fitted_on(fitted["digests"], salt, table, rows)
            known[salt] = next((count(num, what) for _, num, what in hits), None)
        if (seen := known[salt]) is not None:
            refused[key] = (
                f"{seen} of these were used to choose it: name others by --ev_held_out, or choose "
                f"anew by --ev_rule and --ev_error"
            )
            logger.warning("%s: the predictor's own is not scored: %s", key, refused[key])
    return refused


def _fitted_on(
    fitted: Iterable[str], salt: str, table: SliceTable, rows: np.ndarray
) -> Iterator[tuple[str, int, str]]:
    """Yield by what owners of rows are known that something was fitted on, how many, and what."""
    digests = set(fitted)
    for (what, known_by), ids in fitted_ids(table, rows, bool(salt)).items() if digests else ():
        num = len(digests.intersection(id_digests(ids, salt)))
        if num:
            yield known_by, num, what


def source_note(home: PredictorHome, table: SliceTable) -> dict[str, Any]:
    """Return what a page says where the weights started from some that saw the dataset's source."""
    if not _saw_source(home, table):
        return {}
    note = "the training before this one saw the source of these rows: scores may be too good"
    logger.warning("%s: %s", home.title, note)
    return {"started from": note}


def _saw_source(home: PredictorHome, table: SliceTable) -> bool:
    return any(saw_source(each, table.folder) for each in origins_of_predictor(home.predictor))


def _require_untrained(
    home: PredictorHome, table: SliceTable, rows: np.ndarray, name: str
) -> list[str]:
    """Raise InputError where folds show that rows were trained on; return what they hide."""
    image_ids = table.frame["image_id"].iloc[rows]
    read = functools.cache(read_folds)
    digest_of = functools.cache(lambda path: folds_digest(read(path)))
    is_hidden = False
    for origin in origins_of_predictor(home.predictor):
        fold, made_with = origin.get("fold"), origin.get("folds_sha256")
        if fold is None:
            continue
        of_one = isinstance(fold, int)
        path = folds_path(table.folder, fold) if of_one else table.folder / FOLDS_FILE
        is_same_name = origin.get("dataset") == table.folder.name
        is_same = path.is_file() and (
            is_same_name if made_with is None else made_with == digest_of(path)
        )
        if not is_same:
            is_hidden |= is_same_name
            continue
        folds = read(path)
        trained = folds[~is_validated(folds, fold)] if of_one else folds
        seen = is_in(image_ids, trained["image_id"])
        if seen.any():
            patients = owners(table.frame.iloc[rows[seen]]).nunique()
            raise InputError(
                f"--data_dataset {name}: {home.title} was trained on "
                f"{count(patients, 'patient')} of it (--data_fold {fold}): evaluate its experiment "
                f"(--experiment_id), name others by --ev_held_out, or take other data"
            )
    return [_OTHER_FOLDS] if is_hidden else []


def _notes_of_shared_patients(
    home: PredictorHome, table: SliceTable, rows: np.ndarray
) -> Iterator[str]:
    """Yield which patients are in a dataset of a training too, where it is there."""
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
            yield (
                f"{count(num_patients, 'patient')} and {count(num_images, 'image')} are, by their "
                f"ids, in the dataset {own} too, which the predictor was trained on: scores are "
                f"too good"
            )
