"""From slices to studies: the series that represents a study, and its probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.dicom.order import SAME_POSITION_MM, gap_starts
from common.dicom.rejection import NOT_WANTED
from common.scoring.metrics import Floats
from common.scoring.study_calibration import StudyCalibration, study_features
from common.slices.table import STATUS_OK

# Head CT is mostly read in slices this far apart (RSNA 2019: 86 % of the gaps are above 4.5 mm).
USUAL_SPACING_MM = 5.0
# Slices with less brain do not count towards the length that a series covers.
MIN_BRAIN_FRACTION = 0.02
COVERAGE_STEP_MM = 20.0

# Why a slice of status ok can't be read.
DAMAGED = "damaged in the store"

SERIES_COLUMNS = (
    "study_id", "patient_id", "series_id", "store_file", "num_slices", "num_unreadable", "rows",
    "columns", "spacing_mm", "brain_mm", "num_left_out", "num_gaps", "num_same_position", "used",
    "reason",
)  # fmt: skip


def list_series(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every series, which one is used of each study, and why.

    A series here is the slices of one series id, orientation and matrix size: one store file. Of
    a study the series is used that covers the most brain, in steps of 20 mm; among equals the one
    whose slices are nearest to 5 mm apart; then the one with the most slices; then the first by
    name.

    Args:
        frame: rows of a slice table, with a bool column `readable`.

    Returns:
        `SERIES_COLUMNS`, sorted by study: spacing_mm is the median gap between slices, brain_mm the
        length along which there is brain, num_gaps the places where slices seem to be missing,
        num_same_position the slices at the position of the one before, used 0 or 1. Unreadable
        slices are counted with the largest store file of their series, or have a row of their own
        where it has none. Slices that are sound but not asked for (scouts, reformats, ...) have a
        row for each series and status, with their number in num_left_out. Slices of no known study
        have no row.
    """
    frame = frame[frame["study_id"].notna()]
    wanted = ~frame["status"].isin(NOT_WANTED) | frame["readable"].astype(bool)
    series = pd.concat([_describe(frame[wanted]), _left_out(frame[~wanted])], ignore_index=True)
    counts = ["num_slices", "num_unreadable", "num_left_out", "num_gaps", "num_same_position"]
    series[counts] = series[counts].fillna(0).astype("int64")
    return _choose(series).sort_values(["study_id", "used"], ascending=[True, False])


def list_studies(
    frame: pd.DataFrame,
    probabilities: Floats,
    series: pd.DataFrame,
    prior: Floats,
    label_names: Sequence[str],
    calibration: StudyCalibration | None = None,
) -> pd.DataFrame:
    """Return one row per study: the largest probability of the slices of its series.

    With a calibrator, its probabilities, from the largest ones, the mean of the top three and the
    number of readable slices.

    Args:
        frame: the rows given to `list_series`.
        probabilities: (n, k) of these rows.
        series: the result of `list_series`.
        prior: (k,) for studies without a readable slice.
        label_names: the k labels; the last one decides the top slice.
        calibration: of studies; None for the plain rule.

    Returns:
        study_id, patient_id, series_id, num_slices, the labels, top_image_id, and status: `ok`,
        `partial` where slices of the series could not be read, `prior` where none could.
    """
    readable_places = np.flatnonzero(frame["readable"].to_numpy(dtype=bool))
    places_of = frame.iloc[readable_places].groupby("store_file").indices
    image_ids = frame["image_id"].to_numpy(dtype=object)
    records = []
    # `used` sorts first within a study, so the first row of each represents it.
    for row in series.drop_duplicates("study_id").to_dict("records"):
        record: dict[str, Any] = {"study_id": row["study_id"], "patient_id": row["patient_id"]}
        if row["used"]:
            places = readable_places[places_of[row["store_file"]]]
            largest = _of_study(probabilities[places], calibration)
            record |= {"series_id": row["series_id"], "num_slices": len(places)}
            record["top_image_id"] = image_ids[places[np.argmax(probabilities[places, -1])]]
            record["status"] = "partial" if row["num_unreadable"] else "ok"
        else:
            largest = prior
            record |= {"series_id": None, "num_slices": 0, "top_image_id": None, "status": "prior"}
        records.append(record | dict(zip(label_names, largest, strict=True)))
    names = ("study_id", "patient_id", "series_id", "num_slices", *label_names)
    return pd.DataFrame(records, columns=[*names, "top_image_id", "status"])


def _of_study(probabilities: Floats, calibration: StudyCalibration | None) -> Floats:
    """Return the (k,) probabilities of one study from those of its slices (n, k)."""
    if calibration is None:
        return np.asarray(probabilities.max(axis=0))
    codes = np.zeros(len(probabilities), dtype=np.int64)
    return np.asarray(calibration.apply(study_features(probabilities, codes, 1))[0])


def _describe(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the properties of each series, unranked."""
    series_key = ["study_id", "series_id"]
    slices = frame[frame["readable"]].sort_values("position_mm")
    gaps_mm = slices.groupby("store_file")["position_mm"].diff()
    fractions = slices["brain_fraction"].astype("float64")
    slices = slices.assign(
        gap_mm=gaps_mm.where(gaps_mm > 0),
        has_brain=~(fractions < MIN_BRAIN_FRACTION),
        is_repeated=gaps_mm <= SAME_POSITION_MM,
    )
    series = slices.groupby([*series_key, "store_file"], as_index=False).agg(
        num_slices=("image_id", "size"),
        rows=("rows", "first"),
        columns=("columns", "first"),
        spacing_mm=("gap_mm", "median"),
        num_brain=("has_brain", "sum"),
        num_gaps=("position_mm", _num_gaps),
        num_same_position=("is_repeated", "sum"),
    )
    series["brain_mm"] = series["num_brain"] * series["spacing_mm"].fillna(USUAL_SPACING_MM)
    # A series of which nothing can be read gets its row here.
    all_series = frame.groupby(series_key, as_index=False, dropna=False).agg(
        patient_id=("patient_id", "first"),
        num_unreadable=("readable", lambda readable: int((~readable).sum())),
        statuses=("status", lambda statuses: ", ".join(sorted(set(statuses) - {STATUS_OK}))),
    )
    series = all_series.merge(series, on=series_key, how="left")
    series["num_slices"] = series["num_slices"].fillna(0).astype(int)
    series = series.sort_values("num_slices", ascending=False, kind="stable")
    series.loc[series.duplicated(series_key), "num_unreadable"] = 0
    return series.assign(num_left_out=0)


def _left_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each series and status of slices that are not asked for."""
    reasons = frame["reason"] if "reason" in frame else pd.Series(None, frame.index, dtype="str")
    by_status = frame.assign(why=reasons.fillna("")).groupby(
        ["study_id", "series_id", "status"], as_index=False, dropna=False
    )
    rows = by_status.agg(
        patient_id=("patient_id", "first"),
        num_left_out=("status", "size"),
        why=("why", lambda texts: "; ".join(sorted(set(texts) - {""})[:3])),
    )
    rows["why"] = ("left out: " + rows["status"] + ": " + rows["why"]).str.removesuffix(": ")
    return rows.assign(num_slices=0, num_unreadable=0, store_file=None).drop(columns="status")


def _num_gaps(positions_mm: pd.Series) -> int:
    """Return in how many places of a sorted series slices seem to be missing."""
    return int(gap_starts(positions_mm.to_numpy(dtype=np.float64)).sum())


def _choose(series: pd.DataFrame) -> pd.DataFrame:
    """Return the series with `used` and `reason` filled in."""
    coverage = -(series["brain_mm"] / COVERAGE_STEP_MM).astype("float64").round()
    ranked = series.assign(
        coverage=coverage.fillna(np.inf),
        distance=(series["spacing_mm"].astype("float64") - USUAL_SPACING_MM).abs().fillna(np.inf),
        fewest=-series["num_slices"],
        is_empty=series["num_slices"] == 0,
    ).sort_values(
        ["study_id", "is_empty", "coverage", "distance", "fewest", "series_id", "store_file"]
    )
    of_study = ranked.groupby("study_id")
    best, num_series = of_study.transform("first"), of_study["is_empty"].transform("size")
    num_empty = of_study["is_empty"].transform("sum")
    used = ~ranked.duplicated("study_id") & ~ranked["is_empty"]
    unreadable = "no slice can be read: " + ranked["statuses"].replace("", DAMAGED)
    if "why" in ranked:
        unreadable = ranked["why"].fillna(unreadable)
    reasons = np.select(
        [
            ranked["is_empty"],
            num_series == 1,
            num_series - num_empty == 1,
            used,
            ranked["coverage"] > best["coverage"],
            ranked["distance"] > best["distance"],
        ],
        [
            unreadable,
            "the only series",
            "the only series with slices that can be used",
            "covers the most brain, with a spacing nearest to the usual one",
            "covers less brain",
            "its spacing is farther from the usual one",
        ],
        "has no more slices than the one used",
    )
    ranked = ranked.assign(used=used.astype(int), reason=reasons)
    return ranked[list(SERIES_COLUMNS)]
