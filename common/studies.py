"""From slices to studies: which series speaks for a study, and what it says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.metrics import Floats

# Head CT is mostly read in slices this far apart (RSNA 2019: 86 % of the gaps are above 4.5 mm).
USUAL_SPACING_MM = 5.0
# A slice with less brain than this in it says little about the length that a series covers.
MIN_BRAIN_FRACTION = 0.02
COVERAGE_STEP_MM = 20.0

SERIES_COLUMNS = (
    "study_id", "patient_id", "series_id", "store_file", "num_slices", "num_unreadable", "rows",
    "columns", "spacing_mm", "brain_mm", "used", "reason",
)  # fmt: skip


def list_series(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns every series seen, which one is used of each study, and why.

    A series here is the slices of one series id, orientation and matrix size: one store file. Of
    a study the series is used that covers the most brain, in steps of 20 mm; among equals the one
    whose slices are nearest to 5 mm apart; then the one with the most slices; then the first by
    name.

    Args:
        frame: rows of a slice table that have a study id, with a bool column `readable`.

    Returns:
        `SERIES_COLUMNS`, sorted by study: spacing_mm is the median gap between slices, brain_mm the
        length along which there is brain, used 0 or 1. Unreadable slices are counted with the
        largest store file of their series, or have a row of their own where it has none.
    """
    records = []
    for (study_id, series_id), rows in frame.groupby(["study_id", "series_id"], sort=True):
        readable = rows[rows["readable"]]
        groups = [group for _, group in readable.groupby("store_file", sort=True)]
        described = [_describe(group) for group in groups] or [{"num_slices": 0}]
        largest = max(described, key=lambda group: group["num_slices"])
        largest["num_unreadable"] = len(rows) - len(readable)
        patient_id = rows["patient_id"].iloc[0]
        ids = {"study_id": study_id, "patient_id": patient_id, "series_id": series_id}
        records += [{"num_unreadable": 0, **ids, **group} for group in described]
    series = pd.DataFrame(records, columns=list(SERIES_COLUMNS))
    return _choose(series).sort_values(["study_id", "used"], ascending=[True, False])


def list_studies(
    frame: pd.DataFrame,
    probabilities: Floats,
    series: pd.DataFrame,
    prior: Floats,
    label_names: Sequence[str],
) -> pd.DataFrame:
    """Returns one row per study: the largest probability of the slices of its series.

    Args:
        frame: the rows that `list_series` was given.
        probabilities: (n, k) of these rows.
        series: what it returned.
        prior: (k,) for studies of which nothing could be read.
        label_names: the k labels; the last one says which slice is the top one.

    Returns:
        study_id, patient_id, series_id, num_slices, the labels, top_image_id, and status: `ok`,
        `partial` where slices of the series could not be read, `prior` where none could.
    """
    places_of = frame.reset_index(drop=True).query("readable").groupby("store_file").indices
    readable_places = np.flatnonzero(frame["readable"].to_numpy(dtype=bool))
    image_ids = frame["image_id"].to_numpy(dtype=object)
    records = []
    # `used` sorts first within a study, so the first row of each is the one that speaks for it.
    for row in series.drop_duplicates("study_id").to_dict("records"):
        record: dict[str, Any] = {"study_id": row["study_id"], "patient_id": row["patient_id"]}
        if row["used"]:
            places = readable_places[places_of[row["store_file"]]]
            largest = probabilities[places].max(axis=0)
            record |= {"series_id": row["series_id"], "num_slices": len(places)}
            record["top_image_id"] = image_ids[places[np.argmax(probabilities[places, -1])]]
            record["status"] = "partial" if row["num_unreadable"] else "ok"
        else:
            largest = prior
            record |= {"series_id": None, "num_slices": 0, "top_image_id": None, "status": "prior"}
        records.append(record | dict(zip(label_names, largest, strict=True)))
    names = ("study_id", "patient_id", "series_id", "num_slices", *label_names)
    return pd.DataFrame(records, columns=[*names, "top_image_id", "status"])


def _describe(group: pd.DataFrame) -> dict[str, Any]:
    """Returns what is to be known of the readable slices of one store file."""
    positions_mm = np.sort(group["position_mm"].dropna().to_numpy(dtype=np.float64))
    gaps_mm = np.diff(positions_mm)
    spacing_mm = float(np.median(gaps_mm[gaps_mm > 0])) if (gaps_mm > 0).any() else np.nan
    fractions = group["brain_fraction"].to_numpy(dtype=np.float64, na_value=np.nan)
    num_brain = int(np.sum(np.isnan(fractions) | (fractions >= MIN_BRAIN_FRACTION)))
    return {
        "store_file": group["store_file"].iloc[0],
        "num_slices": len(group),
        "rows": group["rows"].iloc[0],
        "columns": group["columns"].iloc[0],
        "spacing_mm": spacing_mm,
        "brain_mm": num_brain * (USUAL_SPACING_MM if np.isnan(spacing_mm) else spacing_mm),
    }


def _choose(series: pd.DataFrame) -> pd.DataFrame:
    """Returns the series with `used` and `reason` filled in."""
    coverage = -(series["brain_mm"] / COVERAGE_STEP_MM).astype("float64").round()
    ranked = series.assign(
        coverage=coverage.fillna(np.inf),
        distance=(series["spacing_mm"].astype("float64") - USUAL_SPACING_MM).abs().fillna(np.inf),
        fewest=-series["num_slices"],
        is_empty=series["num_slices"] == 0,
    ).sort_values(
        ["study_id", "is_empty", "coverage", "distance", "fewest", "series_id", "store_file"]
    )
    best = ranked.groupby("study_id").transform("first")
    used = ~ranked.duplicated("study_id") & ~ranked["is_empty"]
    reasons = np.select(
        [
            ranked["is_empty"],
            used,
            ranked["coverage"] > best["coverage"],
            ranked["distance"] > best["distance"],
        ],
        [
            "no slice can be read",
            "covers the most brain, with a spacing nearest to the usual one",
            "covers less brain",
            "its spacing is farther from the usual one",
        ],
        "has no more slices than the one used",
    )
    ranked = ranked.assign(used=used.astype(int), reason=reasons)
    return ranked[list(SERIES_COLUMNS)]
