"""Makes volumes of the header table: which slices, in which order, in which store file."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from common.dicom.grouping import AMBIGUOUS, Volume, find_volumes
from common.dicom.order import IDS, INSTANCE_NUMBER, POSITION, SLICE_LOCATION
from common.dicom.rejection import NOT_WANTED
from common.dicom.upright import TURNS, turn_of
from common.errors import InputError
from common.slices.table import STATUS_OK
from common.words import count

logger = logging.getLogger(__name__)

NO_SPACING = "no_spacing"
NO_SPACING_REASON = "PixelSpacing is missing, unlike in its series"
SHARED = "its study id is that of another patient, too"
NAMES = {INSTANCE_NUMBER: "InstanceNumber", SLICE_LOCATION: "SliceLocation"}
VOLUME_COLUMNS = {
    "volume_id": "str",
    "store_file": "str",
    "rank": "int64",
    "position_mm": "float64",
    "spacing_slice": "float64",
    "order_from": "str",
    "turned": "str",
    "grouping": "str",
}


def keep_selected(index: pd.DataFrame, select: Collection[str]) -> pd.DataFrame:
    """Return the header table with the slices of the named series as usable ones.

    Raises:
        InputError: there is no such series.
    """
    unknown = sorted(set(select) - set(index["series_id"].dropna()))
    if unknown:
        raise InputError(
            f"--pre_select: {unknown[0]} is not in the data ({count(len(unknown), 'unknown id')}): "
            f"give SeriesInstanceUIDs, as in series.csv"
        )
    if not select:
        return index
    selected = index["series_id"].isin(select)
    # Only slices that were left out for their words or their plane have all of a header.
    kept = selected & index["status"].isin(NOT_WANTED) & index["rows"].notna()
    index = index.assign(selected=selected)
    index.loc[kept, "reason"] = "kept by --pre_select: " + index.loc[kept, "status"]
    index.loc[kept, "status"] = STATUS_OK
    return index


def separate_patients(headers: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a study id for each patient where several share one.

    Within a study, ids that differ in case or spaces alone are one, in the spelling that sorts
    first. Where there is no id, patients differ by name and birth date.
    """
    headers = _with_one_spelling(headers)
    patients = headers["patient_id"]
    with_id = headers.loc[patients.notna(), "study_id"]
    patients = patients.fillna(headers["patient_hash"].mask(headers["study_id"].isin(with_id)))
    num_patients = patients.groupby(headers["study_id"]).nunique()
    shared = num_patients[num_patients > 1]
    if shared.empty:
        return headers
    chosen = headers["study_id"].isin(shared.index) & patients.notna()
    hashes = patients[chosen].map(lambda name: hashlib.sha256(name.encode()).hexdigest()[:8])
    headers.loc[chosen, "study_id"] = headers.loc[chosen, "study_id"] + "_" + hashes
    headers["grouping"] = pd.Series(SHARED, headers.index, dtype="str").where(chosen)
    logger.warning("%s of several patients: one study each", count(len(shared), "StudyInstanceUID"))
    return headers


def _with_one_spelling(headers: pd.DataFrame) -> pd.DataFrame:
    studies = headers.groupby("study_id")["patient_id"].nunique()
    chosen = headers["study_id"].isin(studies.index[studies > 1]) & headers["patient_id"].notna()
    if not chosen.any():
        return headers
    ids = headers.loc[chosen, ["study_id", "patient_id"]]
    folded = ids["patient_id"].str.casefold().str.split().str.join(" ")
    first = ids["patient_id"].groupby([ids["study_id"], folded]).transform("min")
    headers = headers.copy()
    headers.loc[chosen, "patient_id"] = first
    return headers


def arrange(
    headers: pd.DataFrame, *, keep_ambiguous: bool, needs_spacing: bool
) -> tuple[pd.DataFrame, list[int]]:
    """Return the table with `VOLUME_COLUMNS`, and the numbers of rows that nothing separates.

    Rows that belong to no volume have rank -1 and no store file. Rows and columns, and spacings,
    are those of the image as it is stored, upright.

    Args:
        headers: one row per slice or file, those with status ok have an image id each.
        needs_spacing: reject slices without pixel spacing in a volume that has one.
    """
    headers = headers.reset_index(drop=True)
    usable = np.flatnonzero(headers["status"].eq(STATUS_OK))
    chosen = headers.iloc[usable].reset_index(drop=True)
    grouping = find_volumes(chosen, keep_ambiguous=keep_ambiguous)
    is_missing = chosen["spacing_row"].isna().to_numpy() & needs_spacing
    volumes, without_spacing = _with_spacing(grouping.volumes, is_missing)
    columns = _volume_columns(volumes, chosen).set_axis(usable).reindex(headers.index)
    columns["rank"] = columns["rank"].fillna(-1)
    headers = headers.assign(**columns.astype(VOLUME_COLUMNS))
    _swap_sides(headers)
    _add_notes(headers, {usable[row]: note for row, note in _notes_on_order(volumes).items()})
    for row, reason in grouping.refused.items():
        headers.loc[usable[row], ["status", "reason"]] = [AMBIGUOUS, reason]
    headers.loc[usable[without_spacing], "status"] = NO_SPACING
    headers.loc[usable[without_spacing], "reason"] = NO_SPACING_REASON
    return headers, [int(usable[row]) for row in grouping.refused]


def _with_spacing(
    volumes: Sequence[Volume], is_missing: np.ndarray
) -> tuple[list[Volume], list[int]]:
    """Return the volumes without the slices that lack a spacing which others have, and these."""
    lacking = [is_missing[volume.rows] for volume in volumes]
    lacking = [own & (not own.all()) for own in lacking]
    rejected = [row for volume, own in zip(volumes, lacking) for row in volume.rows[own].tolist()]
    return [volume.part(~own) for volume, own in zip(volumes, lacking)], rejected


def _volume_columns(volumes: Sequence[Volume], chosen: pd.DataFrame) -> pd.DataFrame:
    """Return `VOLUME_COLUMNS` by usable row, null where it is in no volume."""
    texts = {name: chosen[name].to_numpy(dtype=object) for name in ("study_id", "image_id")}
    orientations = chosen["orientation"].fillna("").to_numpy(dtype=object)
    shared = chosen.get("grouping", pd.Series(None, chosen.index, dtype="str")).fillna("")
    columns = {name: np.full(len(chosen), None, dtype=object) for name in VOLUME_COLUMNS}
    for volume in volumes:
        rows = volume.rows
        name = _name(volume, texts["study_id"], texts["image_id"])
        orientation = next(filter(None, orientations[rows]), "")
        reasons = filter(None, (shared[rows[0]], volume.note))
        columns["volume_id"][rows] = name
        columns["store_file"][rows] = f"{name}.b2nd"
        columns["rank"][rows] = np.arange(len(rows))
        columns["order_from"][rows] = volume.order_from
        columns["grouping"][rows] = "; ".join(reasons) or None
        columns["turned"][rows] = TURNS[turn_of(orientation)] or None
        if volume.coordinate == POSITION:
            columns["position_mm"][rows] = volume.places
            columns["spacing_slice"][rows] = volume.step
    return pd.DataFrame(columns)


def _notes_on_order(volumes: Sequence[Volume]) -> dict[int, str]:
    """Return by usable row what is odd about how its place was found."""
    notes: dict[int, str] = {}
    for volume in volumes:
        if volume.coordinate == POSITION:
            notes |= {
                row: f"has no ImagePositionPatient: placed by its {NAMES[source]}"
                for row, source in zip(volume.rows, volume.order_from)
                if source != POSITION
            }
        elif volume.coordinate == IDS and len(volume.rows) > 1:
            notes |= dict.fromkeys(
                volume.rows, "nothing tells where it lies: in the order of the ids"
            )
    return notes


def _swap_sides(headers: pd.DataFrame) -> None:
    """Swap rows and columns, and their spacings, where turning the image does, in place."""
    swapped = headers["turned"].isin([text for turn, text in TURNS.items() if turn[0]])
    for one, other in (("rows", "columns"), ("spacing_row", "spacing_column")):
        headers.loc[swapped, [other, one]] = headers.loc[swapped, [one, other]].to_numpy()


def _add_notes(headers: pd.DataFrame, notes: Mapping[int, str]) -> None:
    """Append notes by row to the column `note`, in place."""
    before = headers["note"].loc[list(notes)].fillna("").tolist()
    headers.loc[list(notes), "note"] = [
        "; ".join(filter(None, pair)) for pair in zip(before, notes.values())
    ]


def _name(volume: Volume, studies: np.ndarray, ids: np.ndarray) -> str:
    """Return a hash that is the same for the same slices, wherever their files lie."""
    first = min((studies[row], ids[row]) for row in volume.rows)
    return hashlib.sha256(repr(first).encode()).hexdigest()[:24]
