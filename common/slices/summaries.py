"""Headers and pixels of a study in one row: it drifts with scanners and patients.

No ids, no dates: the rows may be kept with a predictor.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.slices.folds import owners
from common.slices.series import MIN_BRAIN_FRACTION, list_series, used_rows
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable

WORDS = ("kernel", "manufacturer", "model", "sex", "contrast")
"""Columns of words; the others are numbers."""
HU_RANGE, HU_STEP = (-20, 100), 10
"""Pixels from soft tissue to fresh blood, and the width of the bins that are kept."""
HU_BINS = [f"HU {low} to {low + HU_STEP}" for low in range(*HU_RANGE, HU_STEP)]
_QUANTILES = (10, 25, 50, 75, 90)
# Evenly spaced through the brain: a study takes milliseconds, however many slices it has.
NUM_SLICES = 8
# Of the used volume's slices, the median.
_NUMBERS = ("slice_thickness", "kvp", "spacing_row", "tilt_deg", "sharpness", "age_decade")


def study_summaries(
    table: SliceTable, study_ids: Collection[str] | None = None, most: int | None = None
) -> pd.DataFrame:
    """Return a row for each patient, indexed by the first study that can be read.

    Of studies of one patient only one counts, as only patients are independent.

    Args:
        study_ids: the studies that count; None for all.
        most: patients; more are thinned evenly.

    Returns:
        `WORDS`, None where unknown; slice_thickness, spacing, spacing_row and brain in mm, kvp,
        tilt in degrees, sharpness, age_decade, num_slices, quantiles of the HU within HU_RANGE, and
        the shares of HU_BINS, NaN where unknown.
    """
    frame = table.frame.assign(row=np.arange(len(table)), readable=table.readable)
    frame = frame[frame["readable"] & frame["study_id"].notna()]
    if study_ids is not None:
        frame = frame[frame["study_id"].isin(list(study_ids))]
    frame = frame[frame["study_id"].isin(_first_studies(frame, most))]
    if frame.empty:
        return pd.DataFrame()
    series = list_series(frame)
    volumes = series[series["used"] == 1].set_index("store_file")
    slices = frame[used_rows(frame, series)].assign(tilt_deg=lambda rows: rows["tilt_deg"].abs())
    of_volume = slices.groupby("store_file")
    numbers = slices[list(_NUMBERS)].apply(pd.to_numeric, errors="coerce").astype("float64")
    found = numbers.groupby(slices["store_file"]).median().reindex(volumes.index)
    found["spacing"], found["brain_mm"] = volumes["spacing_mm"], volumes["brain_mm"]
    found["num_slices"] = volumes["num_slices"].astype("float64")
    for name in WORDS:
        words = of_volume[name].first().reindex(volumes.index)
        plain = [None if pd.isna(word) else str(word) for word in words]
        found[name] = pd.Series(plain, volumes.index, dtype=object)
    histograms = {name: _histogram(table, _through_brain(own)) for name, own in of_volume}
    of_hu = pd.DataFrame({name: _of_histogram(each) for name, each in histograms.items()}).T
    found = found.join(of_hu)
    return found.set_axis(pd.Index(volumes["study_id"].astype(str)), axis=0)


def _first_studies(frame: pd.DataFrame, most: int | None) -> pd.Series:
    firsts = frame.assign(owner=owners(frame)).drop_duplicates("owner")["study_id"]
    if most is None or len(firsts) <= most:
        return firsts
    return firsts.iloc[np.linspace(0, len(firsts) - 1, most).round().astype(int)]


def _through_brain(slices: pd.DataFrame) -> NDArray[np.int64]:
    """Return rows of a volume, evenly spaced where there is brain, or where none is, anywhere."""
    slices = slices.sort_values("rank", kind="stable")
    brain = slices[~(slices["brain_fraction"].astype("float64") < MIN_BRAIN_FRACTION)]
    rows = (brain if len(brain) else slices)["row"].to_numpy(dtype=np.int64)
    chosen = np.linspace(0, len(rows) - 1, min(NUM_SLICES, len(rows))).round().astype(int)
    return rows[chosen]


def _histogram(table: SliceTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many pixels have each HU of HU_RANGE; every second row and column is looked at."""
    low, high = HU_RANGE
    total = np.zeros(high - low, dtype=np.int64)
    for row in rows.tolist():
        try:
            values = table.image_hu(row)[::2, ::2]
        except UnreadableSlice:
            continue
        inside = values[(values >= low) & (values < high)]
        total += np.bincount(inside.astype(np.int64) - low, minlength=high - low)
    return total


def _of_histogram(counts: NDArray[np.int64]) -> dict[str, float]:
    total = int(counts.sum())
    if not total:
        return dict.fromkeys([*(f"hu_q{q}" for q in _QUANTILES), *HU_BINS], np.nan)
    # HU are whole numbers: each stands for half a HU to either side.
    edges = np.arange(HU_RANGE[0], HU_RANGE[1] + 1) - 0.5
    shares = np.concatenate(([0.0], np.cumsum(counts) / total))
    quantiles = {f"hu_q{q}": float(np.interp(q / 100, shares, edges)) for q in _QUANTILES}
    by_bin = counts.reshape(-1, HU_STEP).sum(axis=1) / total
    return quantiles | dict(zip(HU_BINS, by_bin.tolist(), strict=True))
