"""Tables of headers: sizes, spacing, bit families, gaps, tilt, windows, and what was rejected.

Functions take the frame of a slice table; they read no pixels. Reasons are shown without the paths
and identifiers that may be in them.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from common.preparation.identity import DUPLICATE
from common.slices.table import STATUS_OK

# A gap this much larger than the usual one of its series: a slice may be missing.
LARGE_GAP = 1.5
# Gaps that differ by less than this are the same gap.
_SAME_GAP_MM = 0.1
TILTED_DEG = 0.5
# A status with more reasons than this has them told without their numbers.
_MOST_REASONS = 8

_BITS = ("bits_stored", "pixel_representation", "rescale_slope", "rescale_intercept")
_PATH = re.compile(r"[^\s'\"]*[/\\][^'\"]*\.\w+")
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")


def with_pixels(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the slices whose pixels are in the store."""
    return frame[frame["status"].eq(STATUS_OK) & frame["store_index"].notna()]


def status_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the number of rows by status, the usable ones first, and split."""
    counts = pd.crosstab(frame["status"].fillna("–"), frame["split"].fillna("–"))
    counts = counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False)
    usable_first = np.argsort(np.asarray(counts.index) != STATUS_OK, kind="stable")
    return counts.iloc[usable_first].rename_axis(index="status", columns=None)


def reason_counts(frame: pd.DataFrame, most: int = 60) -> pd.DataFrame:
    """Return status, reason and number of slices of every rejection and every note.

    A status with many reasons has them with # in place of numbers. Beyond the `most` frequent
    ones the last row counts what is left.
    """
    told = frame[frame["reason"].notna()]
    told = told.assign(reason=pd.Series(_without_identity(told), told.index, dtype="str"))
    by_status = told.groupby("status")["reason"].transform("nunique")
    short = told["reason"].str.replace(r"\d+(?:\.\d+)?", "#", regex=True)
    told = told.assign(reason=told["reason"].where(by_status <= _MOST_REASONS, short))
    counts = told.groupby(["status", "reason"]).size().rename("slices").reset_index()
    counts = counts.sort_values(["slices", "status", "reason"], ascending=[False, True, True])
    if len(counts) > most:
        num, reason = counts["slices"].iloc[most:].sum(), f"{len(counts) - most} other reasons"
        last = pd.DataFrame([{"status": "", "reason": reason, "slices": num}])
        counts = pd.concat([counts.iloc[:most], last])
    return counts.reset_index(drop=True)


def groups_of(frame: pd.DataFrame) -> pd.Series:
    """Return what slices are compared by: their source where the table has one, else the split."""
    column = "source" if "source" in frame else "split"
    return frame[column].fillna("–").astype("str")


def overview(frame: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Return one row per value of `by` (aligned with `frame`): sizes, geometry and intensities."""
    frame = with_pixels(frame)
    by = by.loc[frame.index]
    gaps = slice_gaps(frame)
    groups = frame.groupby(by)
    tilted = (frame["tilt_deg"].abs() > TILTED_DEG).astype("float64")
    table = pd.DataFrame(
        {
            "slices": groups.size(),
            "series": groups["store_file"].nunique(),
            "studies": groups["study_id"].nunique(),
            "patients": groups["patient_id"].nunique(),
            "matrix, most frequent": groups.apply(lambda own: str(sizes(own).mode().iat[0])),
            "pixel spacing, median mm": groups["spacing_row"].median(),
            "slice gap, median mm": gaps["gap_mm"].groupby(by.loc[gaps.index]).median(),
            "slices with tilt, %": 100 * tilted.where(frame["tilt_deg"].notna()).groupby(by).mean(),
            "mean HU, median": groups["hu_mean"].median(),
            "brain, median share": groups["brain_fraction"].median(),
        }
    )
    return table.sort_values("slices", ascending=False)


def compare(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the `overview` of several datasets, one row each, by the name given to it."""
    parts = [overview(frame, pd.Series(name, frame.index)) for name, frame in frames.items()]
    return pd.concat(parts).rename_axis("dataset")


def top_counts(values: pd.Series, by: pd.Series, most: int = 15) -> pd.DataFrame:
    """Return how often each value occurs, in all and by group, the most frequent first.

    Beyond `most` values the last row counts what is left.
    """
    groups = by.loc[values.index]
    counts = pd.crosstab(values, groups)
    counts.insert(0, "slices", counts.sum(axis=1))
    # One group says nothing that the sum does not.
    counts = counts if groups.nunique() > 1 else counts[["slices"]]
    counts = counts.sort_values("slices", ascending=False, kind="stable")
    if len(counts) > most:
        rest = counts.iloc[most:]
        counts = pd.concat([counts.iloc[:most], rest.sum().to_frame(f"{len(rest)} others").T])
    return counts.astype("int64").rename_axis(index=str(values.name), columns=None)


def sizes(frame: pd.DataFrame) -> pd.Series:
    """Return the matrix of each slice with pixels, as "rows x columns"."""

    def words(values: tuple[float, ...]) -> str:
        return " x ".join("unknown" if np.isnan(value) else f"{value:g}" for value in values)

    return _by_combination(with_pixels(frame), ("rows", "columns"), words).rename("matrix")


def bit_families(frame: pd.DataFrame) -> pd.Series:
    """Return how each slice with pixels stores its values, in words.

    Such as "12 bits, unsigned, slope 1, intercept -1024"; what a file does not say is "unknown".
    """
    return _by_combination(with_pixels(frame), _BITS, _family_words).rename("bit family")


def windows(frame: pd.DataFrame) -> pd.Series:
    """Return the first window of each slice with pixels, as "center / width"."""

    def words(values: tuple[float, ...]) -> str:
        return "none" if np.isnan(values).any() else f"{values[0]:g} / {values[1]:g}"

    columns = ("window_center", "window_width")
    return _by_combination(with_pixels(frame), columns, words).rename("center / width")


def slice_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per two neighbouring slices: gap_mm, and usual_mm, the median of the series.

    The index is that of the upper slice. Series without positions are left out.
    """
    frame = with_pixels(frame)
    codes, _ = pd.factorize(frame["store_file"])
    ranks = frame["rank"].to_numpy(dtype=np.int64, na_value=-1)
    order = np.lexsort((ranks, codes))
    positions = frame["position_mm"].to_numpy(dtype=np.float64)[order]
    gaps = np.diff(positions, prepend=np.nan)
    gaps[np.diff(codes[order], prepend=-1) != 0] = np.nan
    table = pd.DataFrame({"series": codes[order], "gap_mm": gaps}, index=frame.index[order])
    table = table.dropna(subset="gap_mm")
    return table.assign(usual_mm=table.groupby("series")["gap_mm"].transform("median"))


def gap_findings(frame: pd.DataFrame) -> dict[str, int]:
    """Return how many gaps and series are unusual, by what is unusual about them."""
    gaps = slice_gaps(frame)
    series = gaps.groupby("series")["gap_mm"]
    spread = series.max() - series.min()
    large = gaps["gap_mm"] > LARGE_GAP * gaps["usual_mm"]
    return {
        "series with two slices or more, and positions": len(series),
        "slices at the position of the one before": int((gaps["gap_mm"].abs() < 1e-3).sum()),
        f"gaps above {LARGE_GAP:g} times the usual one of the series": int(large.sum()),
        "series whose gaps are not all alike": int((spread > _SAME_GAP_MM).sum()),
        "slices without a position": int(with_pixels(frame)["position_mm"].isna().sum()),
    }


def series_lengths(frame: pd.DataFrame) -> np.ndarray:
    """Return the number of slices with pixels of each store file, int64."""
    return with_pixels(frame)["store_file"].value_counts().to_numpy(dtype=np.int64)


def counts_per(frame: pd.DataFrame, inner: str, outer: str) -> pd.Series:
    """Return how many values of column `outer` have 1, 2, ... different values of `inner`."""
    pairs = frame[[outer, inner]].dropna().drop_duplicates()
    return pairs.groupby(outer).size().value_counts().sort_index()


def tilts_deg(frame: pd.DataFrame) -> np.ndarray:
    """Return the gantry tilt of each series with pixels, float64, without unknown ones."""
    return with_pixels(frame).groupby("store_file")["tilt_deg"].first().dropna().to_numpy()


def _by_combination(
    frame: pd.DataFrame, columns: Sequence[str], words: Callable[[tuple[float, ...]], str]
) -> pd.Series:
    """Return the words for the values of some columns, made once for each combination."""
    values = frame[list(columns)].astype("float64")
    groups = values.groupby(list(columns), dropna=False, sort=False)
    codes = groups.ngroup().to_numpy()
    first = ~pd.Series(codes).duplicated().to_numpy()
    names = np.empty(int(first.sum()), dtype=object)
    for code, row in zip(codes[first], values[first].itertuples(index=False)):
        names[code] = words(tuple(row))
    return pd.Series(names[codes], values.index, dtype="str")


def _family_words(values: tuple[float, ...]) -> str:
    bits, sign, slope, intercept = values
    if np.isnan(bits):
        return "unknown"
    signed = {0.0: "unsigned", 1.0: "signed"}.get(sign, "of unknown sign")
    return f"{bits:g} bits, {signed}, slope {slope:g}, intercept {intercept:g}"


def _without_identity(rows: pd.DataFrame) -> list[str]:
    """Return the reasons of `rows` without paths, UIDs and the identifiers of their own row."""
    told = []
    columns = ("source_file", "patient_id", "study_id", "series_id")
    own = zip(*(rows[name].fillna("") for name in columns))
    cleaned: dict[str, str] = {}
    for status, reason, names in zip(rows["status"], rows["reason"], own):
        if status == DUPLICATE:
            reason = "same image as another file"
        for name in names:
            if len(name) > 3 and name in reason:
                reason = reason.replace(name, "…")
        if reason not in cleaned:
            cleaned[reason] = _UID.sub("…", _PATH.sub("…", reason))
        told.append(cleaned[reason])
    return told
