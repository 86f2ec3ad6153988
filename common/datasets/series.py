"""Datasets whose samples are series: slices in order, windows of them, and padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.datasets.base import AbstractDataset
from common.seeding import sample_seed
from common.slices.table import SliceTable

if TYPE_CHECKING:
    from torch import Tensor

# Where the positions of a series are unknown: the usual distance of slices of a head CT.
NOMINAL_GAP_MM = 5.0
# Metadata are divided by these, so that they are about 1.
_GAP_MM, _POSITION_MM, _NUM_SLICES = 5.0, 75.0, 32.0
_LARGEST_GAP_MM = 50.0
# Series with fewer slices are not thinned, as in the first place's code.
_FEWEST_TO_THIN = 11


@dataclass(frozen=True)
class SeriesAugmentation:
    """Random changes of the slices of a series.

    Attributes:
        thin: how often every second slice is left out, as if slices were twice as thick.
        reverse: how often the series is seen from its other end: positions fall, gaps are negative.
        crop: the most slices of a sample, a window of the series; 0: all.
        spread: the most slices of a sample, evenly spaced over the series from a drawn place on, so
            that each slice is as likely as any other; 0: all.
    """

    thin: float = 0.0
    reverse: float = 0.0
    crop: int = 0
    spread: int = 0

    def draw(self, num_slices: int, seed: int) -> tuple[NDArray[np.int64], slice]:
        """Return the slices of the series in the order they are seen, and the window on them."""
        kept, reverses, shift = self._kept(num_slices, seed)
        places = np.array(kept[::-1] if reverses else kept, np.int64)
        if self.spread and len(places) > self.spread:
            step = len(places) / self.spread
            places = places[((np.arange(self.spread) + shift) * step).astype(np.int64)]
        size = min(self.crop, len(places)) if self.crop else len(places)
        start = int(shift * (len(places) - size + 1))
        return places, slice(start, start + size)

    def num_drawn(self, num_slices: int, seed: int) -> int:
        """Return how many slices `draw` lets a sample have."""
        num_kept = len(self._kept(num_slices, seed)[0])
        return min(num_kept, self.spread or num_kept, self.crop or num_kept)

    def _kept(self, num_slices: int, seed: int) -> tuple[range, bool, float]:
        """Return the slices that thinning leaves, whether they are reversed, and a shift."""
        rng = np.random.default_rng(seed)
        thins, reverses = rng.random(2) < (self.thin, self.reverse)
        phase, shift = int(rng.integers(2)), float(rng.random())
        is_thinned = thins and num_slices >= _FEWEST_TO_THIN
        kept = range(phase, num_slices, 2) if is_thinned else range(num_slices)
        return kept, bool(reverses), shift


@dataclass(frozen=True)
class SampleSlices:
    """The slices of one sample, in the order the network sees them.

    Attributes:
        places: int64 (slices,): their index among the slices of the dataset.
        metadata: float32 (slices, 5), see `series_metadata`.
        position_mm: float32 (slices,), from the middle of the series.
    """

    places: NDArray[np.int64]
    metadata: NDArray[np.float32]
    position_mm: NDArray[np.float32]

    def only(self, is_kept: NDArray[np.bool_]) -> "SampleSlices":
        return SampleSlices(self.places[is_kept], self.metadata[is_kept], self.position_mm[is_kept])


class AbstractSeriesDataset(AbstractDataset):
    """Groups of a slice table (series) as samples; subclasses define the inputs of a slice.

    Draws depend on (seed, epoch, series).

    Args:
        groups: rows of each series in anatomical order, those that are context only included.
        rows: rows that count in loss and metrics.
        label_names: label columns of the table; none for prediction.
        study_labels: by store file, the labels of series as a whole: those of the study that the
            series stands for (`common.slices.study_labels`); None where none is known.

    Attributes:
        rows: those given, series by series in anatomical order.
        labels: float32 (rows, labels), NaN where unknown.
        series_labels: float32 (series, labels), NaN where unknown.
    """

    # Padding value by the name of a tensor in a sample.
    fillings: ClassVar[Mapping[str, float]] = {
        "metadata": 0.0,
        "position_mm": 0.0,
        "labels": np.nan,
        "index": -1,
    }

    def __init__(
        self,
        table: SliceTable,
        groups: Sequence[NDArray[np.int64]],
        rows: NDArray[np.int64],
        label_names: Sequence[str],
        augmentation: SeriesAugmentation | None,
        seed: int,
        study_labels: pd.DataFrame | None = None,
    ) -> None:
        super().__init__(seed)
        self.table = table
        self.label_names = tuple(label_names)
        self.augmentation = augmentation or SeriesAugmentation()
        self._rows = np.concatenate(groups) if groups else np.empty(0, np.int64)
        self._starts = np.cumsum([0, *map(len, groups)])
        counts = np.zeros(len(table), dtype=bool)
        counts[rows] = True
        is_counted = counts[self._rows]
        self.rows = self._rows[is_counted]
        self._index = np.where(is_counted, np.cumsum(is_counted) - 1, -1)
        self.labels = table.labels(self.rows, self.label_names)
        self.study_labels = study_labels
        self.series_labels = np.full((len(groups), len(self.label_names)), np.nan, np.float32)
        if study_labels is not None:
            files = table.frame["store_file"].iloc[[int(group[0]) for group in groups]]
            of_groups = study_labels.reindex(files)[list(label_names)]
            self.series_labels = of_groups.to_numpy(np.float32)
        self.image_ids = table.frame["image_id"].to_numpy(dtype=object)[self.rows]
        first_rows = self._rows[self._starts[:-1]]
        self._names = table.frame["image_id"].iloc[first_rows].to_numpy(dtype=object)
        self._positions_mm = table.frame["position_mm"].to_numpy(np.float64)[self._rows]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def sample_id(self, index: int) -> str:
        return str(self._names[index])

    @property
    def num_without_positions(self) -> int:
        """Number of series with a slice of unknown position: their gaps count as 5 mm."""
        return sum(np.isnan(self._positions_mm[self._span(i)]).any() for i in range(len(self)))

    def rows_of_series(self, index: int) -> NDArray[np.int64]:
        """Return the `rows` of one series."""
        span = self._span(index)
        return self._rows[span][self._index[span] >= 0]

    def some_rows(self, num_rows: int, seed: int) -> NDArray[np.int64]:
        """Return the `rows` of drawn series, until there are `num_rows` or no more."""
        order = np.random.default_rng(seed).permutation(len(self))
        rows, found = [], 0
        for index in order:
            rows.append(self.rows_of_series(int(index)))
            found += len(rows[-1])
            if found >= num_rows:
                break
        return np.concatenate(rows)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch padded at the end (labels with NaN, index with -1), and `lengths`."""
        import torch  # which takes seconds

        batch: dict[str, Any] = {
            name: padded([sample[name] for sample in samples], filling)
            for name, filling in self.fillings.items()
        }
        batch["lengths"] = torch.tensor([len(sample["index"]) for sample in samples])
        batch["sample"] = torch.tensor([sample["sample"] for sample in samples])
        batch["series_labels"] = torch.from_numpy(self.series_labels[batch["sample"].numpy()])
        return batch

    def num_steps(self, epoch: int) -> NDArray[np.int64]:
        """Return how many slices of each series a training sees in an epoch, int64 (series,)."""
        return np.array(
            [
                self.augmentation.num_drawn(
                    int(size), sample_seed(self.seed, epoch, self.sample_id(index))
                )
                for index, size in enumerate(np.diff(self._starts))
            ],
            np.int64,
        )

    def _draw(self, index: int, seed: int) -> SampleSlices:
        span = self._span(index)
        order, window = self.augmentation.draw(span.stop - span.start, seed)
        metadata, position_mm = series_metadata(self._positions_mm[span][order], order)
        places = span.start + order[window]
        return SampleSlices(places, metadata[window], position_mm[window])

    def _sample(
        self, index: int, steps: SampleSlices, slice_index: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Return the common entries of samples; `slice_index` is the place of each in `rows`."""
        labels = np.full((len(slice_index), len(self.label_names)), np.nan, np.float32)
        labels[slice_index >= 0] = self.labels[slice_index[slice_index >= 0]]
        return {
            "metadata": steps.metadata,
            "position_mm": steps.position_mm,
            "labels": labels,
            "index": slice_index,
            "sample": index,
        }

    def _span(self, index: int) -> slice:
        return slice(int(self._starts[index]), int(self._starts[index + 1]))


def series_metadata(
    positions_mm: NDArray[np.float64], places: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is known of slices beside their pixels, and their position in mm.

    The metadata (n, 5) are scaled: gap to the next slice (the last one repeats) and to the one
    before (the first one repeats), position from the middle of the series, rank from -1 to 1, and
    the logarithm of the number of slices. A series in falling order has negative gaps.

    Args:
        positions_mm: along the normal of the slices, in the order they are seen; if one is NaN,
            all are taken to be 5 mm apart.
        places: number of each slice in its series, in anatomical order.
    """
    if np.isnan(positions_mm).any():
        positions_mm = NOMINAL_GAP_MM * places.astype(np.float64)
    position_mm = positions_mm - (positions_mm.min() + positions_mm.max()) / 2
    num_slices = len(positions_mm)
    gaps = np.diff(positions_mm).clip(-_LARGEST_GAP_MM, _LARGEST_GAP_MM)
    gaps = gaps if len(gaps) else np.zeros(1)
    after, before = (gaps[[*range(num_slices - 1), -1]], gaps[[0, *range(num_slices - 1)]])
    rank = np.linspace(-1, 1, num_slices) if num_slices > 1 else np.zeros(1)
    if places[0] > places[-1]:
        rank = -rank
    metadata = np.stack(
        [
            after / _GAP_MM,
            before / _GAP_MM,
            position_mm / _POSITION_MM,
            rank,
            np.full(num_slices, np.log(num_slices / _NUM_SLICES)),
        ],
        axis=1,
    )
    return metadata.astype(np.float32), position_mm.astype(np.float32)


def padded(values: Sequence["Tensor"], filling: float = 0.0) -> "Tensor":
    """Return tensors (slices, ...) as one (series, most slices, ...), filled at the end."""
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(list(values), batch_first=True, padding_value=filling)
