"""Painting of simple solids into a volume in HU: ellipsoids and capsules with soft borders."""

import numpy as np

from rsna.phantom.grid import Field, box, local_axes, ramp

Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]


def blend(volume: Field, where: Box, share: Field, value: Field | float) -> None:
    """Mix `value` into a box of `volume` (HU), by a share from 0 to 1 of each voxel."""
    part = volume[where]
    part += share * (value - part)


def ellipsoid(center: Point, radii: Point, margin: float = 3.0) -> tuple[Box, Field]:
    """Return a box and in it the approximate distance in mm to an ellipsoid, positive inside."""
    where = box(center, (radii[0] + margin, radii[1] + margin, radii[2] + margin))
    z, y, x = local_axes(where)
    reach = np.sqrt(
        ((x - center[0]) / radii[0]) ** 2
        + ((y - center[1]) / radii[1]) ** 2
        + ((z - center[2]) / radii[2]) ** 2
    )
    return where, ((1 - reach) * np.float32(min(radii))).astype(np.float32)


def capsule(
    start: Point, end: Point, radius: float, radius_end: float | None = None
) -> tuple[Box, Field]:
    """Return a box and in it the distance in mm to a (tapering) capsule, positive inside."""
    radius_end = radius if radius_end is None else radius_end
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    half = np.abs(b - a) / 2 + max(radius, radius_end) + 3.0
    middle = (a + b) / 2
    where = box(tuple(middle), tuple(half))
    z, y, x = local_axes(where)
    d = b - a
    along = ((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / max(float(d @ d), 1e-6)
    along = np.clip(along, 0, 1)
    distance = np.sqrt(
        (x - a[0] - along * d[0]) ** 2
        + (y - a[1] - along * d[1]) ** 2
        + (z - a[2] - along * d[2]) ** 2
    )
    return where, (radius + (radius_end - radius) * along - distance).astype(np.float32)


def paint_ellipsoid(volume: Field, center: Point, radii: Point, value: float) -> None:
    """Paint an ellipsoid of one HU value."""
    where, inside_mm = ellipsoid(center, radii)
    blend(volume, where, ramp(inside_mm, 1.5), value)


def paint_capsule(
    volume: Field, start: Point, end: Point, radius: float, value: float, end_radius: float = 0.0
) -> None:
    """Paint a capsule of one HU value; `end_radius` 0 stands for `radius`."""
    where, inside_mm = capsule(start, end, radius, end_radius or radius)
    blend(volume, where, ramp(inside_mm, 1.5), value)
