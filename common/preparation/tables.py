"""Build the tables of a dataset: slices, studies."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.dicom.header import SPACING_MM
from common.dicom.order import gap_starts
from common.preparation.headers import CRASHED
from common.preparation.pixels import SliceResult
from common.scoring.metrics import majority
from common.slices.folds import TRAIN_SPLIT
from common.slices.study_labels import LABELS_OF_SLICES, LABELS_OF_STUDY
from common.slices.table import SLICE_COLUMNS
from common.words import count

logger = logging.getLogger(__name__)

PLAUSIBLE = {"spacing_slice": SPACING_MM, "slice_thickness": SPACING_MM, "kvp": (20.0, 500.0)}
"""Limits of what describes a slice (mm, kV): 0 and other values beyond them are unknown."""
GAP_NOTE = "slices seem to be missing after it"


def slices_table(
    headers: pd.DataFrame,
    splits: pd.Series,
    results: dict[str, list[SliceResult] | None],
    label_names: Sequence[str],
    labels: pd.DataFrame | None,
    kept: pd.DataFrame | None = None,
    study_labels: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the table of slices with the columns of `SLICE_COLUMNS` and the labels.

    Args:
        headers: all header rows, with the columns of `arrange` and `note`.
        splits: split by source_file.
        results: by store file, the results of its slices by rank; None where decoding it
            killed every process.
        labels: image_id and these, as `Source.labels` returns them.
        kept: rows of an earlier table that stay; their labels are looked up again.
        study_labels: study_id of studies that are labelled as a whole: their slices lack nothing.
    """
    frame = headers.drop(columns=["size", "mtime_ns", "reader", "frame", "num_frames"])
    frame["split"] = frame["source_file"].map(splits)
    ranked = frame["rank"] >= 0
    frame["num_slices"] = frame.groupby("store_file")["rank"].transform("size").where(ranked)
    _add_results(frame, results)
    _drop_implausible(frame)
    _add_note(frame, frame["note"].notna() & frame["store_index"].notna(), frame["note"])
    _note_gaps(frame)
    frame["rank"] = frame["rank"].where(ranked)
    if kept is not None and len(kept):
        frame = _with_kept(frame, kept)
    frame["keep_for_training"] = True
    frame = _with_labels(frame, label_names, labels, study_labels)
    types = SLICE_COLUMNS | dict.fromkeys(label_names, "float32")
    return frame[list(types)].astype(types)


def studies_table(
    slices: pd.DataFrame, label_names: Sequence[str], given: pd.DataFrame | None
) -> pd.DataFrame:
    """Return study_id, patient_id, labels and label_source of every study with a slice.

    A label of a study is the largest of its slices', unknown where one of them is, unless another
    has it by majority; where studies are labelled, it is theirs.
    """
    names = list(label_names)
    studies = studies_of_slices(slices, names)
    if given is not None:
        given = given[given["study_id"].isin(studies.index)].set_index("study_id")[names]
        _warn_of_contradictions(studies.loc[given.index, names], given)
        set_labels_of_studies(studies, given)
    return studies.reset_index()[["study_id", "patient_id", *names, "label_source"]]


def set_labels_of_studies(studies: pd.DataFrame, given: pd.DataFrame) -> None:
    """Fill in the labels that studies were given as a whole, both by study_id, in place."""
    studies.loc[given.index, given.columns] = given.astype("float32")
    studies.loc[given.index, "label_source"] = LABELS_OF_STUDY


def _warn_of_contradictions(derived: pd.DataFrame, given: pd.DataFrame) -> None:
    differs = (majority(derived) - majority(given)) != 0
    num = int((differs & derived.notna().to_numpy() & given.notna().to_numpy()).any(axis=1).sum())
    if num:
        logger.warning(
            "%s whose label contradicts those of their slices by majority: both are trained on, "
            "and the label of the study is scored",
            count(num, "study"),
        )


def studies_of_slices(slices: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return patient_id, labels and label_source by study_id, derived from the slices."""
    names = list(names)
    by_study = slices[slices["study_id"].notna()].groupby("study_id")
    labels = by_study[names].max()
    unknown = slices[names].isna().groupby(slices["study_id"]).any()
    labels = labels.mask(unknown & ~(labels > 0.5)).astype("float32")
    studies = by_study[["patient_id"]].first().join(labels)
    return studies.assign(label_source=_label_source(studies, names))


def by_majority(slices: pd.DataFrame, studies: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the slices with labels by majority; unknown ones are those given to their study.

    A slice of a positive study then counts as positive: for balance between folds, not for scores.
    """
    given = studies[studies["label_source"].eq(LABELS_OF_STUDY)].set_index("study_id")[list(names)]
    of_studies = given.reindex(slices["study_id"]).to_numpy(dtype="float32")
    own = slices[list(names)].to_numpy(dtype="float32")
    hard = majority(np.where(np.isnan(own), of_studies, own)).astype("float32")
    return slices.assign(**{name: hard[:, k] for k, name in enumerate(names)})


def _with_kept(frame: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Return the table with rows of an earlier one, each beside its neighbours."""
    types = {name: kind for name, kind in SLICE_COLUMNS.items() if name in frame}
    parts = [part.reindex(columns=list(types)).astype(types) for part in (frame, kept)]
    order = ["patient_id", "study_id", "series_id", "volume_id", "rank", "source_file"]
    return pd.concat(parts).sort_values(order, ignore_index=True)


def _add_results(frame: pd.DataFrame, results: dict[str, list[SliceResult] | None]) -> None:
    """Fill in the results of the pixel pass, in place."""
    crash = SliceResult(CRASHED, "decoding the series killed the process")
    ranked = frame.loc[frame["rank"] >= 0, ["store_file", "rank"]]
    outcomes = [(results[str(file)], rank) for file, rank in ranked.itertuples(index=False)]
    slices = [crash if of_file is None else of_file[rank] for of_file, rank in outcomes]
    found = pd.DataFrame(slices, ranked.index, columns=SliceResult._fields, dtype=object)
    found = found.reindex(frame.index)
    for name in ("status", "reason"):
        frame[name] = found[name].where(frame["rank"] >= 0, frame[name])
    # As stored, where steps changed the size; as the header says elsewhere.
    for size, spacing in (("row", "spacing_row"), ("column", "spacing_column")):
        frame[f"{size}s"] = pd.to_numeric(found.pop(f"{size}s")).fillna(frame[f"{size}s"])
        frame[spacing] *= pd.to_numeric(found.pop(f"scale_{size}")).fillna(1.0)
    frame[found.columns[2:]] = found[found.columns[2:]]
    frame["store_file"] = frame["store_file"].mask(frame["store_index"].isna())


def _drop_implausible(frame: pd.DataFrame) -> None:
    """Make what describes a slice null where it is implausible, in place.

    Where no positions tell how far slices are apart, their headers do.
    """
    frame["spacing_slice"] = frame["spacing_slice"].fillna(frame["spacing_between_slices"])
    for name, limits in PLAUSIBLE.items():
        frame[name] = frame[name].where(frame[name].between(*limits))


def _note_gaps(frame: pd.DataFrame) -> None:
    """Note in the reason of stored slices where others seem to be missing after them, in place."""
    stored = frame[frame["store_index"].notna()].sort_values(["store_file", "rank"])
    positions_mm = stored["position_mm"].to_numpy(dtype=np.float64)
    starts = np.flatnonzero(~stored["store_file"].duplicated().to_numpy())
    is_gap = pd.Series(False, frame.index)
    for start, stop in zip(starts, [*starts[1:], len(stored)]):
        is_gap[stored.index[start:stop][gap_starts(positions_mm[start:stop])]] = True
    _add_note(frame, is_gap, GAP_NOTE)


def _add_note(frame: pd.DataFrame, chosen: pd.Series, note: pd.Series | str) -> None:
    """Append a note to the reasons of the chosen rows, in place."""
    notes = note[chosen] if isinstance(note, pd.Series) else note
    before = frame.loc[chosen, "reason"]
    frame.loc[chosen, "reason"] = (before.astype("str") + "; ").where(before.notna(), "") + notes


def _with_labels(
    frame: pd.DataFrame,
    label_names: Sequence[str],
    labels: pd.DataFrame | None,
    study_labels: pd.DataFrame | None,
) -> pd.DataFrame:
    names = list(label_names)
    if labels is None:
        return frame.assign(**dict.fromkeys(names, np.nan), label_source=None)
    num_absent = int((~labels["image_id"].isin(frame["image_id"])).sum())
    if num_absent:
        logger.warning("%s without a file", count(num_absent, "labelled image"))
    # A missing id must not meet another missing id.
    frame = frame.merge(labels.dropna(subset=["image_id"]), on="image_id", how="left")
    frame = frame.assign(label_source=_label_source(frame, names))
    is_known = frame["split"].eq(TRAIN_SPLIT) & frame["image_id"].notna()
    if study_labels is not None:
        is_known &= ~frame["study_id"].isin(study_labels["study_id"])
    num_unlabelled = int((is_known & frame["label_source"].isna()).sum())
    if num_unlabelled:
        logger.warning("%s without all labels", count(num_unlabelled, "training image"))
    return frame


def _label_source(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Return `slices` where all labels are known, and nothing elsewhere."""
    known = frame[list(names)].notna().all(axis=1)
    return pd.Series(LABELS_OF_SLICES, index=frame.index, dtype="str").where(known)
