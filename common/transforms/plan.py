"""Where each transform of a pipeline runs, and the row of numbers that holds a sample's draws.

A row is float64 and equally long for all samples of a pipeline, so that a batch is a matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from common.transforms import catalog, matrices, sizes
from common.transforms.area_resize import BoxStep
from common.transforms.catalog import Node, leaves, name_of
from common.transforms.draw import Record
from common.transforms.matrices import Shape
from common.transforms.pipeline import Pipeline
from common.transforms.warp import HALF_PIXEL, AxisStep, MatrixStep, Step

# Intensity transforms that `channels` has for the CPU and `device` for a device, and what else must
# hold.
INTENSITY = {
    "CoarseDropout": lambda node: not isinstance(node["fill"], str),
    "GaussNoise": lambda node: node["noise_scale_factor"] == 1,
    "RandomBrightnessContrast": lambda node: (
        node["brightness_by_max"] or not node["ensure_safe_range"]
    ),
    "RandomGamma": lambda node: True,
}


@dataclass(frozen=True)
class Plan:
    """The nodes of a pipeline in the order they run, split in two.

    Attributes:
        host: run one by one on the CPU.
        geometry: composed into one resampling.
        rest: all that comes after the geometry, without the normalization.
    """

    host: tuple[Node, ...]
    geometry: tuple[Node, ...]
    rest: tuple[Node, ...]


def plan_device(pipeline: Pipeline) -> Plan:
    """Return what can run on a device: all behind the last transform that is unknown there."""
    nodes = pipeline.nodes
    unknown = [i for i, node in enumerate(nodes) if not _is_known(pipeline, i)]
    start = unknown[-1] + 1 if unknown else 0
    num_geometric = len(pipeline.geometry)
    return Plan(nodes[:start], nodes[start:num_geometric], nodes[max(start, num_geometric) :])


def plan_host(pipeline: Pipeline) -> Plan:
    """Return what is composed on the CPU: nothing where at most one resampling is left over.

    But with transforms in mm, all that can be: matrices tell how large a pixel becomes.
    """
    geometry = pipeline.geometry
    start = len(geometry)
    while start and _is_composed(pipeline, start - 1):
        start -= 1
    rest = pipeline.nodes[len(geometry) :]
    if not pipeline.is_in_mm and max(map(len, _runs(geometry[start:])), default=0) < 2:
        return Plan(geometry, (), rest)
    return Plan(geometry[:start], geometry[start:], rest)


def _runs(geometry: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes that resample, split where areas are averaged."""
    runs: list[list[Node]] = [[]]
    for node in geometry:
        if matrices.averages_areas(node):
            runs.append([])
        elif any(name_of(leaf) not in matrices.EXACT for leaf in leaves(node)):
            runs[-1].append(node)
    return runs


def _is_known(pipeline: Pipeline, position: int) -> bool:
    node = pipeline.nodes[position]
    if position < len(pipeline.geometry):
        return _is_composed(pipeline, position)
    return works_on_channels(node) or (_is_of_scanner(node) and not repeats(node))


def _is_of_scanner(node: Node) -> bool:
    return all(name_of(leaf) in catalog.SCANNER for leaf in leaves(node))


def works_on_channels(node: Node) -> bool:
    """Return whether a node holds only windows and transforms in `INTENSITY`."""
    return all(
        name_of(leaf) in catalog.WINDOWS or INTENSITY.get(name_of(leaf), lambda _: False)(leaf)
        for leaf in leaves(node)
    ) and not repeats(node)


def _is_composed(pipeline: Pipeline, position: int) -> bool:
    geometry, node = pipeline.geometry, pipeline.geometry[position]
    if repeats(node) or not all(map(matrices.is_mapped, leaves(node))):
        return False
    before = sizes.output_size(geometry[:position])
    inside = list(leaves(node))
    if any(name_of(leaf) == matrices.GRID for leaf in inside):
        return before is not None and before == sizes.output_size(geometry[: position + 1])
    if any(matrices.averages_areas(leaf) for leaf in inside):
        # Behind what runs on the CPU, images come as they are, each with a size of its own.
        is_first = position == 0 or not _is_composed(pipeline, position - 1)
        return inside[0] is node and node["p"] == 1 and (before is not None or is_first)
    return True


def repeats(node: Node) -> bool:
    """Return whether a container may run one transform more than once."""
    if name_of(node) not in catalog.CONTAINERS:
        return False
    return bool(node.get("replace")) or any(map(repeats, node["transforms"]))


class Layout:
    """The places of each transform's numbers in a row.

    Args:
        plan: the transforms; the records are of `plan.geometry`, then of `plan.rest`.
    """

    def __init__(self, plan: Plan, pipeline: Pipeline) -> None:
        self.geometry: list[tuple[Node, slice]] = []
        self.rest: list[tuple[Node, slice]] = []
        self.length = 1  # the seed
        size = sizes.output_size(pipeline.geometry[: len(plan.host)])
        for position, node in enumerate(plan.geometry):
            for leaf in leaves(node):
                self.geometry.append((leaf, self._take(_geometry_length(leaf, size))))
            size = sizes.output_size(pipeline.geometry[: len(plan.host) + position + 1])
        for node in plan.rest:
            for leaf in leaves(node):
                self.rest.append((leaf, self._take(_rest_length(leaf))))

    def _take(self, count: int) -> slice:
        self.length += count
        return slice(self.length - count, self.length)

    def row(self, record: Record, shape: Shape, seed: int) -> tuple[np.ndarray, list[Shape]]:
        """Return the row of a sample, and the shapes before each of `steps` and after the last.

        Args:
            shape: (height, width) before the first transform.
        """
        row = np.zeros(self.length)
        row[0] = seed
        shapes = [shape]
        for position, (leaf, place) in enumerate(self.geometry):
            params = record.get(position)
            if name_of(leaf) == catalog.SWAP:
                row[place] = params is not None
                continue
            shapes.append(_write_geometry(row[place], leaf, params, shapes[-1]))
        for position, (leaf, place) in enumerate(self.rest, start=len(self.geometry)):
            if position in record:
                _write_rest(row[place], leaf, record[position])
        return row, shapes

    def steps(self, rows: np.ndarray) -> list[Step | BoxStep]:
        """Return the geometry of a batch of rows, in the order it runs."""
        return [
            _read_geometry(rows[:, place], leaf)
            for leaf, place in self.geometry
            if name_of(leaf) != catalog.SWAP
        ]

    def are_swapped(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the slices of each row come in reverse order, bool (batch,).

        All slices are moved alike, so it makes no difference when.
        """
        places = [place for leaf, place in self.geometry if name_of(leaf) == catalog.SWAP]
        return sum((rows[:, place.start] for place in places), np.zeros(len(rows))) % 2 == 1


def _geometry_length(leaf: Node, size: Shape | None) -> int:
    if matrices.averages_areas(leaf):
        return 4
    if name_of(leaf) == catalog.SWAP:
        return 1
    if name_of(leaf) == matrices.GRID:
        assert size is not None
        return 2 + size[0] + size[1]
    return 8


def _write_geometry(row: np.ndarray, leaf: Node, params: Any, shape: Shape) -> Shape:
    """Fill the part of a geometric transform; return the shape of its output."""
    name = name_of(leaf)
    if matrices.averages_areas(leaf):
        row[:] = matrices.box_of(name, params, shape)
        return params["mapping"][1]
    row[:2] = shape
    if name == matrices.GRID:
        width = shape[1]
        row[2 : 2 + width] = np.arange(width) if params is None else params["xs"]
        row[2 + width :] = np.arange(shape[0]) if params is None else params["ys"]
        return shape
    if params is None:
        row[2:] = (1, 0, 0, 0, 1, 0)
        return shape
    matrix, shape = params["mapping"]
    row[2:] = matrix[:2].ravel()
    return shape


def _read_geometry(rows: np.ndarray, leaf: Node) -> Step | BoxStep:
    name = name_of(leaf)
    if matrices.averages_areas(leaf):
        height, width = sizes.size_of(leaf)
        return BoxStep(rows.astype(np.int64), (height, width))
    if name == matrices.GRID:
        width = int(rows[0, 1])
        places = rows[:, 2:]
        return AxisStep(places[:, :width], places[:, width:], rows[:, :2], leaf["border_mode"])
    matrix = np.zeros((len(rows), 3, 3))
    matrix[:, :2] = rows[:, 2:].reshape(-1, 2, 3)
    matrix[:, 2, 2] = 1
    if name in matrices.INSIDE:
        return MatrixStep(matrix, rows[:, :2], cv2.BORDER_REPLICATE, HALF_PIXEL)
    return MatrixStep(matrix, rows[:, :2], leaf["border_mode"])


def _rest_length(leaf: Node) -> int:
    name = name_of(leaf)
    if name in catalog.WINDOWS:
        return 2 * catalog.num_windows(leaf)
    if name in catalog.SCANNER:
        return 1 + len(catalog.SCANNER_CLASSES[name].numbers)
    if name == "CoarseDropout":
        return 4 * int(leaf["num_holes_range"][1])
    return {"GaussNoise": 3, "RandomBrightnessContrast": 3, "RandomGamma": 2}[name]


def _write_rest(row: np.ndarray, leaf: Node, params: dict[str, Any]) -> None:
    """Fill the part of an applied transform; others stay 0."""
    name = name_of(leaf)
    if name in catalog.WINDOWS:
        row[:] = (*params["widths"], *params["centers"])
    elif name in catalog.SCANNER:
        row[:] = (1, *(params[number] for number in catalog.SCANNER_CLASSES[name].numbers))
    elif name == "CoarseDropout":
        holes = params["holes"].ravel()
        row[: len(holes)] = holes
    elif name == "GaussNoise":
        row[:] = (1, params["std"], params["mean"])
    elif name == "RandomBrightnessContrast":
        row[:] = (1, params["alpha"], params["beta"])
    else:
        row[:] = (1, params["gamma"])
