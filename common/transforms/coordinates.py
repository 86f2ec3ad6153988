"""Where a deterministic pipeline moves pixels to: found by sending coordinates through its steps.

Nothing is inverted by hand: images of x and y run through the very transforms that images of HU
run through, so that what comes out tells where each pixel of the result lay.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.transforms import catalog
from common.transforms.catalog import Node, leaves, name_of
from common.transforms.draw import random_state
from common.transforms.host import HostStages
from common.transforms.physics import Spacing, known_spacing_mm
from common.transforms.pipeline import Pipeline
from common.windows import AIR_HU

# They look at HU, or at other slices, and leave each pixel where it is.
_UNMOVED = frozenset({"ScalpRemoval", catalog.SWAP})
# The value of the slice in the image that tells it from what is filled with air.
_PRESENT = 256.0
# So far from its edges, in pixels, nothing that a resize repeats is mixed in.
_EDGE = 0.75


def matrix_to_slice(
    pipeline: Pipeline, where: str, shape: tuple[int, int], spacing_mm: Spacing = None
) -> NDArray[np.float64]:
    """Return the matrix (3, 3) from (x, y) in the image that a pipeline makes to the slice's.

    Places are those of pixel centres, the first at (0, 0).

    Args:
        pipeline: one that draws nothing.
        where: the name of its file, for messages.
        shape: rows and columns of the slice.
        spacing_mm: how far its rows, columns and slices lie apart, for transforms in mm.

    Raises:
        InputError: it moves pixels otherwise than by a matrix; the message names the step.
    """
    tilts = [leaf for node in pipeline.scanner for leaf in leaves(node)]
    tilts = [leaf for leaf in tilts if name_of(leaf) == "GantryTilt" and leaf["p"]]
    nodes = tuple(map(_for_coordinates, pipeline.geometry))
    if tilts:
        raise _unknown(where, tilts)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    image = np.dstack([x, y, np.full_like(x, _PRESENT)]) + np.float32(AIR_HU)
    generator, py = random_state(0)
    bare = dataclasses.replace(pipeline, geometry=nodes, scanner=(), intensity=())
    stages = HostStages(bare, where, count=len(nodes))
    known = known_spacing_mm(spacing_mm, image.shape) if bare.is_in_mm else None
    x, y, present = stages(image, generator, py, None, known)[0].astype(np.float64) - AIR_HU
    inside = (present > _PRESENT - 0.01) & (x > _EDGE) & (y > _EDGE)
    inside &= (x < shape[1] - 1 - _EDGE) & (y < shape[0] - 1 - _EDGE)
    rows, columns = np.nonzero(inside)
    if len(rows) < 3:
        raise InputError(f"{where}: shows nothing of a slice of {shape[0]} x {shape[1]} pixels")
    made = np.column_stack([columns, rows, np.ones(len(rows))])
    places = np.column_stack([x[inside], y[inside]])
    matrix, _, rank, _ = np.linalg.lstsq(made, places)
    # Taking the nearest pixel is off by half of the distance that one step of the result makes.
    allowed = max(1.0, float(np.abs(matrix[:2]).max()))
    if rank < 3 or np.abs(made @ matrix - places).max() > allowed:
        raise _unknown(where, nodes)
    return np.vstack([matrix.T, (0.0, 0.0, 1.0)])


def _for_coordinates(node: Node) -> Node:
    """Return the node without what looks at HU, and with air in place of reflections."""
    if name_of(node) in catalog.CONTAINERS:
        # Of several one would be drawn: all that can be here are run.
        children = [_for_coordinates(child) for child in node["transforms"]]
        return {catalog.NAME_KEY: "Sequential", "p": node["p"], "transforms": children}
    if name_of(node) in _UNMOVED:
        return {**node, "p": 0.0}
    return {**node, "border_mode": cv2.BORDER_CONSTANT} if "border_mode" in node else node


def _unknown(where: str, nodes: Sequence[Node]) -> InputError:
    names = ", ".join(dict.fromkeys(name_of(leaf) for node in nodes for leaf in leaves(node)))
    return InputError(
        f"{where}: no map can be laid over the slice, as no matrix says where {names} moves its "
        f"pixels"
    )
