"""Tables of labels: how often, how often together, where in a series, what comes twice.

Functions take a frame of slices or of studies with one column per label: 0, 1 or NaN where unknown.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.preparation.identity import DUPLICATE

# What two slices with the same pixels have in common.
_PIXEL_COLUMNS = (
    "rows", "columns", "hu_min", "hu_max", "hu_mean", "brain_fraction", "num_padding",
)  # fmt: skip


def label_counts(frame: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Return by label: the rows where it is known, the positive ones, and their share."""
    labels = frame[list(label_names)]
    known, positive = labels.notna().sum(), (labels == 1).sum()
    counts = pd.DataFrame({"known": known, "positive": positive}).astype("int64")
    return counts.assign(share=positive / known.where(known > 0)).rename_axis("label")


def counts_of_both(of_slices: pd.DataFrame, of_studies: pd.DataFrame) -> pd.DataFrame:
    """Return two `label_counts` beside each other."""
    names = ("slices", "studies")
    both = zip((of_slices, of_studies), names)
    return pd.concat([counts.add_suffix(f" ({name})") for counts, name in both], axis=1)


def has_labels(frame: pd.DataFrame, label_names: Sequence[str]) -> bool:
    """Return whether any label of any row is known."""
    return bool(frame[list(label_names)].notna().to_numpy().any())


def co_occurrence(frame: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Return how many rows have both labels, (k, k); the diagonal has each label's positives."""
    positive = (frame[list(label_names)] == 1).to_numpy(dtype=np.float64)
    counts = (positive.T @ positive).round().astype(np.int64)
    return pd.DataFrame(counts, index=list(label_names), columns=list(label_names))


def shares_of_rows(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the rows with the label on the left that have the one on top too.

    Args:
        counts: what `co_occurrence` returned; a label without positives has NaN.
    """
    totals = pd.Series(np.diag(counts.to_numpy()), index=counts.index, dtype="float64")
    return counts.div(totals.where(totals > 0), axis=0)


def correlations(frame: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Return the correlation of each two labels over the rows where all are known, (k, k).

    NaN where a label never changes.
    """
    labels = frame[list(label_names)].dropna().astype("float64")
    return labels.corr()


def num_labels(frame: pd.DataFrame, label_names: Sequence[str]) -> pd.Series:
    """Return how many rows have 0, 1, ... of the labels, among those where all are known."""
    labels = frame[list(label_names)].dropna()
    counts = np.bincount((labels == 1).sum(axis=1), minlength=len(label_names) + 1)
    return pd.Series(counts, name="rows").rename_axis("labels")


def combinations(
    frame: pd.DataFrame, label_names: Sequence[str], most: int = 12
) -> list[tuple[str, int]]:
    """Return the most frequent combinations of labels with their numbers, such as ("a + b", 7)."""
    labels = frame[list(label_names)].dropna()
    weights = 2 ** np.arange(len(label_names), dtype=np.int64)
    codes, counts = np.unique((labels == 1).to_numpy() @ weights, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        (
            " + ".join(name for name, weight in zip(label_names, weights) if code & weight)
            or "none of them",
            int(count),
        )
        for code, count in zip(codes[order], counts[order])
    ]


def contradictions(frame: pd.DataFrame, subtypes: Sequence[str], overall: str) -> int:
    """Return in how many rows `overall` is not the union of the others, where all are known."""
    labels = frame[[*subtypes, overall]].dropna()
    union = (labels[list(subtypes)] == 1).any(axis=1)
    return int((union != (labels[overall] == 1)).sum())


def share_by_place(
    frame: pd.DataFrame, label_names: Sequence[str], num_bins: int = 10
) -> pd.DataFrame:
    """Return the share of positives by place in the series, (num_bins, k); NaN where unknown.

    The index is the middle of the bin, from 0 (lowest slice) to 1. Series of one slice are left
    out.
    """
    length = frame["num_slices"].to_numpy(dtype=np.float64, na_value=np.nan)
    rank = frame["rank"].to_numpy(dtype=np.float64, na_value=np.nan)
    usable = (length > 1) & (rank >= 0)
    place = rank[usable] / (length[usable] - 1)
    bins = np.minimum((place * num_bins).astype(np.int64), num_bins - 1)
    shares = frame.loc[usable, list(label_names)].groupby(bins).mean()
    shares = shares.reindex(range(num_bins)).astype("float64")
    return shares.set_axis((np.arange(num_bins) + 0.5) / num_bins).rename_axis("place")


def duplicates(frame: pd.DataFrame) -> dict[str, int]:
    """Return what comes more than once, by what it is.

    Slices are taken as alike where size, smallest, largest and mean HU, share of brain and padding
    are the same; the pixels are not compared. Slices of one value are left out: they are alike
    without being copies.
    """
    pixels = frame[frame["store_file"].notna() & (frame["hu_max"] > frame["hu_min"]).fillna(False)]
    alike = pixels.duplicated(list(_PIXEL_COLUMNS), keep=False)
    return {
        "files with the image id of another file": int(frame["status"].eq(DUPLICATE).sum()),
        "slices whose pixels are probably those of another slice": int(alike.sum()),
        "different pictures among these": len(pixels[alike].drop_duplicates(list(_PIXEL_COLUMNS))),
    }
