"""The source of each pixel of a geometric transform: albumentations' parameters as matrices.

Coordinates are (x, y) of pixel centres, the first pixel at (0, 0). A matrix maps a place in the
output image to a place in the input image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from common.transforms.catalog import SWAP, Node, name_of, with_trait

Shape = tuple[int, int]

# Borders whose coordinates can be folded back, or that are a constant.
BORDERS = frozenset(
    {cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101}
)
# Never look outside the image by more than the half pixel of a resize.
INSIDE = with_trait("inside")
# Copy pixels without weighing neighbours.
EXACT = with_trait("exact")
# Make an image of a given size of a box, and may average over areas in doing so.
BOXES = with_trait("resample")
GRID = "GridDistortion"

_D4_TURNS = {"e": 0, "r90": 1, "r180": 2, "r270": 3}


def is_mapped(node: Node) -> bool:
    """Return whether the transform of a node is known here, with its arguments."""
    name = name_of(node)
    if name == SWAP:
        return True
    if name not in _MATRICES and name != GRID:
        return False
    if node.get("interpolation", cv2.INTER_LINEAR) != cv2.INTER_LINEAR:
        return False
    if name not in INSIDE and node["border_mode"] not in BORDERS:
        return False
    if name in ("CenterCrop", "RandomCrop") and node.get("pad_if_needed"):
        return False
    return not averages_areas(node) or name in BOXES


def averages_areas(node: Node) -> bool:
    """Return whether the node is a resize that averages areas where it shrinks an image."""
    return bool(node.get("area_for_downscale"))


def mapping(
    name: str, params: Mapping[str, Any], transform: Any, shape: Shape
) -> tuple[np.ndarray, Shape]:
    """Return the matrix (3, 3), output to input, and the shape of what comes out.

    Args:
        params: its draws by albumentations.
        shape: (height, width) of the input.
    """
    return _MATRICES[name](params, transform, shape)


def box_of(name: str, params: Mapping[str, Any], shape: Shape) -> tuple[int, int, int, int]:
    """Return the (left, top, width, height) that a transform of `BOXES` crops."""
    if name == "Resize":
        return 0, 0, shape[1], shape[0]
    left, top, right, bottom = params["crop_coords"]
    return left, top, right - left, bottom - top


def spacing_after(
    matrix: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return how far rows, columns and slices lie apart behind a transform, mm.

    Args:
        matrix: of the transform, output to input.
        spacing_mm: the same before it.
    """
    step_mm = matrix[:2, :2] * [[spacing_mm[1]], [spacing_mm[0]]]
    column_mm, row_mm = np.hypot(*step_mm).tolist()
    return row_mm, column_mm, spacing_mm[2]


def _matrix(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array([*rows, (0.0, 0.0, 1.0)])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    return _matrix((a, b, -a * x - b * y), (c, d, -c * x - d * y))


def _turned(turns: int, shape: Shape) -> tuple[np.ndarray, Shape]:
    """Return the matrix of np.rot90, which turns counterclockwise."""
    bottom, right = shape[0] - 1, shape[1] - 1
    if turns == 0:
        return np.eye(3), shape
    if turns == 1:
        return _matrix((0, -1, right), (1, 0, 0)), shape[::-1]
    if turns == 2:
        return _matrix((-1, 0, right), (0, -1, bottom)), shape
    return _matrix((0, 1, 0), (-1, 0, bottom)), shape[::-1]


def _mirrored(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    return _matrix((-1, 0, shape[1] - 1), (0, 1, 0)), shape


def _flipped(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    return _matrix((1, 0, 0), (0, -1, shape[0] - 1)), shape


def _transposed(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    return _matrix((0, 1, 0), (1, 0, 0)), shape[::-1]


def _rotated_by_90(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    return _turned(params["factor"], shape)


def _d4(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    element = params["group_element"]
    if element in _D4_TURNS:
        return _turned(_D4_TURNS[element], shape)
    if element == "hvt":
        return _matrix((0, -1, shape[1] - 1), (-1, 0, shape[0] - 1)), shape[::-1]
    return {"v": _flipped, "h": _mirrored, "t": _transposed}[element](params, transform, shape)


def _resampled(left: float, top: float, width: float, height: float, shape: Shape) -> np.ndarray:
    """Return the matrix of a box that becomes `shape`, pixel areas aligned as in cv2.resize."""
    scale_x, scale_y = width / shape[1], height / shape[0]
    return _matrix(
        (scale_x, 0, left + scale_x / 2 - 0.5),
        (0, scale_y, top + scale_y / 2 - 0.5),
    )


def _resized(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    size = (int(transform.height), int(transform.width))
    return _resampled(0, 0, shape[1], shape[0], size), size


def _crop_resized(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    size = (int(transform.size[0]), int(transform.size[1]))
    return _resampled(*box_of("", params, shape), size), size


def _rescaled(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    scale = params["scale"]
    if type(transform).__name__ == "RandomScale":  # rounds down
        size = (int(shape[0] * scale), int(shape[1] * scale))
    else:
        size = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    return _resampled(0, 0, shape[1], shape[0], size), size


def _cropped(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    left, top, right, bottom = params["crop_coords"]
    return _matrix((1, 0, left), (0, 1, top)), (bottom - top, right - left)


def _padded(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    top, left = params["pad_top"], params["pad_left"]
    size = (shape[0] + top + params["pad_bottom"], shape[1] + left + params["pad_right"])
    return _matrix((1, 0, -left), (0, 1, -top)), size


def _affine(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    height, width = (int(np.round(length)) for length in params["output_shape"])
    return _inverse(params["matrix"]), (height, width)


def _rotated(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    matrix = _inverse(params["matrix"])
    if not transform.crop_border:
        return matrix, shape
    left, top = params["x_min"], params["y_min"]
    size = (params["y_max"] - top, params["x_max"] - left)
    return matrix @ _matrix((1, 0, left), (0, 1, top)), size


def _zoomed(params: Any, transform: Any, shape: Shape) -> tuple[np.ndarray, Shape]:
    return params["source"], shape


_MATRICES: dict[str, Callable[[Any, Any, Shape], tuple[np.ndarray, Shape]]] = {
    "Affine": _affine,
    "CenterCrop": _cropped,
    "D4": _d4,
    "FieldOfView": _zoomed,
    "HorizontalFlip": _mirrored,
    "LongestMaxSize": _rescaled,
    "Pad": _padded,
    "PadIfNeeded": _padded,
    "RandomCrop": _cropped,
    "RandomResizedCrop": _crop_resized,
    "RandomRotate90": _rotated_by_90,
    "RandomScale": _rescaled,
    "RandomSizedCrop": _crop_resized,
    "Resize": _resized,
    "Rotate": _rotated,
    "ShiftScaleRotate": _affine,
    "SmallestMaxSize": _rescaled,
    "Transpose": _transposed,
    "VerticalFlip": _flipped,
}
