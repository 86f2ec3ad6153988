"""From slices to studies: the volume that represents a study, and its probabilities."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.dicom.order import SAME_POSITION_MM, gap_starts
from common.dicom.rejection import NOT_WANTED
from common.scoring.metrics import Floats
from common.scoring.study_calibration import StudyCalibration, study_probabilities
from common.slices.table import STATUS_OK
from common.words import count

# Head CT is mostly read in slices this far apart (RSNA 2019: 86 % of the gaps are above 4.5 mm).
USUAL_SPACING_MM = 5.0
# Slices with less brain do not count towards the length that a series covers.
MIN_BRAIN_FRACTION = 0.02
COVERAGE_STEP_MM = 20.0

# Why a slice of status ok can't be read.
DAMAGED = "damaged in the store"

# A volume is as sharp as one for bone where neighbouring pixels differ this much more than in the
# least sharp volume of the study, where headers are silent.
SHARPER = 1.2
# A study is whole where no more than this, or two slices, of the head that was sent is not seen.
LARGEST_MISSING_MM = 10.0
NO_CT = "no_ct"
# Columns that are looked at, and those that datasets of earlier versions, and most tests, lack.
_NEEDED = (
    "study_id", "patient_id", "series_id", "image_id", "store_file", "status", "readable", "rows",
    "columns", "position_mm", "brain_fraction",
)  # fmt: skip
_OPTIONAL = (
    "frame_of_reference", "volume_id", "kernel", "grouping", "is_sharp", "sharpness", "selected",
    "reason",
)  # fmt: skip

# A volume has these from its first slice with a value.
_OF_FIRST = (
    "patient_id", "series_id", "volume_id", "kernel", "grouping", "is_sharp", "rows", "columns",
)  # fmt: skip

SERIES_COLUMNS = (
    "study_id", "patient_id", "series_id", "volume_id", "store_file", "kernel", "num_slices",
    "num_found", "num_unreadable", "rows", "columns", "spacing_mm", "brain_mm", "coverage_mm",
    "num_left_out", "num_gaps", "num_same_position", "grouping", "used", "reason",
)  # fmt: skip

_COUNTS = ("num_slices", "num_unreadable", "num_left_out", "num_gaps", "num_same_position")
_TYPES = {
    **dict.fromkeys(("statuses", "why", "left_out", "kernel", "grouping"), "str"),
    **dict.fromkeys(("spacing_mm", "brain_mm", "coverage_mm", "sharpness"), "float64"),
    **dict.fromkeys(_COUNTS, "int64"),
}


def list_series(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every volume, which one is used of each study, and why.

    Of a study the volume is used that --pre_select names; else the one that covers the most brain,
    in steps of 20 mm; among equals one that is not reconstructed for bone; then the one whose
    slices are nearest to 5 mm apart; then the one with the most slices; then the first by name.

    Args:
        frame: rows of a slice table, with a bool column `readable`.

    Returns:
        `SERIES_COLUMNS`, sorted by study: spacing_mm is the median gap between slices, brain_mm the
        length along which there is brain, coverage_mm the length of head of the whole study that
        the volume shows, num_gaps the places where slices seem to be missing, or show nothing of
        the brain between others that do, num_same_position the slices at the position of the one
        before, num_found the slices of the volume with those that can't be read, used 0 or 1.
        Unreadable slices are counted with their volume, or the largest of their series, or have a
        row of their own where it has none. Slices that are sound but not asked for (scouts,
        reformats, ...) have a row for each series and status, with their number in num_left_out.
        Slices of no known study have no row.
    """
    # Each step copies every column: without the others it takes half the time.
    frame = frame[[*_NEEDED, *(name for name in _OPTIONAL if name in frame)]]
    frame = frame[frame["study_id"].notna()]
    frame = frame.assign(**{name: None for name in _OPTIONAL if name not in frame})
    stems = frame["store_file"].astype("str").str.removesuffix(".b2nd")
    frame["volume_id"] = frame["volume_id"].fillna(stems.where(frame["store_file"].notna()))
    wanted = ~frame["status"].isin(NOT_WANTED) | frame["readable"].astype(bool)
    series = _describe(frame[wanted])
    if not wanted.all():
        parts = [series, _left_out(frame[~wanted])]
        series = pd.concat([part for part in parts if len(part)], ignore_index=True)
    known = (*SERIES_COLUMNS, "statuses", "why", "left_out", "selected", "sharpness", "is_sharp")
    series = series.reindex(columns=list(dict.fromkeys(known)))
    # Setting a type that is there is slow.
    types = {name: kind for name, kind in _TYPES.items() if series[name].dtype != kind}
    series = series.fillna({name: 0 for name in types if name in _COUNTS}).astype(types)
    series["num_found"] = series["num_slices"] + series["num_unreadable"]
    return _choose(series)


def used_rows(frame: pd.DataFrame, series: pd.DataFrame) -> NDArray[np.bool_]:
    """Return (n,): the readable rows of the volumes that stand for their studies."""
    used = series.loc[series["used"] == 1, "store_file"]
    return (frame["readable"] & frame["store_file"].isin(used)).to_numpy(dtype=bool)


def list_studies(
    frame: pd.DataFrame,
    probabilities: Floats,
    series: pd.DataFrame,
    prior: Floats,
    label_names: Sequence[str],
    calibration: StudyCalibration | None = None,
    of_series: Floats | None = None,
) -> pd.DataFrame:
    """Return one row per study: what `study_probabilities` makes of the slices of its volume.

    Args:
        frame: the rows given to `list_series`.
        probabilities: (n, k) of these rows.
        prior: (k,) of studies, for those of which no slice can be read.
        label_names: the k labels; the last one decides the top slice.
        calibration: of studies; None for the plain rule.
        of_series: (n, k) probabilities of the series of each row, where a network gives its own:
            they stand for the largest slice.

    Returns:
        study_id, patient_id, series_id, volume_id, num_slices, num_found, coverage_mm, num_gaps,
        the labels, top_image_id, status, reason, and number, the place in this table from 1, by
        which pages name studies. The status is `ok` for a study that was seen
        whole, `partial` where it was predicted from less than the head that was sent, `prior`
        where no slice could be read, and `no_ct`, without probabilities, where nothing of it is
        CT of a head that can be used.
    """
    used = np.flatnonzero(used_rows(frame, series))
    codes, files = pd.factorize(frame["store_file"].iloc[used])
    own = None if of_series is None else of_series[used]
    values = study_probabilities(probabilities[used], codes, len(files), calibration, own)
    values_of = dict(zip(files, values, strict=True))
    places_of = frame.iloc[used].groupby("store_file").indices
    image_ids = frame["image_id"].to_numpy(dtype=object)
    num_lost = series["num_unreadable"].groupby(series["study_id"]).sum()
    sent_mm = series["coverage_mm"].groupby(series["study_id"]).max()
    records = []
    # `used` sorts first within a study, so the first row of each represents it.
    for row in series.drop_duplicates("study_id").to_dict("records"):
        study = row["study_id"]
        record: dict[str, Any] = {"study_id": study, "patient_id": row["patient_id"]}
        if row["used"]:
            places = used[places_of[row["store_file"]]]
            p = values_of[row["store_file"]]
            record |= {name: row[name] for name in _OF_VOLUME}
            record["top_image_id"] = image_ids[places[np.argmax(probabilities[places, -1])]]
            record["reason"] = _why_partial(row, int(num_lost[study]), float(sent_mm[study]))
            record["status"] = "partial" if record["reason"] else "ok"
        else:
            is_lost = num_lost[study] > 0
            p = prior if is_lost else np.full(len(prior), np.nan)
            record |= {"num_slices": 0, "num_found": int(num_lost[study])}
            record |= {"status": "prior" if is_lost else NO_CT, "reason": row["reason"]}
        records.append(record | dict(zip(label_names, p, strict=True)))
    names = ("study_id", "patient_id", *_OF_VOLUME, *label_names, "top_image_id", "status")
    studies = pd.DataFrame(records, columns=[*names, "reason"])
    studies["number"] = np.arange(1, len(studies) + 1)
    return studies.astype(dict.fromkeys(("num_slices", "num_found", "num_gaps"), "Int64"))


_OF_VOLUME = ("series_id", "volume_id", "num_slices", "num_found", "coverage_mm", "num_gaps")


def _why_partial(row: Mapping[Any, Any], num_lost: int, sent_mm: float) -> str:
    """Return why a study was predicted from less than the head that was sent; empty if it was not.

    Args:
        row: of the volume that is used.
        num_lost: slices of the study that can't be read.
        sent_mm: length of head in all volumes of the study.
    """
    reasons = []
    if num_lost:
        own = row["num_unreadable"]
        of_others = f", {num_lost - own} of them of other series" if num_lost > own else ""
        reasons.append(f"{count(num_lost, 'slice')} can't be read{of_others}")
    if row["num_gaps"]:
        reasons.append(f"slices seem to be missing or blank in {count(row['num_gaps'], 'place')}")
    missing_mm = sent_mm - row["brain_mm"]
    spacing_mm = row["spacing_mm"] if row["spacing_mm"] == row["spacing_mm"] else 0.0
    if missing_mm > max(LARGEST_MISSING_MM, 2 * spacing_mm):
        reasons.append(f"{row['brain_mm']:.0f} of {sent_mm:.0f} mm of the head are in this volume")
    return "; ".join(reasons)


def _describe(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the properties of each volume, unranked."""
    slices = frame[frame["readable"]].sort_values(["store_file", "position_mm"], kind="stable")
    groups = slices.groupby("store_file")
    volumes = groups[["study_id", *_OF_FIRST]].first().reset_index()
    positions = slices["position_mm"].to_numpy(dtype=np.float64)
    fractions = slices["brain_fraction"].to_numpy(dtype=np.float64)
    has_brain = ~(fractions < MIN_BRAIN_FRACTION)
    sharpness = slices["sharpness"].to_numpy(dtype=np.float64)
    selected = slices["selected"].eq(True).to_numpy(dtype=bool, na_value=False)
    spans, measured = np.full((len(slices), 2), np.nan), []
    ends = np.cumsum(groups.size().to_numpy(dtype=np.int64))
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        own = slice(start, end)
        spans[own], found = _measure(positions[own], has_brain[own])
        found["num_gaps"] += _num_blank_runs(fractions[own] == 0, has_brain[own])
        of_all = {"sharpness": _median(sharpness[own]), "selected": bool(selected[own].any())}
        measured.append(found | of_all | {"num_slices": end - start})
    volumes = volumes.join(pd.DataFrame(measured, columns=list(_MEASURED)))
    slices = slices.assign(low=spans[:, 0], high=spans[:, 1])[has_brain & ~np.isnan(positions)]
    volumes["coverage_mm"] = _coverage(slices, volumes)
    return _with_unreadable(volumes, frame[~frame["readable"].astype(bool)]).assign(num_left_out=0)


_MEASURED = (
    "spacing_mm", "brain_mm", "num_gaps", "num_same_position", "sharpness", "selected",
    "num_slices",
)  # fmt: skip


def _measure(positions_mm: Floats, has_brain: NDArray[np.bool_]) -> tuple[Floats, dict[str, float]]:
    """Return what follows from the sorted positions of a volume.

    Returns:
        (n, 2) the ends in mm of the head that each slice stands for: half way to its neighbours;
        towards a gap or an end, as far as to the other side; where no positions differ, half the
        usual spacing. And columns of the volume.
    """
    gaps = np.diff(positions_mm)
    is_before_gap = gap_starts(positions_mm)
    spacing = _median(gaps[gaps > 0])
    below, above = np.append(np.nan, gaps), np.append(gaps, np.nan)
    below[1:][is_before_gap[:-1]] = above[is_before_gap] = np.nan
    below, above = _filled(_filled(below, above), spacing), _filled(_filled(above, below), spacing)
    if np.isnan(spacing):
        below = above = np.full(len(positions_mm), USUAL_SPACING_MM)
    found = {
        "spacing_mm": spacing,
        "brain_mm": math.fsum((below + above)[has_brain] / 2),
        "num_gaps": int(is_before_gap.sum()),
        "num_same_position": int((gaps <= SAME_POSITION_MM).sum()),
    }
    return np.stack([positions_mm - below / 2, positions_mm + above / 2], axis=1), found


def _num_blank_runs(is_blank: NDArray[np.bool_], has_brain: NDArray[np.bool_]) -> int:
    """Return the runs of slices without any brain that lie between slices that show it."""
    shown = np.flatnonzero(has_brain)
    between = is_blank[shown[0] : shown[-1]] if len(shown) else is_blank[:0]
    return int(np.sum(between[1:] & ~between[:-1]))


def _filled(values: Floats, others: Floats | float) -> Floats:
    return np.where(np.isnan(values), others, values)


def _median(values: Floats) -> float:
    """Return the median of those that are known; NaN of none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


def _coverage(slices: pd.DataFrame, volumes: pd.DataFrame) -> list[float]:
    """Return the length of brain in mm that all volumes of a study show together, for each volume.

    Volumes of other frames of reference lie at other coordinates: only their own length counts.

    Args:
        slices: those with brain whose position is known, and `low` and `high`, the ends of what
            each stands for.
    """
    is_second = volumes["study_id"].duplicated()
    if not is_second.any():
        return volumes["brain_mm"].to_list()
    together = volumes.groupby("study_id")["brain_mm"].max().to_dict()
    is_several = slices["study_id"].isin(volumes.loc[is_second, "study_id"])
    spans = slices[is_several].sort_values("low", kind="stable")
    for (study, _), group in spans.groupby(["study_id", "frame_of_reference"], dropna=False):
        reached = group["high"].cummax().shift(fill_value=-np.inf)
        seen = (group["high"] - np.maximum(group["low"], reached)).clip(lower=0).sum()
        together[study] = max(together[study], float(seen))
    return [together[study] for study in volumes["study_id"]]


def _with_unreadable(volumes: pd.DataFrame, lost: pd.DataFrame) -> pd.DataFrame:
    """Return the volumes with the number of their unreadable slices, and rows for the others."""
    if lost.empty:
        return volumes.assign(num_unreadable=0)
    by_size = volumes.sort_values("num_slices", ascending=False, kind="stable")
    largest = by_size.drop_duplicates(["study_id", "series_id"])
    of_series = largest.set_index(["study_id", "series_id"])["volume_id"]
    keys = pd.MultiIndex.from_frame(lost[["study_id", "series_id"]])
    known = lost["volume_id"].where(lost["volume_id"].isin(volumes["volume_id"]))
    owners = known.fillna(pd.Series(of_series.reindex(keys).to_numpy(), lost.index))
    volumes = volumes.assign(num_unreadable=volumes["volume_id"].map(owners.value_counts()))
    alone = lost[owners.isna()].groupby(["study_id", "series_id"], as_index=False, dropna=False)
    rows = alone.agg(
        patient_id=("patient_id", "first"),
        num_unreadable=("status", "size"),
        statuses=("status", lambda statuses: ", ".join(sorted(set(statuses) - {STATUS_OK}))),
        why=("reason", lambda reasons: "; ".join(sorted(set(reasons.dropna()))[:2])),
    )
    parts = [part for part in (volumes, rows.assign(num_slices=0)) if len(part)]
    return pd.concat(parts or [volumes], ignore_index=True)


def _left_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each series and status of slices that are not asked for."""
    by_status = frame.assign(why=frame["reason"].fillna("")).groupby(
        ["study_id", "series_id", "status"], as_index=False, dropna=False
    )
    rows = by_status.agg(
        patient_id=("patient_id", "first"),
        num_left_out=("status", "size"),
        why=("why", lambda texts: "; ".join(sorted(set(texts) - {""})[:3])),
    )
    rows["left_out"] = ("left out: " + rows["status"] + ": " + rows["why"]).str.removesuffix(": ")
    return rows.assign(num_slices=0, num_unreadable=0, store_file=None).drop(
        columns=["status", "why"]
    )


def _choose(series: pd.DataFrame) -> pd.DataFrame:
    """Return the series with `used` and `reason` filled in, by study, the best first."""
    sharpness = series["sharpness"]
    lowest = sharpness.groupby(series["study_id"]).transform("min")
    by_header = series["is_sharp"].astype("boolean")
    ranked = series.assign(
        is_empty=series["num_slices"] == 0,
        is_other=~series["selected"].eq(True).to_numpy(dtype=bool, na_value=False),
        coverage=-(series["brain_mm"] / COVERAGE_STEP_MM).round().fillna(-np.inf),
        is_sharp=by_header.fillna(sharpness > SHARPER * lowest).astype(bool),
        by_header=by_header.notna(),
        distance=(series["spacing_mm"] - USUAL_SPACING_MM).abs().fillna(np.inf),
        fewest=-series["num_slices"],
    ).sort_values(
        ["study_id", "is_empty", "is_other", "coverage", "is_sharp", "distance", "fewest"]
        + ["series_id", "store_file"]
    )
    ranked["used"] = (~ranked.duplicated("study_id") & ~ranked["is_empty"]).astype(int)
    studies = itertools.groupby(ranked.itertuples(), key=lambda volume: volume.study_id)
    groups = [list(volumes) for _, volumes in studies]
    reasons = [_reason(volume, study) for study in groups for volume in study]
    ranked["reason"] = pd.Series(reasons, ranked.index, dtype="str")
    return ranked[list(SERIES_COLUMNS)]


def _reason(volume: Any, study: Sequence[Any]) -> str:
    """Return why a volume is used or not; `study` has all of its study, the best first."""
    best = study[0]
    kernel = " (by the noise between its pixels)"
    if volume.by_header and not pd.isna(volume.kernel):
        kernel = f" (kernel {volume.kernel})"
    unreadable = f"no slice can be read: {volume.statuses or DAMAGED}"
    if not pd.isna(volume.why) and volume.why:
        unreadable += f": {volume.why}"
    reasons = (
        (volume.is_empty, unreadable if pd.isna(volume.left_out) else volume.left_out),
        (len(study) == 1, "the only series"),
        (len(study) > 1 and study[1].is_empty, "the only series with slices that can be used"),
        (volume.used and not volume.is_other, "named by --pre_select"),
        (
            volume.used and not volume.is_sharp and any(one.is_sharp for one in study),
            f"covers the most brain, reconstructed for soft tissue{kernel}",
        ),
        (volume.used, "covers the most brain, with a spacing nearest to the usual one"),
        (volume.is_other and not best.is_other, "--pre_select names another"),
        (volume.coverage > best.coverage, "covers less brain"),
        (volume.is_sharp and not best.is_sharp, f"reconstructed for bone{kernel}"),
        (volume.distance > best.distance, "its spacing is farther from the usual one"),
        (True, "has no more slices than the one used"),
    )
    reason = next(reason for holds, reason in reasons if holds)
    return reason if pd.isna(volume.grouping) else f"{reason}; {volume.grouping}"
