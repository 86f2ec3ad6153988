"""The grid on which phantom heads are built, and smooth random fields on it.

Axes are (z, y, x) as in a stack of axial slices seen from below: z rises to the vertex, y runs from
the face to the back of the head, x from the patient's right to the left. Coordinates are those of
the MNI152 template in millimetres: x to the right, y to the front, z to the vertex.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

X_RIGHT, Y_FRONT, Z_BOTTOM = 96.0, 106.0, -86.0
STEP_Z, STEP_Y, STEP_X = 2.0, 1.0, 1.0
SHAPE = (92, 238, 193)


@lru_cache(maxsize=1)
def axes() -> tuple[Field, Field, Field]:
    """Return the MNI coordinates in mm along (z, y, x), shaped to broadcast over the grid."""
    z = Z_BOTTOM + STEP_Z * np.arange(SHAPE[0], dtype=np.float32)
    y = Y_FRONT - STEP_Y * np.arange(SHAPE[1], dtype=np.float32)
    x = X_RIGHT - STEP_X * np.arange(SHAPE[2], dtype=np.float32)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def index_of(x: float, y: float, z: float) -> tuple[int, int, int]:
    """Return the (z, y, x) index nearest to a point in MNI mm, clipped to the grid."""
    raw = ((z - Z_BOTTOM) / STEP_Z, (Y_FRONT - y) / STEP_Y, (X_RIGHT - x) / STEP_X)
    return tuple(int(np.clip(round(v), 0, n - 1)) for v, n in zip(raw, SHAPE))  # type: ignore[return-value]


def box(
    center: tuple[float, float, float], radius: float | tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """Return the index slices of the box of half-width `radius` (x, y, z; mm) around a point."""
    rx, ry, rz = (radius,) * 3 if isinstance(radius, int | float) else radius
    x, y, z = center
    k0, j0, i0 = index_of(x + rx, y + ry, z - rz)
    k1, j1, i1 = index_of(x - rx, y - ry, z + rz)
    return slice(k0, k1 + 1), slice(j0, j1 + 1), slice(i0, i1 + 1)


def local_axes(where: tuple[slice, slice, slice]) -> tuple[Field, Field, Field]:
    """Return the coordinates (z, y, x) of a box, shaped to broadcast."""
    z, y, x = axes()
    return z[where[0]], y[:, where[1]], x[:, :, where[2]]


@lru_cache(maxsize=256)
def spline_matrix(num_points: int, step: float, spacing: float) -> Field:
    """Return cubic B-spline weights (points, knots): points `step`, knots `spacing` apart."""
    position = np.arange(num_points) * (step / spacing) + 2.0
    num_knots = int(np.ceil(position[-1])) + 3
    distance = np.abs(position[:, None] - np.arange(num_knots)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def spline_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], steps: tuple[float, ...], scale: float
) -> Field:
    """Return a smooth random field of about unit deviation whose features are `scale` mm apart.

    Normal values on a lattice of `scale` mm are spread by cubic B-splines, one axis at a time.
    """
    weights = [spline_matrix(n, step, scale) for n, step in zip(shape, steps)]
    knots = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    knots *= np.float32(0.4794**-1.5)  # 0.4794: mean over positions of the sum of squared weights
    field = np.tensordot(knots, weights[2], axes=(2, 1))
    field = np.matmul(weights[1][None], field)
    return np.tensordot(weights[0], field, axes=(1, 0))


def smooth_noise(rng: np.random.Generator, scale: float) -> Field:
    """Return `spline_noise` over the whole grid."""
    return spline_noise(rng, SHAPE, (STEP_Z, STEP_Y, STEP_X), scale)


def ramp(field: Field, width: Field | float) -> Field:
    """Return 0 where `field` < -width/2, 1 where it is > width/2, and a straight line between.

    With a signed distance in mm this is the share of a voxel that lies inside.
    """
    share = field / width
    share += 0.5
    return np.clip(share, 0, 1, out=share)
