"""Draws of albumentations for one sample, without an image: one row of numbers.

The transforms are albumentations' own objects in albumentations' own containers, with the random
state that `SampleTransform` gives them, so that whether and how each is applied is the same on
either side. Only what they would do to the image is left out.
"""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
from albumentations.augmentations.geometric import functional as fgeometric

from common.transforms import catalog, matrices
from common.transforms.catalog import Node

Record = dict[int, dict[str, Any]]
# (center, width) in HU, or an array of both, NaN where a header names none.
HeaderWindow = Sequence[float] | np.ndarray | None
# How far rows, columns and slices lie apart.
SpacingMm = tuple[float, float, float]


class Recorder:
    """Draws for a list of nodes; `leaves` are their transforms in the order they may run."""

    def __init__(self, nodes: Sequence[Node], where: str) -> None:
        self._transforms = [catalog.build(node, where) for node in nodes]
        self.leaves: list[Any] = leaves_of(self._transforms)
        self._record: Record = {}
        self.spacing_mm: SpacingMm | None = None
        for position, leaf in enumerate(self.leaves):
            _leave_out_the_image(leaf)
            leaf.apply_with_params = functools.partial(self._note, position)

    def draw(
        self,
        shape: tuple[int, ...],
        generator: np.random.Generator,
        py: Any,
        header_window: HeaderWindow = None,
        spacing_mm: SpacingMm | None = None,
    ) -> Record:
        """Return the parameters of each leaf that is applied, by its place in `leaves`.

        Args:
            shape: of the image that goes in.
            generator, py: the random state, which goes on from here.
            spacing_mm: how far its rows, columns and slices lie apart; `self.spacing_mm` says so of
                the image that comes out.
        """
        self._record = {}
        data: dict[str, Any] = {
            "image": _blank(shape),
            "header_window": header_window,
            "spacing_mm": spacing_mm,
        }
        for transform in self._transforms:
            transform.set_random_state(generator, py)
            data = transform(**data)
        self.spacing_mm = data["spacing_mm"]
        return self._record

    def _note(self, position: int, params: dict[str, Any], **data: Any) -> dict[str, Any]:
        self._record[position] = params
        data["image"] = _blank(_shape_after(self.leaves[position], params))
        if "mapping" in params and data["spacing_mm"] is not None:
            matrix = params["mapping"][0]
            data["spacing_mm"] = matrices.spacing_after(matrix, data["spacing_mm"])
        return data


def random_state(seed: int) -> tuple[np.random.Generator, random.Random]:
    """Return the random state of a sample, as it is before its first transform."""
    return np.random.default_rng(seed), random.Random(seed)


def leaves_of(transforms: Sequence[Any]) -> list[Any]:
    """Return the transforms, and in place of a container what it holds."""
    leaves: list[Any] = []
    for transform in transforms:
        is_container = isinstance(transform, A.BaseCompose)
        leaves += leaves_of(transform.transforms) if is_container else [transform]
    return leaves


@functools.lru_cache(maxsize=64)
def _blank(shape: tuple[int, ...]) -> np.ndarray:
    """An image of ones that takes no memory; its mean leaves a brightness as it was drawn."""
    return np.broadcast_to(np.float32(1), shape)


def _shape_after(leaf: Any, params: dict[str, Any]) -> tuple[int, ...]:
    shape, name = params["shape"], type(leaf).__name__
    if name in catalog.WINDOWS:
        num_slices = shape[2] if len(shape) == 3 else 1
        return (*shape[:2], num_slices * len(params["widths"]))
    if name in (matrices.GRID, catalog.SWAP) or name not in catalog.GEOMETRIC:
        return shape
    params["mapping"] = matrices.mapping(name, params, leaf, shape[:2])
    return (*params["mapping"][1], *shape[2:])


def _leave_out_the_image(leaf: Any) -> None:
    """Draw as the leaf does, but make no map of the size of the image."""
    own = _DRAWS.get(type(leaf).__name__)
    if own is not None:
        leaf.get_params_dependent_on_data = functools.partial(own, leaf)


def _draw_affine(leaf: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    shape = params["shape"][:2]
    translate = leaf._get_translate_params(shape)
    shear = leaf._get_shear_params()
    scale = leaf._get_scale(leaf.scale, leaf.keep_ratio, leaf.balanced_scale, leaf.py_random)
    degrees = leaf.py_random.uniform(*leaf.rotate)
    matrix = _affine_matrix(translate, shear, scale, degrees, shape)
    if leaf.fit_output:
        matrix, shape = fgeometric.compute_affine_warp_output_shape(matrix, shape)
    return {"matrix": matrix, "output_shape": shape}


def _draw_rotation(leaf: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    height, width = params["shape"][:2]
    degrees = leaf.py_random.uniform(*leaf.limit)
    none, one = {"x": 0, "y": 0}, {"x": 1, "y": 1}
    drawn = {"matrix": _affine_matrix(none, none, one, degrees, (height, width))}
    if leaf.crop_border:
        drawn |= leaf._rotated_rect_with_max_area(height, width, degrees)
    return drawn


def _affine_matrix(translate: Any, shear: Any, scale: Any, degrees: float, shape: Any) -> Any:
    """Return albumentations' `create_affine_transformation_matrix`, input to output."""
    center_x, center_y = shape[1] / 2 - 0.5, shape[0] / 2 - 0.5
    angle = math.radians(degrees % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    shear_x, shear_y = math.tan(math.radians(shear["x"])), math.tan(math.radians(shear["y"]))
    a, b = (cos - shear_x * sin) * scale["x"], (sin + shear_x * cos) * scale["y"]
    c, d = (shear_y * cos - sin) * scale["x"], (shear_y * sin + cos) * scale["y"]
    x = center_x + translate["x"] - a * center_x - b * center_y
    y = center_y + translate["y"] - c * center_x - d * center_y
    return np.array([(a, b, x), (c, d, y), (0.0, 0.0, 1.0)])


def _draw_grid(leaf: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    shape, count = params["shape"][:2], leaf.num_steps
    draw = leaf.py_random.uniform
    steps_x: Any = [1 + draw(*leaf.distort_limit) for _ in range(count + 1)]
    steps_y: Any = [1 + draw(*leaf.distort_limit) for _ in range(count + 1)]
    if leaf.normalized:
        steps = fgeometric.normalize_grid_distortion_steps(shape, count, steps_x, steps_y)
        steps_x, steps_y = steps["steps_x"], steps["steps_y"]
    return {"xs": _axis(shape[1], count, steps_x), "ys": _axis(shape[0], count, steps_y)}


def _axis(length: int, num_steps: int, steps: Sequence[float]) -> np.ndarray:
    """Return the source of each pixel along one axis; `generate_grid` makes a map of it."""
    segment, part = _segments(length, num_steps)
    knots = np.concatenate(([0.0], np.cumsum(steps))) * (length // num_steps)
    return knots[segment] + (knots[segment + 1] - knots[segment]) * part


@functools.lru_cache(maxsize=16)
def _segments(length: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the segment of each pixel, and its distance from the segment's start in pixels."""
    step = length // num_steps
    segment = np.minimum(np.arange(length) // step, num_steps)
    num_pixels = np.minimum(step, length - segment * step)
    return segment, (np.arange(length) - segment * step) / np.maximum(num_pixels - 1, 1)


def _draw_noise(leaf: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    std = leaf.py_random.uniform(*leaf.std_range)
    mean = leaf.py_random.uniform(*leaf.mean_range)
    seed = int(leaf.random_generator.integers(0, 2**16))  # that of OpenCV's noise
    return {"std": std, "mean": mean, "seed": seed}


_DRAWS = {
    "Affine": _draw_affine,
    "GaussNoise": _draw_noise,
    "GridDistortion": _draw_grid,
    "Rotate": _draw_rotation,
    "ShiftScaleRotate": _draw_affine,
}
