"""Several geometric transforms as one resampling, for a batch, with numpy or with torch.

A step takes places in what comes out of it to places in what goes in, and folds back those that
its border reflects; so the steps run from the last to the first, and the image is read once.
Arrays of coordinates are (batch, height, width), with 1 for an axis along which nothing changes:
as long as nothing turns, all of this costs next to nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# How far a resize reads beyond the edges; its border repeats them, as reading the image does.
HALF_PIXEL = 0.501
NO_BORDER = -1
_IDENTITY, _ONE = np.eye(3), np.ones(1)


@dataclass
class MatrixStep:
    """Matrices and sizes of a batch.

    Attributes:
        matrix: float64 (batch, 3, 3), output to input, of (x, y) of pixel centres.
        size_in: float64 (batch, 2), height and width of what goes in.
        border: one of `matrices.BORDERS`.
        tolerance: how far places may lie outside before the border matters, in pixels.
        outside: how far places lie outside, in pixels: left, right, above and below; -inf: unknown.
    """

    matrix: np.ndarray
    size_in: np.ndarray
    border: int
    tolerance: float = 1e-4
    outside: tuple[float, ...] = (-math.inf,) * 4

    def bordered(self, size_out: np.ndarray) -> "MatrixStep":
        """Return the step as it is for an output of height and width `size_out`.

        Its border is `NO_BORDER` where no corner of the output lies outside what goes in.
        """
        outside = [-math.inf] * 4
        for matrix, size, (bottom, right) in zip(
            self.matrix[:, :2].tolist(), self.size_in.tolist(), (size_out - 1).tolist()
        ):
            for side, (a, b, offset), length in zip((0, 2), matrix, (size[1], size[0])):
                across, down = a * right, b * bottom
                low = offset + min(across, 0.0) + min(down, 0.0)
                high = offset + max(across, 0.0) + max(down, 0.0)
                outside[side] = max(outside[side], -low)
                outside[side + 1] = max(outside[side + 1], high - (length - 1))
        border = self.border if max(outside) > self.tolerance else NO_BORDER
        return MatrixStep(self.matrix, self.size_in, border, self.tolerance, tuple(outside))


@dataclass
class AxisStep:
    """Where the pixels of each column and row come from.

    Attributes:
        xs, ys: float64 (batch, width) and (batch, height).
        size_in: float64 (batch, 2), height and width of what goes in.
        border: one of `matrices.BORDERS`.
    """

    xs: np.ndarray
    ys: np.ndarray
    size_in: np.ndarray
    border: int
    tolerance: float = 0.0

    @property
    def outside(self) -> tuple[float, ...]:
        """How far places lie outside, in pixels: left, right, above and below."""
        last_y, last_x = (self.size_in - 1).min(axis=0)
        return -self.xs.min(), self.xs.max() - last_x, -self.ys.min(), self.ys.max() - last_y


Step = MatrixStep | AxisStep


def simplified(steps: Sequence[Step], size_out: tuple[int, int]) -> list[Step]:
    """Return the steps from the last to the first, with as few of them as do the same.

    What changes no sample of the batch is left out; matrices are multiplied where no border lies
    between them.

    Args:
        steps: in the order that the transforms run.
        size_out: (height, width) after the last one.
    """
    chain: list[Step] = []
    sizes = [*[step.size_in for step in steps[1:]], np.array([size_out], dtype=np.float64)]
    for step, size in zip(reversed(steps), reversed(sizes)):
        if isinstance(step, AxisStep):
            if _moves(step.xs) or _moves(step.ys):
                chain.append(step)
            continue
        size = np.broadcast_to(size, step.size_in.shape)
        if np.abs(step.matrix - _IDENTITY).max() < 1e-9 and (size == step.size_in).all():
            continue
        step = step.bordered(size)
        last = chain[-1] if chain else None
        if isinstance(last, MatrixStep) and last.border == NO_BORDER:
            chain.pop()
            step.matrix = step.matrix @ last.matrix
        chain.append(step)
    return chain


def _moves(places: np.ndarray) -> bool:
    return bool((places != np.arange(places.shape[1])).any())


def coordinates(
    chain: Sequence[Step],
    size_out: tuple[int, int],
    library: Any,
    as_array: Callable[[np.ndarray], Any],
) -> tuple[Any, Any, Any]:
    """Return x, y and coverage of each pixel of the output.

    Coverage is the weight of the image against the constant outside it; None where it is 1.

    Args:
        chain: what `simplified` returned.
        library: numpy or torch.
        as_array: makes a float32 array of the library.
    """
    places = [np.arange(n, dtype=np.float64) for n in reversed(size_out)]
    x, y = (
        _Axis(as_array(v.reshape(s)), as_array) for v, s in zip(places, ((1, 1, -1), (1, -1, 1)))
    )
    coverage = None
    for step in chain:
        if isinstance(step, AxisStep):
            xs, ys = as_array(step.xs), as_array(step.ys)
            if step is chain[0]:  # looked up at every pixel of their own
                x.values, y.values = xs[:, None, :], ys[:, :, None]
            else:
                x.values = _looked_up(xs, x.settled(library), library)
                y.values = _looked_up(ys, y.settled(library), library)
        elif step.matrix[:, (0, 1), (1, 0)].any():
            both = x.settled(library), y.settled(library)
            x.values, y.values = _multiplied(step.matrix, *both, library, as_array)
        else:
            x.move(step.matrix[:, 0, 0], step.matrix[:, 0, 2])
            y.move(step.matrix[:, 1, 1], step.matrix[:, 1, 2])
        if step.border == NO_BORDER:
            continue
        far = max(step.outside) > step.size_in.min() - 1
        for axis, length, sides in zip(
            (x, y), (step.size_in[:, 1], step.size_in[:, 0]), (step.outside[:2], step.outside[2:])
        ):
            low, high = (amount > step.tolerance for amount in sides)
            if not low and not high:
                continue
            if step.border == cv2.BORDER_CONSTANT:
                inside = _inside(axis.settled(library), as_array(length[:, None, None]), library)
                coverage = inside if coverage is None else coverage * inside
            axis.fold(length, step.border, library, (low or far, high or far, far))
    return x.settled(library), y.settled(library), coverage


class _Axis:
    """Places along one axis: values * scale + shift, which is computed as late as possible.

    Args:
        values: float32 (batch, height, width), or 1 where they are all alike; written in place.
        as_array: makes such an array.
    """

    def __init__(self, values: Any, as_array: Callable[[np.ndarray], Any]) -> None:
        self.values, self._as_array = values, as_array
        self._moves: tuple[np.ndarray, np.ndarray] | None = None

    def move(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Take places to scale * places + shift, float64 (batch,)."""
        if self._moves is not None:
            scale, shift = self._moves[0] * scale, self._moves[1] * scale + shift
        self._moves = scale, shift

    def settled(self, library: Any) -> Any:
        """Return the places."""
        if self._moves is None:
            return self.values
        scales = set(self._moves[0].tolist())
        scale, shift = (self._as_array(v[:, None, None]) for v in self._moves)
        self._moves = None
        if scales == {-1.0}:
            out = self.values if self.values.shape[0] == len(shift) else None
            self.values = library.subtract(shift, self.values, out=out)
            return self.values
        if scales != {1.0}:
            self.values = _into(library.multiply, self.values, scale)
        self.values = _into(library.add, self.values, shift)
        return self.values

    def fold(
        self, length: np.ndarray, border: int, library: Any, outside: tuple[bool, bool, bool]
    ) -> None:
        """Fold places into [0, length - 1] as the border does.

        Args:
            outside: whether some lie below that, above it, and by more than `length - 1`.
        """
        is_low, is_high, is_far = outside
        if border != cv2.BORDER_REFLECT_101:
            length = self._as_array(length[:, None, None])
            self.values = _folded(self.settled(library), length, border, library, is_far)
            return
        last = (length - 1).clip(1)
        if is_low:
            places = self.settled(library)
            self.values = library.abs(places, out=places)
            if is_far:
                self.values = library.remainder(
                    self.values, self._as_array(2 * last[:, None, None])
                )
        if is_high:
            self.move(_ONE, -last)
            places = self.settled(library)
            self.values = library.abs(places, out=places)
            self.move(-_ONE, last)


def _multiplied(matrix: np.ndarray, x: Any, y: Any, library: Any, as_array: Any) -> tuple[Any, Any]:
    """Return x and y of a matrix."""
    rows = []
    if library is np and x.shape[:2] == y.shape[::2] == (1, 1):
        # Of two lines: broadcasting takes twice as long as a product of matrices.
        ones = np.ones_like(x[0]), np.ones_like(y[0])
        for a, b, shift in matrix[0, :2].astype(np.float32):
            one, other = np.hstack([ones[1], y[0] * b + shift]), np.vstack([x[0] * a, ones[0]])
            rows.append((one @ other)[None])
        return rows[0], rows[1]
    for row in matrix[:, :2].transpose(1, 0, 2):
        # The offset first: as long as x and y are lines, it costs nothing there.
        total = as_array(row[:, 2, None, None])
        for factor, places in zip(row.T, (x, y)):
            if factor.any():
                total = total + places * as_array(factor[:, None, None])
        rows.append(total)
    return rows[0], rows[1]


def _into(function: Any, one: Any, other: Any) -> Any:
    """Return a function of two arrays, in the memory of the first if that fits."""
    fits = all(n >= m for n, m in zip(one.shape, other.shape))
    return function(one, other, out=one if fits else None)


def _looked_up(table: Any, places: Any, library: Any) -> Any:
    """Return the table (batch, length) at places, linear between its entries."""
    last = table.shape[1] - 1
    places = places.clip(0, last)
    low = library.floor(places).clip(0, max(last - 1, 0))
    part = places - low
    if library is np:
        index = np.broadcast_to(low.astype(np.int64), (len(table), *low.shape[1:]))
        flat = index.reshape(len(table), -1)
        first = np.take_along_axis(table, flat, 1).reshape(index.shape)
        second = np.take_along_axis(table, np.minimum(flat + 1, last), 1).reshape(index.shape)
    else:
        index = low.long().expand(len(table), *low.shape[1:])
        flat = index.reshape(len(table), -1)
        first = table.gather(1, flat).reshape(index.shape)
        second = table.gather(1, (flat + 1).clamp_(max=last)).reshape(index.shape)
    return first + (second - first) * part


def _inside(places: Any, length: Any, library: Any) -> Any:
    """Return the share of a pixel read at `places` that lies on the image."""
    return library.minimum(places + 1, length - places).clip(0, 1)


def _folded(places: Any, length: Any, border: int, library: Any, is_far: bool) -> Any:
    """Fold places into [0, length - 1] as a border that is not REFLECT_101 does."""
    if border == cv2.BORDER_REFLECT:
        places = abs(places + 0.5)
        if is_far:
            places = library.remainder(places, 2 * length)
        places = length - abs(places - length) - 0.5
    return library.minimum(places.clip(0), length - 1)


def warp_on_host(
    image: np.ndarray, chain: Sequence[Step], size: tuple[int, int], fill: float
) -> Any:
    """Return float32 (height, width[, slices]) of one image, by OpenCV."""
    if not chain:
        return image
    slices = [image] if image.ndim == 2 else list(np.moveaxis(image, 2, 0))
    slices = [np.ascontiguousarray(one, np.float32) for one in slices]
    x, y, coverage = coordinates(chain, size, np, lambda values: values.astype(np.float32))
    map_x, map_y = (np.ascontiguousarray(np.broadcast_to(v[0], size)) for v in (x, y))
    border = cv2.BORDER_REPLICATE
    warped = [cv2.remap(one, map_x, map_y, cv2.INTER_LINEAR, None, border) for one in slices]
    if coverage is not None:
        warped = [fill + coverage[0] * (one - fill) for one in warped]
    return warped[0] if image.ndim == 2 else np.moveaxis(np.stack(warped), 0, 2)
