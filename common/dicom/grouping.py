"""Volumes: which slices belong together, whatever their UIDs claim.

A volume is what shares patient, study, frame of reference, orientation, matrix and pixel spacing,
with at most one slice per position. Slices of one series that would lie at the same positions are
split by header elements that differ, and so are reconstructions that lie between each other's
slices; series that continue each other are joined. Slices that nothing separates are refused rather
than interleaved.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from common.dicom.alike import (
    FEWEST_AT_ONE,
    alike,
    in_pairs,
    is_of_each,
    known_in_series,
    same_orientation,
    same_spacing,
    without_own,
)
from common.dicom.checks import MAX_FRAMES
from common.dicom.geometry import parse_orientation, slice_normal
from common.dicom.order import (
    COORDINATES,
    IDS,
    INSTANCE_NUMBER,
    POSITION,
    SAME_POSITION_MM,
    SLICE_LOCATION,
    place_slices,
    position_numbers,
)
from common.dicom.volume import Volume, join_volumes

SPACINGS = "spacing_row", "spacing_column"
FEW_POSITIONS = 0.1
"""Where no more of the positions hold slices that nothing separates, only those are refused."""
LEAST_RATIO = 1.5
"""Slices whose thicknesses differ by this factor, and alternate, are of two reconstructions."""
AMBIGUOUS = "ambiguous"

KINDS = {
    "kernel": "kernel",
    "image_type": "image type",
    "kvp": "tube voltage",
    "slice_thickness": "slice thickness",
    "lossy": "lossy compression",
}
"""Columns that differ between reconstructions of one scan, with their names in notes."""
PASSES = {
    "acquisition_number": "acquisition number",
    "temporal_position": "temporal position",
    "acquisition_time": "acquisition time",
    "content_time": "content time",
    INSTANCE_NUMBER: "instance number",
}
"""Columns that rise from one pass over the same positions to the next."""

HEADER_COLUMNS = (
    "image_id", "frame", "patient_id", "study_id", "series_id", "frame_of_reference", "orientation",
    "position_x", "position_y", "position_z", "slice_location", "rows", "columns", "spacing_row",
    "spacing_column", *KINDS, *PASSES,
)  # fmt: skip
"""Columns that `find_volumes` reads."""


@dataclass
class Grouping:
    """Volumes, and the slices that belong to none: row to reason."""

    volumes: list[Volume] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def find_volumes(headers: pd.DataFrame, *, keep_ambiguous: bool = False) -> Grouping:
    """Return the volumes that the slices of a table make.

    Args:
        headers: one row per slice with `HEADER_COLUMNS`; numbers are NaN and texts null where
            unknown, `frame` is -1 outside multi-frame files.
        keep_ambiguous: keep slices that lie at the same position and that nothing separates in one
            volume, ordered by their ids, instead of refusing them.
    """
    return _Grouper(headers, keep_ambiguous).run()


class _Grouper:
    def __init__(self, headers: pd.DataFrame, keep_ambiguous: bool) -> None:
        self.headers = headers
        self.keep_ambiguous = keep_ambiguous
        texts = ("image_id", "series_id", "frame_of_reference", "orientation", "kernel")
        self.texts = {
            name: headers[name].fillna("").to_numpy(dtype=object) for name in (*texts, "image_type")
        }
        numbers = ("slice_location", "spacing_row", "spacing_column", *list(KINDS)[2:])
        self.numbers = {
            name: headers[name].to_numpy(dtype=np.float64, na_value=np.nan)
            for name in (*numbers, *PASSES)
        }
        self.frames = headers["frame"].to_numpy(dtype=np.int64)
        # Frames of one file follow each other between it and the file of the next number.
        is_frame = self.frames >= 0
        numbers_of_files = np.nan_to_num(self.numbers[INSTANCE_NUMBER])
        self.numbers[INSTANCE_NUMBER] = np.where(
            is_frame, numbers_of_files * MAX_FRAMES + self.frames, self.numbers[INSTANCE_NUMBER]
        )
        names = ["position_x", "position_y", "position_z"]
        self.positions = headers[names].to_numpy(dtype=np.float64, na_value=np.nan)
        self.found = Grouping()

    def run(self) -> Grouping:
        keys = self.headers[["study_id", "rows", "columns"]].assign(patient=self._patients())
        for rows in keys.groupby(list(keys), dropna=False, sort=True).indices.values():
            for same_geometry in self._by_geometry(np.sort(rows)):
                self._group(same_geometry)
        return self.found

    def _patients(self) -> pd.Series:
        """Return the patients; an unknown one is that of the study, where it has only one."""
        patients = self.headers["patient_id"]
        of_study = patients.groupby(self.headers["study_id"])
        only_one = of_study.transform("first").where(of_study.transform("nunique") == 1)
        return patients.fillna(only_one)

    def _by_geometry(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the rows of one frame of reference, orientation and spacing after the other."""
        series = self.texts["series_id"][rows]
        frames = known_in_series(
            without_own(self.texts["frame_of_reference"][rows], series), series
        )
        orientations = known_in_series(
            alike(self.texts["orientation"][rows], same_orientation), series
        )
        orientations[self._has_no_plane(rows, series)] = "none"
        between_rows, between_columns = (self.numbers[name][rows] for name in SPACINGS)
        pairs = in_pairs(between_rows, between_columns)
        spacings = known_in_series(alike(pairs, same_spacing), series)
        if all(len(set(values)) == 1 for values in (frames, orientations, spacings)):
            yield rows
            return
        classes = pd.DataFrame({"f": frames, "o": orientations, "s": spacings})
        for members in classes.groupby(["f", "o", "s"]).indices.values():
            yield rows[np.sort(members)]

    def _has_no_plane(self, rows: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Return which images are no slices of their series: pages with doses, for one.

        They have neither position nor orientation, and a type that no slice with a position has.
        """
        is_placed = np.isfinite(self.positions[rows]).all(axis=1)
        types = self.texts["image_type"][rows]
        others = ~is_placed & (self.texts["orientation"][rows] == "") & (types != "")
        if others.any():
            of_slices = set(zip(series[is_placed], types[is_placed]))
            has_slices = np.isin(series, series[is_placed])
            is_alike = np.array([pair in of_slices for pair in zip(series, types)])
            others = others & has_slices & ~is_alike
        return others

    def _group(self, rows: np.ndarray) -> None:
        """Split the series of one geometry where slices collide, join those that continue."""
        series = self.texts["series_id"][rows]
        by_series = {name: rows[series == name] for name in sorted(set(series))}
        singles = [own for own in by_series.values() if len(own) == 1]
        parts: list[Volume] = []
        for own in by_series.values():
            if len(own) > 1 or len(singles) == 1:
                parts += self._split(own)
        if len(singles) > 1:
            parts += self._of_singles(np.concatenate(singles))
        self.found.volumes += join_volumes(parts)

    def _of_singles(self, rows: np.ndarray) -> list[Volume]:
        """Return the volumes of series of one slice each."""
        kernels = self.texts["kernel"][rows]
        found = []
        for kernel in sorted(set(kernels)):
            own = rows[kernels == kernel]
            together = self._split(own)
            num_series = len(own)
            if num_series > 1:
                for volume in together:
                    if len(volume.rows) > 1:
                        joined = f"joined from {len(volume.rows)} series of one slice"
                        volume.note = "; ".join(filter(None, (joined, volume.note)))
            found += together
        return found

    def _split(self, rows: np.ndarray) -> list[Volume]:
        """Return the volumes of one series; refuse slices that nothing separates."""
        placed = self._place(rows)
        lost = ~np.isfinite(placed.places)
        if lost.any() and placed.coordinate != IDS:
            reason = "neither ImagePositionPatient nor InstanceNumber nor SliceLocation places it"
            self.found.refused |= dict.fromkeys(placed.rows[lost].tolist(), reason)
            placed = placed.part(~lost)
        parts = self._separate(placed)
        if parts is not None:
            return parts
        if self.keep_ambiguous:
            placed.note = "nothing separates slices at the same position: in the order of ids"
            return [placed]
        numbers = position_numbers(placed.places)
        is_shared = np.bincount(numbers)[numbers] > 1
        num_shared = len(set(numbers[is_shared]))
        few = num_shared <= FEW_POSITIONS * placed.num_positions
        refused = is_shared if few else np.ones(len(rows), dtype=bool)
        hold = "position holds" if num_shared == 1 else "positions hold"
        reason = (
            f"{num_shared} {hold} several slices of its series that neither kernel, acquisition, "
            f"time nor number tell apart"
        )
        if placed.num_positions == 1 and len(rows) >= FEWEST_AT_ONE:
            reason = f"all {len(rows)} slices of its series claim one position"
        self.found.refused |= dict.fromkeys(placed.rows[refused].tolist(), reason)
        return [placed.part(~refused)] if few else []

    def _place(self, rows: np.ndarray) -> Volume:
        """Return the slices of a series in anatomical order, as one volume."""
        coordinates = {name: self.numbers[name][rows] for name in COORDINATES if name != POSITION}
        normal = self._normal(rows)
        # Each by itself: the last bits are then those of SliceHeader.position_mm.
        coordinates[POSITION] = np.array([np.dot(xyz, normal) for xyz in self.positions[rows]])
        note = ""
        if self._is_placeholder(rows, coordinates):
            coordinates[POSITION][:] = np.nan
            note = "all ImagePositionPatient are equal: left out of account"
        elif is_of_each(self.texts["frame_of_reference"][rows]):
            note = "each slice has a FrameOfReferenceUID of its own: left out of account"
        coordinate, places, order_from = place_slices(coordinates)
        stems = [
            (name.rpartition("_")[0] if frame >= 0 else name, frame)
            for name, frame in zip(self.texts["image_id"][rows], self.frames[rows])
        ]
        # NaN compares with nothing: slices without a place come last, by their ids.
        keys = np.nan_to_num(places, nan=np.inf)
        order = np.array(sorted(range(len(rows)), key=lambda i: (keys[i], stems[i])))
        return Volume(
            rows=rows[order],
            places=places[order],
            order_from=order_from[order],
            coordinate=coordinate,
            series_ids=frozenset(self.texts["series_id"][rows]),
            kernel="\\".join(sorted(set(self.texts["kernel"][rows]))),
            note="nothing tells the order of its slices" if coordinate == IDS else note,
        )

    def _is_placeholder(self, rows: np.ndarray, coordinates: dict[str, np.ndarray]) -> bool:
        """Return whether the one position of all slices is none: zeros, or against SliceLocation.

        Some exporters and anonymizers write one ImagePositionPatient into all files.
        """
        if len(rows) < FEWEST_AT_ONE or not np.ptp(coordinates[POSITION]) <= SAME_POSITION_MM:
            return False
        locations = coordinates[SLICE_LOCATION]
        known = locations[np.isfinite(locations)]
        return not self.positions[rows].any() or (
            len(known) > 0 and np.ptp(known) > SAME_POSITION_MM
        )

    def _normal(self, rows: np.ndarray) -> np.ndarray:
        """Return the one normal that all slices are projected on: that of most of them."""
        texts, counts = np.unique(self.texts["orientation"][rows].astype(str), return_counts=True)
        counts[texts == ""] = 0
        text = texts[counts.argmax()]
        return slice_normal(parse_orientation(text)) if text else np.array([0.0, 0, 1])

    def _separate(self, volume: Volume) -> list[Volume] | None:
        """Return the parts of a volume with one slice per position; None where nothing tells."""
        if volume.coordinate == IDS:
            return [volume]
        numbers = self._position_numbers(volume)
        most = int(np.bincount(numbers).max())
        if most == 1:
            return self._between_each_other(volume)
        for name, words in KINDS.items():
            parts = [volume.part(own) for own in _each(self._values(name, volume))]
            if len(parts) > 1 and all(self._most_at_one(part) < most for part in parts):
                separated = [self._separate(part) for part in parts]
                if all(part is not None for part in separated):
                    return [_noted(part, words) for parts in separated for part in parts or ()]
        locations = self.numbers[SLICE_LOCATION][volume.rows]
        if numbers.max() == 0 and most >= FEWEST_AT_ONE and np.isnan(locations).all():
            return None  # nothing but ImagePositionPatient says that it is one position
        for name, words in PASSES.items():
            passes = _passes(self.numbers[name][volume.rows], numbers)
            if passes is not None and passes.max() + 1 == most:
                parts = [volume.part(passes == number) for number in range(most)]
                return [_noted(part, words) for part in parts]
        is_apart = volume.num_positions == len(volume.rows)
        return self._between_each_other(volume) if is_apart else None

    def _position_numbers(self, volume: Volume) -> np.ndarray:
        """Return the number of the position of each slice.

        Without positions, instance numbers go on from one pass over the head to the next; that
        they come back to the same places is to be seen by SliceLocation.
        """
        locations = self.numbers[SLICE_LOCATION][volume.rows]
        by_number = volume.coordinate == INSTANCE_NUMBER and (self.frames[volume.rows] < 0).all()
        if by_number and np.ptp(locations) > SAME_POSITION_MM:  # not NaN
            return position_numbers(locations)
        return position_numbers(volume.places)

    def _most_at_one(self, volume: Volume) -> int:
        return int(np.bincount(self._position_numbers(volume)).max())

    def _between_each_other(self, volume: Volume) -> list[Volume]:
        """Return the reconstructions of which each has slices between those of the others.

        Parts of the head that follow each other, each with a kernel or thickness of its own, are
        one volume.
        """
        for name in ("kernel", "slice_thickness"):
            values = self._values(name, volume)
            each = _each(values)
            is_known = not ({"", -1.0} & set(values.tolist()))
            differ = values.dtype.kind != "f" or values.max() >= LEAST_RATIO * values.min()
            num_runs = 1 + int((values[1:] != values[:-1]).sum())
            if is_known and differ and num_runs > 2 * len(each):
                apart = [self._between_each_other(volume.part(own)) for own in each]
                return [_noted(part, KINDS[name]) for parts in apart for part in parts]
        return [volume]

    def _values(self, name: str, volume: Volume) -> np.ndarray:
        """Return one of `KINDS` of the slices of a volume, -1 for an unknown number."""
        if name in self.texts:
            return self.texts[name][volume.rows]
        return np.nan_to_num(self.numbers[name][volume.rows], nan=-1.0)


def _noted(volume: Volume, words: str) -> Volume:
    if volume.note.startswith("split by "):
        words += " and " + volume.note.removeprefix("split by ")
        volume.note = ""
    volume.note = "; ".join(filter(None, (f"split by {words}", volume.note)))
    return volume


def _each(values: np.ndarray) -> list[np.ndarray]:
    """Return a mask for each value, in ascending order."""
    return [values == value for value in sorted(set(values.tolist()))]


def _passes(values: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
    """Return the number of the pass over the positions that each slice belongs to, int64 (n,).

    In the order of `values` a new pass begins where a position comes again. None where a value is
    unknown, or where slices at one position share one.
    """
    if np.isnan(values).any():
        return None
    passes = np.empty(len(values), dtype=np.int64)
    seen: set[int] = set()
    number = 0
    for value in np.unique(values):
        own = values == value
        places = set(numbers[own].tolist())
        if len(places) < own.sum():
            return None
        if seen & places:
            number, seen = number + 1, set()
        seen |= places
        passes[own] = number
    return passes
