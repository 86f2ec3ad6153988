"""Which slices to look at, and their pictures; only these slices are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from common.windows import BRAIN, windowed

# A montage of more slices than this has every second, third, ... of them.
MOST_TILES = 160
_WIDE_TILES = 64
NO_LABEL = "no label"


@dataclass(frozen=True)
class ChosenSlice:
    """A slice to look at.

    Attributes:
        row: in the slice table.
        label: what it is shown for.
        of_study: whether the label is known of its study only.
    """

    row: int
    label: str
    of_study: bool = False


def choose_slices(
    table: SliceTable,
    studies: pd.DataFrame,
    label_names: Sequence[str],
    per_label: int = 2,
    seed: int = 0,
) -> list[ChosenSlice]:
    """Return slices of each label, of different patients as far as there are, then some without.

    Of a series drawn from the seed it is the middle one of its positive slices, among those with
    no other label if there are such. Where only studies are labelled, it is the middle slice of a
    series of a positive study. Nothing labelled: middle slices of any series. Labels without a
    positive are left out, and no slice comes twice.

    Args:
        studies: study_id and the labels of studies.
        label_names: the labels to show; not one that is the union of others.
    """
    rng = np.random.default_rng(seed)
    readable = np.flatnonzero(table.readable)
    labels = table.labels(readable, label_names)
    num_positive = (labels == 1).sum(axis=1)
    draw = _Draw(table, rng, per_label)
    chosen: list[ChosenSlice] = []
    for column, name in enumerate(label_names):
        candidates = readable[labels[:, column] == 1]
        alone = readable[(labels[:, column] == 1) & (num_positive == 1)]
        of_study = not len(candidates)
        if of_study:
            candidates = alone = _rows_of_studies(table, readable, studies, studies[name] == 1)
        rows = draw.middles(alone)
        rows += draw.middles(candidates, per_label - len(rows))
        chosen += [ChosenSlice(row, name, of_study) for row in rows]
    without = readable[(labels == 0).all(axis=1)]
    of_study = not len(without)
    if of_study:
        negative = (studies[list(label_names)] == 0).all(axis=1)
        without = _rows_of_studies(table, readable, studies, negative)
    if not len(without) and not chosen:
        without, of_study = readable, False
    return chosen + [ChosenSlice(row, NO_LABEL, of_study) for row in draw.middles(without)]


def of_label(chosen: Sequence[ChosenSlice], label: str) -> list[ChosenSlice]:
    """Return those that are shown for a label, or for `NO_LABEL`."""
    return [choice for choice in chosen if choice.label == label]


class _Draw:
    """Draws series of different patients, and takes the middle one of their candidates."""

    def __init__(self, table: SliceTable, rng: np.random.Generator, num_wanted: int) -> None:
        self._table, self._rng, self._num_wanted = table, rng, num_wanted
        self._patients: set[str] = set()
        self._rows: set[int] = set()

    def middles(self, candidates: NDArray[np.int64], num_wanted: int | None = None) -> list[int]:
        """Return up to `num_wanted` of the rows `candidates`."""
        num_wanted = self._num_wanted if num_wanted is None else num_wanted
        rows: list[int] = []
        if num_wanted <= 0 or not len(candidates):
            return rows
        files = self._table.frame["store_file"].iloc[candidates].to_numpy(dtype=object)
        order = self._rng.permutation(pd.unique(files))
        patients = self._table.frame["patient_id"]
        for again in (False, True):
            for file in order:
                if len(rows) == num_wanted:
                    return rows
                inside = candidates[files == file]
                row = int(self._in_order(inside)[len(inside) // 2])
                patient = str(patients.iat[row])
                if row not in self._rows and (again or patient not in self._patients):
                    rows.append(row)
                    self._rows.add(row)
                    self._patients.add(patient)
        return rows

    def _in_order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[np.argsort(self._table.places(rows)[0], kind="stable")]


def choose_series(
    table: SliceTable, studies: pd.DataFrame, label_names: Sequence[str], seed: int = 0
) -> int | None:
    """Return a row of the series to show whole; None where nothing can be read.

    It is drawn among those of usual length (the middle half) with the most labels, of its slices
    or else of its study.
    """
    readable = np.flatnonzero(table.readable)
    if not len(readable):
        return None
    frame = table.frame.iloc[readable]
    positive = (frame[list(label_names)] == 1).set_axis(range(len(frame)))
    if not positive.to_numpy().any() and len(studies):
        of_study = (studies.set_index("study_id")[list(label_names)] == 1).groupby(level=0).any()
        positive = of_study.reindex(frame["study_id"]).eq(True)
    files = frame["store_file"].to_numpy(dtype=object)
    codes, names = pd.factorize(files)
    num_kinds = np.zeros(len(names), dtype=np.int64)
    for name in label_names:
        flags = positive[name].to_numpy(dtype=np.float64)
        num_kinds += np.bincount(codes, weights=flags, minlength=len(names)) > 0
    lengths = np.bincount(codes, minlength=len(names))
    low, high = np.quantile(lengths, (0.25, 0.75), method="nearest")
    usual = (lengths >= low) & (lengths <= high)
    best = np.flatnonzero(usual & (num_kinds == num_kinds[usual].max()))
    code = int(np.random.default_rng(seed).choice(best))
    return int(readable[np.flatnonzero(codes == code)[0]])


def montage(table: SliceTable, row: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Return the series of a row as one grey picture, and the rows that are on it.

    Slices are in the brain window, in anatomical order from the lowest, from left to right and
    from top to bottom, numbered from 1. Those that can't be read are crossed out.
    """
    rows = table.group_rows(row)
    step = -(-len(rows) // MOST_TILES)
    shown = [int(r) for r in rows[::step]]
    side, num_columns = (128, 8) if len(shown) <= _WIDE_TILES else (80, 13)
    tiles = []
    for place, shown_row in enumerate(shown):
        image_hu = read_image(table, shown_row)
        tile = crossed(side) if image_hu is None else _square(image_hu, side)
        number, origin = str(place * step + 1), (3, side - 4)
        cv2.putText(tile, number, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1, cv2.LINE_AA)
        tiles.append(tile)
    num_columns = min(num_columns, len(tiles))
    tiles += [np.zeros((side, side), dtype=np.uint8)] * (-len(tiles) % num_columns)
    lines = [np.hstack(tiles[i : i + num_columns]) for i in range(0, len(tiles), num_columns)]
    return np.vstack(lines), shown


def read_image(table: SliceTable, row: int) -> NDArray[np.int16] | None:
    """Return the HU of a row, or None where the store is damaged."""
    try:
        return table.image_hu(row)
    except UnreadableSlice:
        return None


def crossed(side: int) -> NDArray[np.uint8]:
    """Return a tile for a slice that can't be read."""
    tile = np.full((side, side), 60, dtype=np.uint8)
    cv2.line(tile, (0, 0), (side - 1, side - 1), 140)
    cv2.line(tile, (0, side - 1), (side - 1, 0), 140)
    return tile


def labels_of(table: SliceTable, row: int, label_names: Sequence[str]) -> str:
    """Return the labels that a slice has, in words."""
    values = table.labels(np.array([row]), label_names)[0]
    names = [name for name, value in zip(label_names, values) if value == 1]
    if names:
        return ", ".join(names)
    return "labels unknown" if np.isnan(values).any() else "none of the labels"


def _rows_of_studies(
    table: SliceTable, readable: NDArray[np.int64], studies: pd.DataFrame, wanted: pd.Series
) -> NDArray[np.int64]:
    ids = studies.loc[wanted, "study_id"]
    return readable[table.frame["study_id"].iloc[readable].isin(ids).to_numpy(dtype=bool)]


def _square(image_hu: NDArray[np.int16], side: int) -> NDArray[np.uint8]:
    """Return a slice in the brain window as a grey square, without changing its proportions."""
    scale = side / max(image_hu.shape)
    size = (max(1, round(image_hu.shape[1] * scale)), max(1, round(image_hu.shape[0] * scale)))
    small = cv2.resize(image_hu.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    tile = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = windowed(small, *BRAIN)
    return tile
