"""The five types of intracranial hemorrhage, painted into a head where they occur.

Attenuation follows the age of the blood: acute clot 50 to 75 HU, subacute 35 to 50, chronic
subdural fluid 10 to 30, hyperacute and unclotted parts 30 to 45 (Parizel et al., Eur Radiol 2001;
Dainer and Smoker, Semin Ultrasound CT MR 2007).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rsna.phantom.anatomy import Head
from rsna.phantom.atlas import tentorium_height
from rsna.phantom.grid import (
    SHAPE,
    STEP_X,
    STEP_Y,
    STEP_Z,
    Field,
    axes,
    index_of,
    ramp,
    smooth_noise,
)
from rsna.phantom.shapes import Point

Rng = np.random.Generator
MIDDLE = (0.0, -18.0, 12.0)  # of the brain, mm


@dataclass(frozen=True)
class Lesion:
    """One hemorrhage: its label, and the share of blood, 0 to 1, in each voxel of the grid."""

    label: str
    share: Field


def _distance_to(point: Point) -> Field:
    z, y, x = axes()
    return np.sqrt((x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2)


def _surface_point(head: Head, direction: Point) -> Point:
    """Return where a ray from the middle of the brain meets the inner table of the skull."""
    unit = np.array(direction, float) / np.linalg.norm(direction)
    middle = np.array(MIDDLE)
    for distance in np.arange(20.0, 110.0, 1.0):
        x, y, z = middle + distance * unit
        if head.cavity_mm[index_of(x, y, z)] <= 0.5:
            return float(x), float(y), float(z)
    return tuple(middle + 110.0 * unit)  # type: ignore[return-value]


def _side(rng: Rng) -> float:
    return -1.0 if rng.random() < 0.5 else 1.0


def _clot(rng: Rng, mean_hu: float, uneven_hu: float) -> Field:
    return np.float32(mean_hu) + np.float32(uneven_hu) * smooth_noise(rng, rng.uniform(6, 14))


def _paint(head: Head, share: Field, blood_hu: Field | float) -> None:
    head.brain_hu += share * (blood_hu - head.brain_hu)


def push_brain(head: Head, source: Point, amount_mm: float, reach_mm: float) -> None:
    """Move the content of the cavity away from `source`, most beside it, never at the skull."""
    away = np.array(MIDDLE) - np.array(source)
    away /= np.linalg.norm(away)
    size = amount_mm * np.exp(-((_distance_to(source) / reach_mm) ** 2))
    size = size * np.clip(head.cavity_mm / 8.0, 0, 1)
    # Index steps against the axes of coordinates: y and x fall as the index rises.
    k, j, i = np.meshgrid(
        *(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij", copy=False
    )
    where = np.stack(
        [
            k - size * np.float32(away[2] / STEP_Z),
            j + size * np.float32(away[1] / STEP_Y),
            i + size * np.float32(away[0] / STEP_X),
        ]
    )
    moved = size > 0.1
    points = where[:, moved]
    for field in (head.brain_hu, head.ventricle, head.cistern):
        field[moved] = ndimage.map_coordinates(field, points, order=1, mode="nearest")


def epidural(head: Head, rng: Rng) -> list[Lesion]:
    """Paint a lens between skull and dura, most often temporal or parietal, sharply bordered."""
    side = _side(rng)
    direction = (side, rng.normal(0.1, 0.55), rng.uniform(-0.25, 0.75))
    point = _surface_point(head, direction)
    radius, thick = rng.uniform(24, 40), rng.uniform(10, 22)
    push_brain(head, point, 0.6 * thick, 1.4 * radius)
    profile = thick * (1 - (_distance_to(point) / radius) ** 2)
    z, y, x = axes()
    above = ramp(z - tentorium_height(y, x) - 2.0, 2.0)
    share = ramp(profile - head.cavity_mm, 1.2) * ramp(head.cavity_mm, 1.0) * above
    clot = _clot(rng, rng.uniform(56, 70), 3.0)
    if rng.random() < 0.3:  # the swirl of blood that still flows
        clot = clot - 18 * ramp(smooth_noise(rng, 9.0) - 0.9, 0.6)
    _paint(head, share, clot)
    return [Lesion("epidural", share)]


def subdural(head: Head, rng: Rng) -> list[Lesion]:
    """Paint a crescent over one hemisphere, or a band along the falx or the tentorium."""
    z, y, x = axes()
    side = _side(rng)
    if rng.random() < 0.2:
        return _subdural_of_folds(head, rng, side)
    point = _surface_point(head, (side, rng.normal(0.0, 0.45), rng.uniform(0.0, 0.7)))
    radius, thick = rng.uniform(55, 85), rng.uniform(6, 16)
    push_brain(head, point, 0.6 * thick, 1.2 * radius)
    profile = thick * np.clip(1.05 - (_distance_to(point) / radius) ** 3, -1, 1)
    profile = profile * (1 + 0.12 * smooth_noise(rng, 14.0))
    mine = ramp(side * x - 3.0, 3.0) * ramp(z - tentorium_height(y, x) - 2.0, 2.0)
    share = ramp(profile - head.cavity_mm, 1.5) * ramp(head.cavity_mm, 1.0) * mine
    kind = rng.choice(("acute", "subacute", "chronic", "mixed"), p=(0.6, 0.14, 0.12, 0.14))
    if kind == "mixed":  # old fluid above, fresh blood below: the patient lies on the back
        level = rng.uniform(-50, 0)
        fresh = ramp(level - y + 3 * smooth_noise(rng, 12.0), 14.0)
        clot = 24 + fresh * (rng.uniform(54, 64) - 24)
    else:
        low, high = {"acute": (54, 68), "subacute": (40, 48), "chronic": (14, 24)}[kind]
        clot = _clot(rng, rng.uniform(low, high), 2.5)
    _paint(head, share, clot)
    return [Lesion("subdural", share)]


def _subdural_of_folds(head: Head, rng: Rng, side: float) -> list[Lesion]:
    _, y, x = axes()
    thick = rng.uniform(3.0, 6.0)
    if rng.random() < 0.6:
        middle = rng.uniform(-80, 50)
        along = np.exp(-(((y - middle) / rng.uniform(30, 50)) ** 2))
        share = ramp(thick * along - head.falx_mm, 1.5) * ramp(side * x + 1.0, 2.0)
    else:
        sheet = thick * np.exp(-(((np.abs(x) - 25) / 18) ** 2))
        mine = ramp(side * x - 4.0, 3.0) * ramp(-24.0 - y, 16.0)
        share = ramp(sheet - head.tentorium_mm, 2.0) * mine
    share = share * ramp(head.cavity_mm - 1.0, 1.0)
    _paint(head, share, _clot(rng, rng.uniform(56, 68), 2.0))
    return [Lesion("subdural", share)]


def subarachnoid(head: Head, rng: Rng) -> list[Lesion]:
    """Paint blood into sulci and cisterns: basal and Sylvian (aneurysm) or convexity (trauma)."""
    side = _side(rng)
    if rng.random() < 0.55:
        places = [((6 * side, -2.0, -16.0), rng.uniform(26, 42))]
        places.append(((36 * side, 4.0, -4.0), rng.uniform(18, 34)))
        if rng.random() < 0.4:
            places.append(((-34 * side, 4.0, -4.0), rng.uniform(14, 28)))
        if rng.random() < 0.5:
            places.append(((0.0, 34.0, 4.0), rng.uniform(14, 26)))
    else:
        direction = (side, rng.normal(0, 0.8), rng.uniform(0.1, 1.1))
        places = [(_surface_point(head, direction), rng.uniform(26, 40))]
    weight = np.zeros(SHAPE, np.float32)
    for point, reach in places:
        weight = np.maximum(weight, 1.6 * np.exp(-((_distance_to(point) / reach) ** 2)))
    weight = np.clip(weight * (1 + 0.25 * smooth_noise(rng, 16.0)) - 0.15, 0, 1)
    share = weight * np.clip(2.4 * head.cistern, 0, 1) * ramp(head.cavity_mm - 0.5, 1.0)
    _paint(head, share, rng.uniform(56, 70))
    return [Lesion("subarachnoid", share)]


def intraventricular(head: Head, rng: Rng) -> list[Lesion]:
    """Paint blood into ventricles: a level in the occipital horns, or a cast of some of them."""
    z, y, x = axes()
    pattern = rng.random()
    if pattern < 0.45:
        level = rng.uniform(-44, -26)
        region = ramp(level - y - 0.08 * np.abs(x) + 0 * z, 2.5)
        if rng.random() < 0.5:
            region = region * ramp(_side(rng) * x + 1.0, 2.0)
    elif pattern < 0.8:
        side = _side(rng)
        region = ramp(side * x - 1.0, 2.0) * ramp(rng.uniform(-10, 45) - y, 6.0) * (z > -14)
    else:  # third and fourth ventricle
        region = ramp(12 - np.abs(x) + 0 * y, 3.0) * ramp(12 - z, 4.0)
    region = region * np.clip(0.9 + 0.35 * smooth_noise(rng, 9.0), 0, 1)
    share = (region * head.ventricle).astype(np.float32)
    _paint(head, share, _clot(rng, rng.uniform(54, 70), 3.0))
    return [Lesion("intraventricular", share)]


_DEEP: tuple[Point, ...] = ((26, 0, 4), (28, -6, 8), (13, -18, 8), (24, 4, 0))
_LOBAR: tuple[Point, ...] = ((34, 34, 16), (40, -8, 38), (44, -34, 10), (30, -62, 16), (24, 20, 40))
_LOW: tuple[Point, ...] = ((22, -62, -36), (10, -60, -32), (2, -26, -32))
_CONTUSION: tuple[Point, ...] = ((18, 46, -12), (44, 8, -26), (50, -14, -18), (30, 56, 4))


def intraparenchymal(head: Head, rng: Rng) -> list[Lesion]:
    """Paint a clot with a pale rim of edema in the parenchyma, or a group of contusions."""
    kind = rng.choice(("deep", "lobar", "low", "contusion"), p=(0.38, 0.3, 0.12, 0.2))
    places = {"deep": _DEEP, "lobar": _LOBAR, "low": _LOW, "contusion": _CONTUSION}[kind]
    x, y, z = places[rng.integers(len(places))]
    side = _side(rng)
    spread = 6.0 if kind == "lobar" else 3.0
    middle = _near((side * x, y, z), spread, rng)
    radius = {"deep": (9, 19), "lobar": (9, 22), "low": (7, 14), "contusion": (6, 11)}[kind]
    inside_mm = _blob(middle, rng.uniform(*radius), rng)
    if kind == "contusion":
        for _ in range(rng.integers(1, 4)):
            another = _blob(_near(middle, 9.0, rng), rng.uniform(*radius), rng)
            inside_mm = np.maximum(inside_mm, another)
    matter = ramp(head.cavity_mm - 2.5, 2.0)
    if rng.random() < 0.7 or kind == "contusion":
        rim = rng.uniform(3, 9)
        edema = ramp(inside_mm + rim, 5.0) * (1 - head.ventricle) * matter
        head.brain_hu += 0.85 * edema * (rng.uniform(17, 23) - head.brain_hu)
    open_wall = kind == "deep" and rng.random() < 0.5
    share = ramp(inside_mm, 1.6) * matter
    ventricular = share * head.ventricle if open_wall else np.zeros(1, np.float32)
    share = share * (1 - head.ventricle)
    if kind == "contusion":
        share = share * np.clip(1.0 + 0.3 * smooth_noise(rng, 6.0), 0.3, 1)
    clot = _clot(rng, rng.uniform(56, 72), 3.0)
    _paint(head, share, clot)
    lesions = [Lesion("intraparenchymal", share)]
    if open_wall and ventricular.max() > 0.5:
        _paint(head, ventricular, clot)
        lesions.append(Lesion("intraventricular", ventricular))
    return lesions


def _near(point: Point, spread_mm: float, rng: Rng) -> Point:
    x, y, z = (float(v + rng.normal(0, spread_mm)) for v in point)
    return x, y, z


def _blob(center: Point, radius: float, rng: Rng) -> Field:
    """Return the distance in mm to the border of an irregular ellipsoid, positive inside."""
    z, y, x = axes()
    stretch = np.exp(rng.normal(0, 0.2, 3)).astype(np.float32)
    stretch /= stretch.prod() ** np.float32(1 / 3)
    reach = np.sqrt(
        ((x - center[0]) / stretch[0]) ** 2
        + ((y - center[1]) / stretch[1]) ** 2
        + ((z - center[2]) / stretch[2]) ** 2
    )
    rough = smooth_noise(rng, max(0.9 * radius, 6.0))
    return (radius * (1 + 0.16 * rough) - reach).astype(np.float32)


PAINTERS: dict[str, Callable[[Head, Rng], list[Lesion]]] = {
    "epidural": epidural,
    "intraparenchymal": intraparenchymal,
    "intraventricular": intraventricular,
    "subarachnoid": subarachnoid,
    "subdural": subdural,
}
