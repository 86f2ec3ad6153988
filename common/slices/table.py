"""The slice table of a dataset: row <-> pixels <-> neighbours.

Everything that needs pixels, neighbouring slices or labels goes through `SliceTable`. A row is a
position in `slices.parquet`; ids are looked up with `rows_of`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow

from common.errors import InputError
from common.slices.store import SliceStore
from common.tables import read_parquet
from common.words import count

SLICES_FILE = "slices.parquet"
STUDIES_FILE = "studies.parquet"
STORE_FOLDER = "store"
STATUS_OK = "ok"
# Positions that differ by less are taken to be as near: they come from decimal strings.
TIE_MM = 1e-3
# Past either end of a series a neighbour is its last slice again, or air.
PastEnd = Literal["last", "air"]
AIR_ROW = -1

# The columns of slices.parquet that are the same for every task, in order, with their pandas
# types; the labels follow them. Lengths are in mm, angles in degrees, pixels in HU.
SLICE_COLUMNS = {
    "image_id": "str",
    "patient_id": "str",
    "study_id": "str",
    "series_id": "str",
    "split": "str",
    "source_file": "str",
    "status": "str",
    "reason": "str",
    "frame_of_reference": "str",
    "volume_id": "str",
    "grouping": "str",
    "position_mm": "float64",
    "order_from": "str",
    "turned": "str",
    "rank": "Int32",
    "num_slices": "Int32",
    "store_file": "str",
    "store_index": "Int32",
    "rows": "Int32",
    "columns": "Int32",
    "source_box": "str",
    "spacing_row": "float64",
    "spacing_column": "float64",
    "tilt_deg": "float64",
    "spacing_slice": "float64",
    "slice_thickness": "float64",
    "kvp": "float64",
    "manufacturer": "str",
    "model": "str",
    "kernel": "str",
    "is_sharp": "boolean",
    "acquisition_number": "float64",
    "sharpness": "float64",
    "selected": "boolean",
    "institution_hash": "str",
    "age_decade": "Int32",
    "sex": "str",
    "contrast": "boolean",
    "bits_stored": "Int32",
    "pixel_representation": "Int32",
    "rescale_slope": "float64",
    "rescale_intercept": "float64",
    "window_center": "float64",
    "window_width": "float64",
    "hu_min": "Int32",
    "hu_max": "Int32",
    "hu_mean": "float64",
    "brain_fraction": "float64",
    "num_padding": "Int32",
    "keep_for_training": "bool",
    "label_source": "str",
}


# Those that datasets of earlier versions lack, and that nothing needs.
ADDED_COLUMNS = (
    "frame_of_reference", "volume_id", "grouping", "order_from", "turned", "kernel", "is_sharp",
    "acquisition_number", "sharpness", "selected", "institution_hash", "spacing_slice",
    "slice_thickness", "kvp", "manufacturer", "model", "age_decade", "sex", "contrast",
    "source_box",
)  # fmt: skip


class SliceTable:
    """The slices of a prepared dataset, one row each, unreadable ones included.

    A group is the readable slices of one store file (one series, orientation and matrix size) in
    anatomical order. Looking up a neighbour costs the same in a table of any size.
    The table pickles and forks; it opens store files when pixels are first read.

    Args:
        frame: one row per slice with the columns of `SLICE_COLUMNS` and any labels.
    """

    def __init__(self, frame: pd.DataFrame, folder: Path) -> None:
        missing = [name for name in SLICE_COLUMNS if name not in frame.columns]
        added = {name: None for name in missing if name in ADDED_COLUMNS}
        frame = frame.assign(**added).astype({name: SLICE_COLUMNS[name] for name in added})
        missing = [name for name in missing if name not in added]
        if missing:
            raise InputError(
                f"{folder / SLICES_FILE} lacks the columns {', '.join(missing)}: "
                f"run preprocessing.py again"
            )
        self.frame = frame.reset_index(drop=True)
        self.folder = Path(folder)
        self.store = SliceStore(self.folder / STORE_FOLDER)
        self.readable: np.ndarray = (
            self.frame["status"].eq(STATUS_OK) & self.frame["store_index"].notna()
        ).to_numpy(dtype=bool)
        """bool (rows,): the slices that have pixels."""
        self._store_indices = self.frame["store_index"].fillna(-1).to_numpy(dtype=np.int32)
        self._positions_mm = self.frame["position_mm"].to_numpy(dtype=np.float64)
        readable_rows = np.flatnonzero(self.readable)
        # `_order[place]` is a row, `_places[row]` its place (-1 for unreadable ones), and those
        # of group g are `_starts[g]` up to `_starts[g + 1]`.
        codes, files = pd.factorize(self.frame["store_file"].iloc[readable_rows])
        ranks = self.frame["rank"].iloc[readable_rows].to_numpy(dtype=np.int64, na_value=-1)
        # Ranks are unique within a group; the sort is stable, so ties keep the table's order.
        self._order = readable_rows[np.lexsort((ranks, codes))].astype(np.int64)
        self._group_files = [str(name) for name in files]
        self._starts = np.concatenate(
            ([0], np.cumsum(np.bincount(codes, minlength=len(files)), dtype=np.int64))
        )
        self._places = np.full(len(self), -1, dtype=np.int64)
        self._places[self._order] = np.arange(len(self._order))
        self._groups = np.full(len(self), -1, dtype=np.int64)
        self._groups[readable_rows] = codes
        self._row_of_image_id: pd.Series | None = None
        self._groups_with_positions: np.ndarray | None = None
        self._gaps_mm: np.ndarray | None = None

    @classmethod
    def load(cls, dataset_folder: Path) -> "SliceTable":
        """Return the table of a prepared dataset; raise InputError where there is none."""
        path = Path(dataset_folder) / SLICES_FILE
        require_dataset(path.parent)
        frame = read_parquet(path, "run preprocessing.py again")
        # Arrow keeps what it needed while reading: 200 MB of 480 for the index of RSNA 2019.
        pyarrow.default_memory_pool().release_unused()
        return cls(frame, dataset_folder)

    def __len__(self) -> int:
        return len(self.frame)

    def image_hu(self, row: int) -> np.ndarray:
        """Return the pixels of a readable row as int16 HU (rows, columns).

        Raises:
            common.slices.store.UnreadableSlice: the store is damaged.
        """
        store_file = self._group_files[self._group_of(row)]
        return self.store.read(store_file, int(self._store_indices[row]))

    def image_id(self, row: int) -> str:
        return str(self.frame["image_id"].iat[row])

    def neighbour_rows(
        self,
        row: int,
        offsets: Sequence[int],
        without: Collection[int] = (),
        past_end: PastEnd = "last",
    ) -> list[int]:
        """Return the rows `offsets` slices away in the group of a readable row, 0 being itself.

        Past either end it is the last slice, or `AIR_ROW`; unreadable slices and the rows in
        `without` are skipped.
        """
        rows = self._group_without(row, without)
        own_place = int(self._places[row]) - self._group_bounds(row)[0]
        place = int(np.flatnonzero(rows == row)[0]) if len(without) else own_place
        last = len(rows) - 1
        if past_end == "air":
            return [int(rows[place + k]) if 0 <= place + k <= last else AIR_ROW for k in offsets]
        return [int(rows[min(max(place + k, 0), last)]) for k in offsets]

    def neighbour_rows_mm(
        self, row: int, offsets_mm: Sequence[float], without: Collection[int] = ()
    ) -> list[int]:
        """Return the rows nearest to `offsets_mm` along the slice normal from a readable row.

        0 is the row itself, and of two that are as near the one farther away from it counts; past
        either end the last slice is repeated. Rows in `without` are skipped.

        Raises:
            InputError: the positions of the slice or of its series are unknown.
        """
        rows = self._group_without(row, without)
        distances_mm = self._positions_mm[rows] - self._positions_mm[row]
        if np.isnan(distances_mm).any():
            raise InputError(
                f"the series of image {self.image_id(row)} has slices without a position: "
                f"neighbours in mm are unknown there, use neighbours by slice"
            )
        nearest = []
        for offset in offsets_mm:
            off_mm = np.abs(distances_mm - offset)
            ties = rows[off_mm <= off_mm.min() + TIE_MM]
            nearest.append(int(row if not offset else ties[-1 if offset > 0 else 0]))
        return nearest

    def sample_rows(
        self,
        row: int,
        slice_offsets: Sequence[int],
        offsets_mm: Sequence[float] = (),
        without: Collection[int] = (),
        past_end: PastEnd = "last",
    ) -> list[int]:
        """Return the rows of the slices that make a sample of a readable row.

        Args:
            slice_offsets: which neighbours by number, 0 being the row itself.
            offsets_mm: as many distances that count in their place, but in a series in which
                slices have no position; empty where there are none.
            past_end: of `slice_offsets`; distances in mm end at the last slice.
        """
        if len(offsets_mm) and self.has_positions(np.array([row]))[0]:
            return self.neighbour_rows_mm(row, offsets_mm, without)
        return self.neighbour_rows(row, slice_offsets, without, past_end)

    def has_positions(self, rows: np.ndarray) -> np.ndarray:
        """Return for readable rows whether all slices of their group have a position, bool."""
        if self._groups_with_positions is None:
            unplaced = np.isnan(self._positions_mm[self._order])
            num_unplaced = np.concatenate(([0], np.cumsum(unplaced)))[self._starts]
            self._groups_with_positions = np.diff(num_unplaced) == 0
        return self._groups_with_positions[self._groups[rows]]

    def header_windows(self, rows: np.ndarray) -> np.ndarray:
        """Return (center, width) in HU that the headers of rows name, float64 (rows, 2).

        NaN where a header names none.
        """
        columns = self.frame[["window_center", "window_width"]].iloc[rows]
        return columns.to_numpy(dtype=np.float64, na_value=np.nan)

    def spacings_mm(self, rows: np.ndarray) -> np.ndarray:
        """Return how far pixel rows, pixel columns and slices lie apart, mm, float64 (rows, 3).

        NaN where unknown. Of slices it is the median of their group; a slice alone has none.
        """
        if self._gaps_mm is None:
            gaps_mm = np.abs(np.diff(self._positions_mm[self._order]))
            groups = self._groups[self._order]
            is_within = groups[1:] == groups[:-1]
            medians = pd.Series(gaps_mm[is_within]).groupby(groups[1:][is_within]).median()
            self._gaps_mm = medians.reindex(range(len(self._group_files))).to_numpy(np.float64)
        of_pixels = self.frame[["spacing_row", "spacing_column"]].iloc[rows]
        of_slices = np.where(self._groups[rows] < 0, np.nan, self._gaps_mm[self._groups[rows]])
        return np.column_stack([of_pixels.to_numpy(np.float64, na_value=np.nan), of_slices])

    def group_rows(self, row: int) -> np.ndarray:
        start, stop = self._group_bounds(row)
        return self._order[start:stop]

    def groups_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows of every group that holds some of the readable `rows`.

        Each as `group_rows` returns them, in the order in which their first rows stand in the
        table.
        """
        groups = self._groups[rows]
        assert (groups >= 0).all(), "a row without pixels has no group"
        return [
            self._order[self._starts[group] : self._starts[group + 1]]
            for group in np.unique(groups)
        ]

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each readable row in its group, from 0, and the group's size."""
        groups = self._groups[rows]
        assert (groups >= 0).all(), "a row without pixels has no place"
        starts, stops = self._starts[groups], self._starts[groups + 1]
        return self._places[rows] - starts, stops - starts

    def anatomical_order(self, rows: np.ndarray) -> np.ndarray:
        """Return rows group by group, each in anatomical order; those without pixels come last."""
        places = self._places[rows]
        return rows[np.argsort(np.where(places < 0, len(self), places), kind="stable")]

    def labels(self, rows: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
        """Return the labels of rows as float32 (rows, labels), NaN where unknown."""
        values = self.frame[list(label_names)].iloc[rows]
        return values.to_numpy(dtype=np.float32, na_value=np.nan)

    def rows_of(self, image_ids: Sequence[str] | pd.Series | np.ndarray) -> np.ndarray:
        """Return the row of each image id as int64; raise InputError for unknown ids."""
        if self._row_of_image_id is None:
            ids = self.frame["image_id"].dropna()
            if not ids.is_unique:
                raise InputError(
                    f"{self.folder / SLICES_FILE}: several rows have one image id: run "
                    f"preprocessing.py again"
                )
            self._row_of_image_id = pd.Series(ids.index.to_numpy(), index=ids.to_numpy())
        wanted = pd.Index(np.asarray(image_ids, dtype=object))
        rows = self._row_of_image_id.reindex(wanted).fillna(-1).to_numpy(dtype=np.int64)
        if (rows < 0).any():
            num_unknown = int((rows < 0).sum())
            first = str(wanted[rows < 0][0])
            raise InputError(
                f"{num_unknown} of {count(len(rows), 'image id')}, {first!r} first, are not in "
                f"{self.folder}"
            )
        return rows

    def _group_without(self, row: int, without: Collection[int]) -> np.ndarray:
        assert row not in without, "a sample has its own slice"
        rows = self.group_rows(row)
        return rows[~np.isin(rows, list(without))] if len(without) else rows

    def _group_of(self, row: int) -> int:
        group = int(self._groups[row])
        if group < 0:
            raise ValueError(f"row {row} (image {self.image_id(row)}) has no pixels")
        return group

    def _group_bounds(self, row: int) -> tuple[int, int]:
        group = self._group_of(row)
        return int(self._starts[group]), int(self._starts[group + 1])


def require_dataset(folder: Path) -> None:
    """Raise InputError where the folder holds no prepared dataset."""
    if not (folder / SLICES_FILE).is_file():
        raise InputError(f"no dataset at {folder} (no {SLICES_FILE}): run preprocessing.py first")
