"""The face and the base of the skull: orbits, sinuses, petrous bones, mastoids, upper neck.

Built of simple solids at the places they have in MNI coordinates, because the templates hold the
brain only. Order matters: later solids overwrite earlier ones.
"""

import numpy as np

from rsna.phantom.grid import Field, axes, box, local_axes, ramp, smooth_noise
from rsna.phantom.shapes import blend, capsule, ellipsoid, paint_capsule, paint_ellipsoid

AIR, FAT, MUSCLE, BONE, DENSE_BONE = -1000.0, -95.0, 55.0, 850.0, 1500.0


def outline_mm(cavity_mm: Field, depth: Field | float) -> Field:
    """Return the distance in mm to the skin, positive inside the head.

    Above the orbits the skin lies `depth` mm outside the cranial cavity; below, the face and the
    neck are superellipses whose size changes with height.
    """
    z, y, x = axes()
    knots = [-90.0, -75.0, -60.0, -45.0, -30.0, -15.0, 0.0, 10.0]
    heights = z.ravel()

    def profile(values: list[float]) -> Field:
        return np.interp(heights, knots, values).astype(np.float32)[:, None, None]

    half_width = profile([58, 64, 69, 73, 73, 70, 55, 20])
    front = profile([84, 88, 90, 88, 84, 80, 60, 20])
    back = profile([-76, -84, -96, -106, -108, -100, -70, -20])
    middle, half_length = (front + back) / 2, (front - back) / 2
    reach = (np.abs(x / half_width) ** 2.4 + np.abs((y - middle) / half_length) ** 2.4) ** (1 / 2.4)
    face = (1 - reach) * half_width
    return np.maximum(cavity_mm + depth, face).astype(np.float32)


def paint_soft_tissue(hu: Field, skin_mm: Field, edge_mm: Field, rng: np.random.Generator) -> None:
    """Fill the inside of the skin with muscle and fat, in planes and lobules."""
    z, _, _ = axes()
    # Planes of fat between the muscles lie where a smooth field crosses zero.
    planes = smooth_noise(rng, 16.0)
    low = np.clip((-8.0 - z) / 14.0, 0, 1)
    under_skin_mm = 7.0 + 3.0 * smooth_noise(rng, 30.0)
    muscle = ramp(np.abs(planes) - 0.15, 0.2) * ramp(skin_mm - under_skin_mm, 2.0) * low
    tissue = FAT + (MUSCLE - FAT) * muscle
    tissue = np.where(skin_mm < 2.2, 25.0, tissue)
    inside = ramp(skin_mm, edge_mm)
    hu[...] = AIR + inside * (tissue - AIR)


def paint_base(hu: Field, rng: np.random.Generator) -> None:
    """Paint the face and the skull base into `hu`."""
    cells = smooth_noise(rng, 5.0)
    _paint_bones(hu)
    _paint_sinuses(hu, cells, rng)
    _paint_temporal_bones(hu, cells, rng)
    _paint_orbits(hu, rng)


def _paint_bones(hu: Field) -> None:
    # Clivus and body of the sphenoid, occipital condyles, atlas and dens.
    for side in (-7.0, 0.0, 7.0):
        paint_capsule(hu, (side, -10, -38), (side * 1.3, -25, -68), 5.0, BONE * 0.75)
        paint_capsule(hu, (side, -7, -34), (side, 22, -36), 7.0, BONE)
    for side in (-1.0, 1.0):
        paint_capsule(hu, (17 * side, -38, -72), (19 * side, -42, -86), 6.0, BONE)
        paint_capsule(hu, (19 * side, -42, -84), (10 * side, -66, -86), 4.0, BONE)
        # Zygomatic arch, lateral orbital rim, mandible, pterygoid plates, sphenoid wing.
        paint_capsule(hu, (57 * side, 40, -50), (68 * side, 4, -46), 2.5, BONE)
        paint_capsule(hu, (46 * side, 56, -26), (54 * side, 44, -54), 4.0, BONE)
        paint_capsule(hu, (53 * side, -10, -52), (48 * side, 4, -88), 4.5, BONE)
        paint_capsule(hu, (14 * side, 10, -48), (15 * side, 8, -80), 2.0, BONE)
        paint_capsule(hu, (48 * side, 40, -28), (16 * side, 16, -26), 3.0, BONE, 4.0)
    paint_capsule(hu, (0, -27, -74), (0, -28, -90), 5.0, BONE)


def _paint_sinuses(hu: Field, cells: Field, rng: np.random.Generator) -> None:
    for side in (-1.0, 1.0):
        # Maxillary: an air pyramid in a thin shell, now and then with a fluid level.
        center = (31 * side + rng.normal(0, 1), 48 + rng.normal(0, 2), -64 + rng.normal(0, 2))
        where, inside_mm = ellipsoid(center, (15, 18, 17))
        blend(hu, where, ramp(inside_mm, 1.5), BONE * 0.8)
        blend(hu, where, ramp(inside_mm - 1.2, 1.0), AIR)
        if rng.random() < 0.2:
            _, y, _ = local_axes(where)
            level = center[1] - rng.uniform(2, 12)
            blend(hu, where, ramp(inside_mm - 1.2, 1.0) * (y < level), 20.0)
    # Nasal cavity with septum and turbinates; nasopharynx.
    where, inside_mm = ellipsoid((0, 52, -64), (15, 34, 19))
    blend(hu, where, ramp(inside_mm, 1.5), AIR)
    paint_ellipsoid(hu, (0, 6, -74), (11, 9, 10), AIR)
    for side in (-1.0, 1.0):
        paint_capsule(hu, (8 * side, 70, -66), (8 * side, 26, -68), 4.0, 45.0)
        paint_capsule(hu, (7 * side, 66, -54), (7 * side, 26, -56), 2.5, 45.0)
    _, y, x = local_axes(where)
    bend = rng.normal(0, 2) * np.sin((y - 30) / 25)
    blend(hu, where, ramp(1.2 - np.abs(x - bend), 1.0) * (inside_mm > -1), 250.0)
    # Ethmoid: a honeycomb; sphenoid: two chambers.
    where = box((0, 42, -35), (14, 24, 14))
    z, y, x = local_axes(where)
    block = np.minimum(
        np.minimum(12.5 - np.abs(x) + 0 * z, 21 - np.abs(y - 42)), 12 - np.abs(z + 35)
    )
    walls = ramp(0.35 - np.abs(cells[where]), 0.3)
    blend(hu, where, ramp(block, 1.5), -900.0 + 1150.0 * walls)
    blend(hu, where, ramp(1.5 - np.abs(block - 0.5), 1.5), BONE * 0.4)
    size = rng.uniform(0.7, 1.1)
    where, inside_mm = ellipsoid((rng.normal(0, 2), 13, -40), (12 * size, 10 * size, 8 * size))
    _, _, x = local_axes(where)
    septum = ramp(1.0 - np.abs(x - rng.normal(0, 3)), 1.0)
    blend(hu, where, ramp(inside_mm, 1.5), AIR + (BONE * 0.5 - AIR) * septum)


def paint_frontal_sinus(
    hu: Field, cavity_mm: Field, skin_mm: Field, rng: np.random.Generator
) -> None:
    """Paint air into the bone before the frontal lobes; its size differs much."""
    where = box((0, 72, -12), (30, 16, 22))
    z, y, x = local_axes(where)
    outside_mm = -cavity_mm[where]
    height, width = rng.uniform(4, 18), rng.uniform(10, 24)
    extent = np.minimum(width - np.abs(np.abs(x) - 4), height - np.abs(z + 16 - height / 2))
    extent = np.minimum(extent, (y - 52) * 0.8)
    under_skin_mm = skin_mm[where] - 4.0
    wall = np.minimum(np.minimum(extent + 3, 11 - outside_mm), under_skin_mm)
    blend(hu, where, ramp(wall, 2.0), BONE)
    air = np.minimum(np.minimum(extent, under_skin_mm - 1.5), outside_mm - 2.5)
    air = np.minimum(air, 8.5 - outside_mm)
    blend(hu, where, ramp(air, 1.5) * ramp(np.abs(x + 1) - 0.8, 1), AIR)


def _paint_temporal_bones(hu: Field, cells: Field, rng: np.random.Generator) -> None:
    pneumatised = rng.uniform(-0.3, 0.6)
    for side in (-1.0, 1.0):
        where, inside_mm = capsule((12 * side, -13, -41), (54 * side, -38, -42), 6.5, 11.0)
        blend(hu, where, ramp(inside_mm, 2.0), BONE + 150 * cells[where])
        paint_ellipsoid(hu, (29 * side, -25, -40), (7, 6, 5), DENSE_BONE + 300)
        # Air cells of the mastoid and of the middle ear.
        where, inside_mm = ellipsoid((54 * side, -44, -48), (11, 15, 16))
        blend(hu, where, ramp(inside_mm, 2.0), BONE)
        air = ramp(inside_mm - 2.0, 2.0) * ramp(cells[where] + pneumatised, 0.4)
        blend(hu, where, air, -850.0)
        paint_ellipsoid(hu, (38 * side, -22, -42), (5, 4, 5), -900.0)
        paint_capsule(hu, (42 * side, -22, -45), (84 * side, -24, -44), 3.0, AIR)
        # Internal auditory canal, carotid canal, jugular bulb.
        paint_capsule(hu, (12 * side, -28, -37), (24 * side, -29, -37), 2.4, 20.0)
        paint_capsule(hu, (26 * side, -12, -50), (12 * side, -4, -44), 2.8, 45.0)
        paint_ellipsoid(hu, (24 * side, -38, -54), (4, 4, 6), 50.0)


def _paint_orbits(hu: Field, rng: np.random.Generator) -> None:
    globe = rng.uniform(11.5, 12.5)
    for side in (-1.0, 1.0):
        gaze = rng.normal(0, 1.5)
        eye = (32 * side, 58.0, -37.0)
        apex = (12 * side, 16.0, -28.0)
        where, inside_mm = capsule(apex, (31 * side, 56.0, -37.0), 4.0, 17.0)
        blend(hu, where, ramp(inside_mm + 2.0, 1.5), BONE)
        blend(hu, where, ramp(inside_mm, 1.5), FAT)
        paint_capsule(hu, (20 * side, 56, -37), (13 * side, 20, -29), 2.2, 50.0, 1.2)
        paint_capsule(hu, (44 * side, 54, -37), (14 * side, 20, -29), 2.0, 50.0, 1.2)
        paint_capsule(hu, (31 * side, 54, -25), (13 * side, 20, -26), 2.0, 50.0, 1.2)
        paint_capsule(hu, (31 * side, 54, -49), (13 * side, 20, -31), 2.0, 50.0, 1.2)
        paint_capsule(hu, (eye[0] - side, 48, -37), (11 * side, 14, -27), 2.2, 35.0)
        # The front of the orbit is open: lids instead of bone.
        paint_ellipsoid(hu, (eye[0], 72, -37), (16, 7, 13), 20.0)
        paint_ellipsoid(hu, eye, (globe, globe, globe), 38.0)
        paint_ellipsoid(hu, eye, (globe - 1.5, globe - 1.5, globe - 1.5), 8.0)
        paint_ellipsoid(hu, (eye[0] + gaze, 66.0, -37), (4.5, 2.2, 4.5), 80.0)
        paint_ellipsoid(hu, (43 * side, 56, -27), (4, 6, 4), 40.0)
