"""Labels of whole studies: what is known of them, and the volume that stands for each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.scoring.metrics import Floats, majority, max_by_study
from common.slices.folds import is_pseudo
from common.slices.series import list_series
from common.slices.table import STUDIES_FILE, SliceTable
from common.tables import read_parquet

LABELS_OF_SLICES = "slices"
LABELS_OF_STUDY = "study"
"""In label_source of studies.parquet: the label follows from its slices, or was given."""


def read_study_labels(
    table: SliceTable,
    label_names: Sequence[str],
    sources: Sequence[str] | None = None,
) -> pd.DataFrame | None:
    """Return the labels of studies as they are, by study id; None where there is no such table.

    Args:
        sources: only those whose label_source is one of these; None for all, as without a column.
    """
    path = table.folder / STUDIES_FILE
    if not path.is_file():
        return None
    studies = read_parquet(path, "run preprocessing.py again")
    if sources is not None and "label_source" in studies:
        studies = studies[studies["label_source"].isin(list(sources))]
    return studies.set_index("study_id")[list(label_names)]


def known_labels(table: SliceTable, rows: NDArray[np.int64], label_names: Sequence[str]) -> Floats:
    """Return (n, k) labels of rows by majority; NaN where unknown, or made by a model."""
    labels = majority(table.labels(rows, label_names))
    labels[is_pseudo(table.frame.iloc[rows])] = np.nan
    return labels


def labels_of_volumes(table: SliceTable, label_names: Sequence[str]) -> pd.DataFrame:
    """Return the labels of studies by the store file of the volume that stands for each.

    A study has the labels that it was given as a whole, or, label by label, the largest of its
    slices where all that can be read have one that no model made. Studies without a known label
    are left out, and so are all where the dataset has no table of studies.
    """
    names = list(label_names)
    given = read_study_labels(table, names, (LABELS_OF_STUDY,))
    if given is None:
        return pd.DataFrame(columns=names, dtype="float32")
    frame = table.frame.assign(readable=table.readable)
    labels = frame[names].mask(np.repeat(is_pseudo(frame)[:, None], len(names), axis=1))
    is_lacking = labels.isna() & table.readable[:, None]
    derived = labels.groupby(frame["study_id"]).max()
    derived = derived.mask(is_lacking.groupby(frame["study_id"]).any())
    studies = pd.concat([given, derived.drop(index=given.index, errors="ignore")])
    studies = studies[studies.notna().any(axis=1)]
    series = list_series(frame[frame["study_id"].isin(studies.index)])
    used = series[series["used"] == 1].set_index("store_file")["study_id"]
    return studies.reindex(used).set_axis(used.index)


def labels_by_study(
    table: SliceTable, label_names: Sequence[str], labels: ArrayLike, study_ids: ArrayLike
) -> tuple[NDArray[Any], Floats]:
    """Return study ids (s,), in order of appearance, and their labels (s, k), by majority.

    A label that was given to a study as a whole is that; any other is the largest of the slices'
    (`max_by_study`). A study without a positive slice is unknown where another slice of a volume
    that has labels is. Slices of no known study are in none.

    Args:
        labels: (n, k) of slices, in volumes where others may have none.
        study_ids: (n,).
    """
    known = pd.notna(np.asarray(study_ids, dtype=object))
    y = majority(labels)[known]
    ids, of_studies, _ = max_by_study(y, np.zeros(y.shape), np.asarray(study_ids)[known])
    of_studies[(of_studies == 0) & _is_lacking(table, label_names, ids)] = np.nan
    given = read_study_labels(table, label_names, (LABELS_OF_STUDY,))
    if given is None:
        return ids, of_studies
    own = majority(given.reindex(pd.Index(ids)))
    return ids, np.where(np.isnan(own), of_studies, own)


def _is_lacking(table: SliceTable, label_names: Sequence[str], ids: NDArray[Any]) -> NDArray[Any]:
    """Return (s, k): whether a slice lacks the label in a volume of which others have one."""
    frame = table.frame[["study_id", "store_file"]]
    own = np.flatnonzero(table.readable & frame["study_id"].isin(ids).to_numpy(dtype=bool))
    is_unknown = pd.DataFrame(np.isnan(known_labels(table, own, label_names)))
    if not is_unknown.to_numpy().any():
        return np.zeros((len(ids), len(label_names)), dtype=bool)
    frame = frame.iloc[own].reset_index(drop=True)
    of_volume = is_unknown.groupby(frame["store_file"]).transform
    lacks = (of_volume("any") & ~of_volume("all")).groupby(frame["study_id"]).any()
    return lacks.reindex(ids, fill_value=False).to_numpy(dtype=bool)
