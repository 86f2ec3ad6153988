"""A volume, and whether another one continues it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.dicom.order import POSITION, SAME_POSITION_MM, position_numbers

LARGEST_STEP = 1.5
"""Two parts continue each other where they lie no more of their steps than this apart."""


@dataclass
class Volume:
    """Slices that belong together.

    Attributes:
        rows: their places in the table, in anatomical order.
        places: where they lie (n,), mm where `coordinate` is `position`.
        order_from: the coordinate that each place comes from (n,).
        coordinate: what the places are in.
        series_ids: the series that they come from.
        note: what split or joined it; empty where its UIDs alone say what belongs to it.
        kernel: its convolution kernel, or kernels.
    """

    rows: np.ndarray
    places: np.ndarray
    order_from: np.ndarray
    coordinate: str
    series_ids: frozenset[str]
    kernel: str = ""
    note: str = ""

    def part(self, chosen: np.ndarray) -> "Volume":
        """Return some of its slices."""
        of_slices = {name: getattr(self, name)[chosen] for name in ("rows", "places", "order_from")}
        return replace(self, **of_slices)

    @property
    def num_positions(self) -> int:
        """At how many positions its slices lie."""
        return int(position_numbers(self.places).max()) + 1

    @property
    def step(self) -> float:
        """The median distance of neighbouring positions; NaN of a single one."""
        steps = np.diff(np.unique(np.round(self.places, 3)))
        return float(np.median(steps)) if len(steps) else np.nan


def join_volumes(parts: Sequence[Volume]) -> list[Volume]:
    """Return the volumes with those joined that continue each other, and no other could."""
    volumes = list(parts)
    while True:
        pairs = [
            (one, other)
            for one in range(len(volumes))
            for other in range(len(volumes))
            if one != other and _continues(volumes[one], volumes[other])
        ]
        firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        pair = next(
            (p for p in pairs if firsts.count(p[0]) == 1 and seconds.count(p[1]) == 1), None
        )
        if pair is None:
            return volumes
        one, other = volumes[pair[0]], volumes[pair[1]]
        volumes = [volume for number, volume in enumerate(volumes) if number not in pair]
        volumes.append(_joined(one, other))


def _continues(one: Volume, other: Volume) -> bool:
    """Return whether the second volume begins where the first ends."""
    if one.coordinate != POSITION or other.coordinate != POSITION:
        return False
    if one.kernel != other.kernel and one.series_ids != other.series_ids:
        return False
    gap = other.places[0] - one.places[-1]
    steps = [step for step in (one.step, other.step) if step == step]
    return bool(steps) and SAME_POSITION_MM < gap <= LARGEST_STEP * max(steps)


def _joined(one: Volume, other: Volume) -> Volume:
    series_ids = one.series_ids | other.series_ids
    note = f"joined from {len(series_ids)} series" if len(series_ids) > 1 else one.note
    return Volume(
        np.concatenate([one.rows, other.rows]),
        np.concatenate([one.places, other.places]),
        np.concatenate([one.order_from, other.order_from]),
        one.coordinate,
        series_ids,
        one.kernel if one.kernel == other.kernel else "",
        note,
    )
