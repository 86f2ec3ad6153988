"""Mimics of hemorrhage: calcium, dense vessels, swelling of the scalp, tumors.

They are drawn for healthy and bleeding heads alike, so that neither brightness nor its place in
one slice gives the answer.
"""

import numpy as np

from rsna.phantom.anatomy import Head
from rsna.phantom.grid import Field, axes, ramp, smooth_noise
from rsna.phantom.shapes import Point, blend, capsule, ellipsoid

Rng = np.random.Generator


def paint_mimics(head: Head, rng: Rng) -> None:
    """Paint a random choice of mimics into `head`; calcium is commoner in the old."""
    old = np.clip((head.body.age - 20) / 70, 0, 1)
    _calcify(head, rng, old)
    _vessels(head, rng)
    if rng.random() < 0.35 * old + 0.08:
        _old_infarct(head, rng)
    if rng.random() < 0.08:
        _meningioma(head, rng)
    if rng.random() < 0.45:
        _scalp_swelling(head, rng)
    _beam_hardening(head, rng)


def _spot(head: Head, center: Point, radius: float, hu: float, rng: Rng) -> None:
    radii = tuple(float(radius * f) for f in np.exp(rng.normal(0, 0.25, 3)))
    where, inside_mm = ellipsoid(center, radii)  # type: ignore[arg-type]
    blend(head.brain_hu, where, ramp(inside_mm, 1.5) * (head.cavity_mm[where] > 0), hu)


def _calcify(head: Head, rng: Rng, old: float) -> None:
    if rng.random() < 0.4 + 0.4 * old:  # pineal gland and habenula
        _spot(head, (rng.normal(0, 1), -31, 2), rng.uniform(1.5, 3.5), rng.uniform(90, 350), rng)
    if rng.random() < 0.3 + 0.5 * old:  # choroid plexus, mostly on both sides
        hu = rng.uniform(80, 300)
        for side in (-1.0, 1.0):
            if rng.random() < 0.85:
                place = (side * 24 + rng.normal(0, 2), -40 + rng.normal(0, 2), 8 + rng.normal(0, 3))
                _spot(head, place, rng.uniform(1.5, 4.0), hu, rng)
    if rng.random() < 0.1 + 0.15 * old:  # basal ganglia
        hu = rng.uniform(55, 110)
        for side in (-1.0, 1.0):
            _spot(head, (side * 20, 2 + rng.normal(0, 2), 0), rng.uniform(2, 4.5), hu, rng)
    if rng.random() < 0.3:  # falx
        z, y, _ = axes()
        place_y, place_z = rng.uniform(-60, 55), rng.uniform(25, 60)
        near = np.hypot((y - place_y) / rng.uniform(5, 14), (z - place_z) / rng.uniform(5, 10))
        plaque = ramp(rng.uniform(1.2, 2.2) - head.falx_mm, 1.2) * (near < 1)
        head.brain_hu += plaque * (rng.uniform(120, 600) - head.brain_hu)
    for side in (-1.0, 1.0):
        if rng.random() < 0.5 * old:  # carotid siphon
            _spot(head, (12 * side, 2, -25), rng.uniform(1.2, 2.5), rng.uniform(200, 700), rng)
    if rng.random() < 0.06:  # an old granuloma or cavernoma
        place = (rng.uniform(-45, 45), rng.uniform(-70, 45), rng.uniform(-5, 50))
        _spot(head, place, rng.uniform(1.5, 4.0), rng.uniform(60, 250), rng)


def _vessels(head: Head, rng: Rng) -> None:
    hu = head.body.venous * rng.uniform(0.8, 1.1)
    tubes: list[tuple[Point, Point, float]] = [((0, -13, -36), (0, -7, -16), 1.7)]
    for side in (-1.0, 1.0):
        tubes.append(((9 * side, 2, -20), (34 * side, 6, -14), 1.2))
        tubes.append(((10 * side, 2, -28), (9 * side, 2, -18), 2.0))
    for start, end, radius in tubes:
        where, inside_mm = capsule(start, end, radius)
        share = ramp(inside_mm, 1.5) * (head.cavity_mm[where] > 0)
        blend(head.brain_hu, where, share, hu)


def _old_infarct(head: Head, rng: Rng) -> None:
    side = rng.choice((-1.0, 1.0))
    center = (side * rng.uniform(25, 55), rng.uniform(-65, 35), rng.uniform(-5, 40))
    size = rng.uniform(6, 24)
    where, inside_mm = ellipsoid(center, (size, size * 1.2, size), margin=8.0)
    rough = 0.25 * size * smooth_noise(rng, 12.0)[where]
    share = ramp(inside_mm + rough, 5.0) * ramp(head.cavity_mm[where], 1.0)
    blend(head.brain_hu, where, 0.9 * share, rng.uniform(9, 22))


def _meningioma(head: Head, rng: Rng) -> None:
    z, y, x = axes()
    side = rng.choice((-1.0, 1.0))
    center = (side * rng.uniform(20, 60), rng.uniform(-60, 50), rng.uniform(20, 60))
    size = rng.uniform(8, 15)
    inside_mm = size - np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2)
    depth = head.cavity_mm
    share = ramp(inside_mm.astype(np.float32), 1.5) * ramp(depth, 1.0) * (depth < 2 * size)
    head.brain_hu += share * (rng.uniform(42, 50) + 0.5 * smooth_noise(rng, 6.0) - head.brain_hu)


def _scalp_swelling(head: Head, rng: Rng) -> None:
    """Paint a subgaleal hematoma: as bright as blood inside, and outside the skull."""
    z, y, x = axes()
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.9)
    unit = np.array([np.cos(angle), np.sin(angle), height])
    unit /= np.linalg.norm(unit)
    along = x * unit[0] + (y + 18) * unit[1] + (z - 12) * unit[2]
    across = np.sqrt(np.clip(x**2 + (y + 18) ** 2 + (z - 12) ** 2 - along**2, 0, None))
    radius = rng.uniform(18, 40)
    bulge = rng.uniform(4, 10) * (1 - (across / radius) ** 2)
    outside_mm = -head.cavity_mm
    level = head.body.skull_mm + 0.6 * head.body.scalp_mm
    share = ramp(bulge - (outside_mm - level), 2.0) * (along > 20) * (outside_mm > 3)
    share = share * ramp(150 - head.outside_hu, 100)
    blood = rng.uniform(45, 68) + 6 * smooth_noise(rng, 8.0)
    head.outside_hu += share.astype(np.float32) * (blood - head.outside_hu)


def _beam_hardening(head: Head, rng: Rng) -> None:
    """Brighten the brain beside the skull by some HU, as an imperfect correction does."""
    near: Field = np.exp(-np.clip(head.cavity_mm, 0, 40) / np.float32(4.0))
    head.brain_hu += np.float32(rng.uniform(0, 7)) * near
