"""The labelled part of another dataset, predicted; its studies as predict.py writes them."""

import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.predictors.base import AbstractPredictor, RowLogits
from common.scoring.metrics import Floats
from common.slices.folds import owners
from common.slices.series import NO_CT, list_series, used_rows
from common.slices.study_labels import (
    LABELS_OF_STUDY,
    known_labels,
    labels_by_study,
    read_study_labels,
)
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from common.words import count
from rsna.predictor import image_rows, make_studies

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """The labelled part of a dataset.

    Attributes:
        frame: rows of all images of the labelled studies, with a bool column `readable`, indexed
            by their rows of the table.
        rows: of the table, labelled slices and those of studies labelled as a whole, readable.
        own: those of them that are labelled themselves.
        labels: (rows of the table, k) of slices, by majority, NaN where unknown or by a model.
        studies: labels by study id, by majority.
        num_skipped: what is left out, by reason.
    """

    frame: pd.DataFrame
    rows: NDArray[np.int64]
    own: NDArray[np.int64]
    labels: Floats
    studies: pd.DataFrame
    num_skipped: dict[str, int]

    @property
    def by_study(self) -> bool:
        """Whether studies have labels and slices have none."""
        return not len(self.own)


@dataclass(frozen=True)
class PredictedRows:
    """Predictions of the n rows that are scored.

    Attributes:
        rows: of the table, ascending.
        logits: float32 (n, k).
        series_logits: float32 (n, k), of their series, where the predictor has its own.
        unreadable: (n,) rows whose pixels turned out to be damaged, with the prior.
        frame: as of `Labelled`, `readable` as it turned out.
        series: all volumes of the labelled studies (`list_series`).
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    series_logits: NDArray[np.float32] | None
    unreadable: NDArray[np.bool_]
    frame: pd.DataFrame
    series: pd.DataFrame


def find_labelled(
    table: SliceTable,
    name: str,
    label_names: Sequence[str],
    held_out: AbstractSet[str] | None = None,
) -> Labelled:
    """Return the labelled part of a dataset; labels by a model do not count.

    Args:
        held_out: ids of patients or studies to which it is limited; None for all.

    Raises:
        InputError: no slice that can be read has a label, nor has its study.
    """
    labels = known_labels(table, np.arange(len(table)), label_names)
    is_asked = np.ones(len(table), dtype=bool)
    if held_out is not None:
        columns = table.frame[["patient_id", "study_id"]]
        is_asked = columns.isin(held_out).any(axis=1).to_numpy(dtype=bool)
        num_unknown = len(held_out - set(columns.to_numpy(dtype=object).ravel()))
        if num_unknown:
            logger.warning(
                "--ev_held_out: %d of %s are of no patient or study of %s",
                num_unknown,
                count(len(held_out), "id"),
                name,
            )
    labels[~is_asked] = np.nan
    has_label = ~np.isnan(labels).all(axis=1)
    study_ids = table.frame["study_id"]
    known = has_label & study_ids.notna().to_numpy(dtype=bool)
    given = read_study_labels(table, label_names, (LABELS_OF_STUDY,))
    if given is not None:
        given = given[given.notna().any(axis=1)]
        known |= study_ids.isin(given.index).to_numpy(dtype=bool) & is_asked
    ids, of_studies = labels_by_study(table, label_names, labels[known], study_ids[known])
    studies = pd.DataFrame(of_studies, index=ids, columns=list(label_names))
    own = np.flatnonzero(has_label & table.readable)
    what = "slices without a label" if has_label.any() else "slices of studies without a label"
    has_label |= known
    rows = np.flatnonzero(has_label & table.readable)
    if not len(rows):
        which = "" if held_out is None else ", of those that --ev_held_out names,"
        raise InputError(f"--data_dataset {name}: no slice{which} that can be read has a label")
    images = image_rows(table)
    images = images[study_ids.iloc[images].isin(studies.index).to_numpy(dtype=bool)]
    frame = table.frame.iloc[images].set_index(images).assign(readable=table.readable[images])
    num_others = int((table.readable & ~has_label).sum())
    skipped = {what: num_others} if num_others else {}
    return Labelled(frame, rows, own, labels, studies, skipped)


def predict_labelled(
    labelled: Labelled, predict: Callable[[NDArray[np.int64]], RowLogits]
) -> PredictedRows:
    """Return predictions of the labelled slices and of the used series of the labelled studies.

    Where pixels turn out to be damaged another series may be used: then that is predicted too.

    Args:
        predict: returns the prediction of rows of the table.
    """
    frame = labelled.frame
    parts: dict[int, tuple[NDArray[np.float32], NDArray[np.float32] | None, bool]] = {}
    while True:
        series = list_series(frame)
        wanted = np.union1d(labelled.own, frame.index.to_numpy()[used_rows(frame, series)])
        missing = np.array([row for row in wanted.tolist() if row not in parts], dtype=np.int64)
        if not len(missing):
            break
        result = predict(missing)
        own = [None] * len(missing) if result.series_logits is None else result.series_logits
        values = zip(result.logits, own, result.unreadable, strict=True)
        parts |= dict(zip(missing.tolist(), values, strict=True))
        damaged = frame.index.isin(missing[result.unreadable])
        frame = frame.assign(readable=frame["readable"] & ~damaged)
    rows = np.array(sorted(parts), dtype=np.int64)
    logits, of_rows, unreadable = zip(*(parts[row] for row in rows.tolist()), strict=True)
    own_of_series = None if of_rows[0] is None else np.stack(of_rows)
    return PredictedRows(rows, np.stack(logits), own_of_series, np.array(unreadable), frame, series)


def score_labelled_studies(
    labelled: Labelled,
    found: PredictedRows,
    predictions: pd.DataFrame,
    predictor: AbstractPredictor,
) -> tuple[ScoredStudies, dict[str, int]]:
    """Return the labelled studies as predict.py writes them, and how many are special, by reason.

    Args:
        predictions: the prediction table of `found.rows`.
    """
    names = list(predictor.label_names)
    places = found.frame.index.get_indexer(pd.Index(found.rows))

    def of_frame(values: NDArray[Any]) -> Floats:
        spread: Floats = np.full((len(found.frame), len(names)), np.nan)
        spread[places[places >= 0]] = values[places >= 0]
        return spread

    probabilities = of_frame(predictions[names].to_numpy(dtype=np.float64))
    series_logits = None if found.series_logits is None else of_frame(found.series_logits)
    studies = make_studies(predictor, found.frame, probabilities, found.series, series_logits)
    counts = studies["status"].value_counts()
    notes = {
        "studies of which no slice can be read, scored with the prior of studies": "prior",
        "studies without CT of a head": NO_CT,
    }
    skipped = {note: int(counts[status]) for note, status in notes.items() if status in counts}
    scored = studies[studies["status"] != NO_CT]
    labels = labelled.studies.reindex(scored["study_id"])[names].to_numpy(dtype=np.float64)
    is_used = used_rows(found.frame, found.series)
    num_others = int(found.frame["readable"].sum()) - int(is_used.sum())
    if labelled.by_study and num_others:
        skipped["slices of series that are not used for their study"] = num_others
    of_studies = ScoredStudies(
        labels,
        scored[names].to_numpy(dtype=np.float64),
        owners(scored).to_numpy(dtype=object),
        scored["study_id"].to_numpy(dtype=object),
        predictor.study_rule,
        predictor.study_prior,
        statuses=scored["status"].to_numpy(dtype=object),
        rows=found.frame.index.to_numpy(dtype=np.int64)[is_used],
    )
    return of_studies, skipped
