"""Heat maps: where the slice networks of a predictor looked, on the pixel grid of the source.

LayerCAM (`common.models.layer_cam`) of each network, mapped back through all that made its input:
size, crop, flips, pixel steps and the upright turn. A map shows where evidence for a label was
found. It is no outline of a lesion, and no measure of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.predictors.base import AbstractPredictor, PredictOptions
from common.predictors.blend import BlendPredictor
from common.predictors.composed import ComposedPredictor
from common.predictors.folds import FoldsPredictor
from common.predictors.slices import SlicePredictor
from common.scoring.predictions import probabilities_of
from common.slices.source_grid import SourceGrid, source_grids
from common.slices.table import SliceTable
from common.words import count

_DEFAULTS = PredictOptions()


@dataclass
class HeatMaps(Sequence[NDArray[np.float32]]):
    """The map of each row, made when it is asked for: float32 (rows, columns) of its file, 0 to 1.

    Each slice is multiplied by its probability, and all of a study then have one scale: the largest
    cell of a network is the largest probability among them. The brightest pixel is a little less,
    as cells are interpolated, and where networks differ.

    Attributes:
        label: what they speak for.
        description: which networks they are of, and which they leave out, in words.
        probabilities: float64 (n,), of the label.
    """

    label: str
    description: str
    probabilities: NDArray[np.float64]
    _grids: list[SourceGrid] = field(repr=False)
    _of_networks: list["_NetworkMaps"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index: int) -> NDArray[np.float32]:  # type: ignore[override]
        grid = self._grids[index]
        maps = [maps.on_source(index, grid) for maps in self._of_networks]
        shares = [maps.share for maps in self._of_networks]
        return np.average(maps, axis=0, weights=shares).astype(np.float32)

    def resolution(self, index: int) -> float:
        """Return the longer side of a cell of the coarsest network in pixels of the source."""
        return max(maps.cell_width(index, self._grids[index]) for maps in self._of_networks)


@dataclass
class _NetworkMaps:
    """Maps of one network.

    Attributes:
        share: how much it counts.
        cells: (n, height, width), scaled.
        size: (height, width) of its input.
        matrices: (3, 3) of each row, (x, y) in its input to the stored slice.
    """

    share: float
    cells: NDArray[np.float32]
    size: tuple[int, int]
    matrices: list[NDArray[np.float64]]

    def on_source(self, index: int, grid: SourceGrid) -> NDArray[np.float32]:
        over_input = cv2.resize(self.cells[index], self.size[::-1])
        return grid.map_back(over_input, self.matrices[index])

    def cell_width(self, index: int, grid: SourceGrid) -> float:
        steps = np.hypot(*(grid.matrix @ self.matrices[index])[:2, :2])
        height, width = self.cells.shape[1:]
        return float(max(steps[0] * self.size[1] / width, steps[1] * self.size[0] / height))


def heat_maps(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: ArrayLike,
    label: str | None = None,
    options: PredictOptions = _DEFAULTS,
    probabilities: ArrayLike | None = None,
) -> HeatMaps:
    """Return where the slice networks of a predictor found what speaks for a label.

    Of folds, blends and all that stands on slice networks, it is the mean over these networks, as
    they are weighted in a blend. Only the view of validation is looked at.

    Args:
        rows: int (n,), readable rows of the table, such as the key slices of a study; at least one.
        label: a name among the predictor's labels; the last one, which is for any of the others,
            by default.
        options: batch size and device.
        probabilities: (n,) of the label, where they are known; predicted otherwise.

    Raises:
        InputError: there is no slice network, one has no layer for a map or moves pixels in a way
            that is unknown, or the dataset does not say where its slices were cut.
    """
    rows = np.asarray(rows, dtype=np.int64)
    assert len(rows) and table.readable[rows].all(), "heat maps are of readable rows"
    label = label or predictor.label_names[-1]
    if label not in predictor.label_names:
        known = ", ".join(predictor.label_names)
        raise InputError(f"no heat map of {label!r}: the predictor knows {known}")
    k = list(predictor.label_names).index(label)
    networks, others = slice_networks(predictor, k)
    grids = source_grids(table, rows)
    maps = [_maps_of(network, share, table, rows, label, options) for network, share in networks]
    if probabilities is None:
        found = predictor.predict_rows(table, rows, replace(options, with_features=False))
        probabilities = probabilities_of(found.logits, predictor.calibration)[:, k]
    weights = np.asarray(probabilities, dtype=np.float64)
    studies = pd.factorize(table.frame["study_id"].iloc[rows])[0]
    for of_network in maps:
        _scale(of_network.cells, weights, studies)
    text = f"LayerCAM of {label}: {count(len(networks), 'slice network')}"
    if others:
        text += f"; without what is added by {', '.join(others)}"
    return HeatMaps(label, text, weights, grids, maps)


def slice_networks(
    predictor: AbstractPredictor, label: int
) -> tuple[list[tuple[SlicePredictor, float]], list[str]]:
    """Return the slice networks in a predictor, and the kinds of what else decides in it.

    Each network has its weight: parts count alike, but those of a blend as its weights of the label
    say.

    Raises:
        InputError: there are none.
    """
    networks: list[tuple[SlicePredictor, float]] = []
    others: list[str] = []
    waiting: list[tuple[AbstractPredictor, float]] = [(predictor, 1.0)]
    while waiting:
        part, weight = waiting.pop(0)
        if isinstance(part, SlicePredictor):
            networks.append((part, weight))
            continue
        if isinstance(part, ComposedPredictor):
            inside = list(part.parts.values())
            shares = np.ones(len(inside))
            if isinstance(part, BlendPredictor):
                shares = np.abs(part.blender.weights[label])
            shares = weight * shares / shares.sum()
            waiting += [one for one in zip(inside, shares.tolist(), strict=True) if one[1]]
        if part.kind not in (FoldsPredictor.kind, BlendPredictor.kind):
            others.append(part.kind)
    others = list(dict.fromkeys(others))
    if not networks:
        raise InputError(
            f"no heat map: this predictor ({', '.join(others)}) sees whole series at once: give "
            f"one with networks of slices"
        )
    return networks, others


def _maps_of(
    network: SlicePredictor,
    share: float,
    table: SliceTable,
    rows: NDArray[np.int64],
    label: str,
    options: PredictOptions,
) -> _NetworkMaps:
    cells, size = network.activation_maps(table, rows, label, options)
    known: dict[tuple[float, ...], NDArray[np.float64]] = {}
    matrices = []
    shapes = table.frame[["rows", "columns"]].iloc[rows].to_numpy(dtype=np.int64)
    for shape, spacing_mm in zip(shapes.tolist(), table.spacings_mm(rows).tolist(), strict=True):
        key = (*shape, *map(str, spacing_mm))
        if key not in known:
            known[key] = network.transform.matrix_to_slice((shape[0], shape[1]), spacing_mm)
        matrices.append(known[key])
    return _NetworkMaps(share, cells, size, matrices)


def _scale(
    cells: NDArray[np.float32], weights: NDArray[np.float64], studies: NDArray[np.int64]
) -> None:
    """Multiply maps by the probability of their slice, then give each study one scale, in place."""
    cells *= weights[:, None, None].astype(np.float32)
    for study in np.unique(studies):
        own = studies == study
        largest = cells[own].max()
        if largest > 0:
            cells[own] *= np.float32(weights[own].max() / largest)
