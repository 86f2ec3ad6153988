"""Studies in which blood and its mimics differ along z only: for comparing levels of models.

Each finding is one of five kinds at a place of its own, and is blood or a mimic of it:

| kind | blood | mimic |
|---|---|---|
| epidural | a lens under the temporal bone | bony ridges of the inner table, cut in part |
| intraparenchymal | a clot in the basal ganglia or above | a chain of calcified granulomas |
| intraventricular | a clot in the atrium of a lateral ventricle | calcified choroid plexus |
| subarachnoid | blood between the hemispheres | plaques of calcium in the falx |
| subdural | a crescent over one hemisphere | bands of beam hardening at levels of thick bone |

How a finding looks in each of its slices (place, size, HU) is drawn before it is known whether it
is blood, and from the same distribution: partial volume and coarse slices make thin calcium and
bone as bright as blood. Only a share of the mimics is as bright as calcium can be, and is found
by one slice. Other signs are in `benchmarks.levels.arrangement`: blood is in one piece,
mimics are in several. Neighbouring slices tell pieces of one slice, only the whole sequence tells
longer ones; the slices out of order tell nothing, as their number is the same.

The heads are those of the demo's atlas, sampled with far fewer pixels: 28 slices of 3 mm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.levels.arrangement import NUM_SLICES, Finding, draw_findings
from rsna.phantom.anatomy import Body
from rsna.phantom.atlas import load_atlas
from rsna.phantom.grid import STEP_X, STEP_Y, STEP_Z, X_RIGHT, Y_FRONT, Z_BOTTOM, Field, ramp
from rsna_task import SUBTYPES

Rng = np.random.Generator
# (x, y, z, cavity_mm, size) to the distance in mm to the border of a shape, positive inside.
Shape = Callable[[Field, Field, float, Field, float], Field]

MATRIX = 64
FIELD_OF_VIEW_MM = 220.0
SPACING_MM = FIELD_OF_VIEW_MM / MATRIX
SLICE_MM = 3.0
LOWEST_MM = -18.0
"""Height of the first slice in MNI coordinates: the basal cisterns. The last one is at 63 mm."""

# Acute blood: 50 to 80 HU (Kamalian et al., Handb Clin Neurol 2016).
BLOOD_HU = (58.0, 74.0)
# Dense calcium of a mimic that one slice tells.
CALCIUM_HU = (140.0, 400.0)
EVIDENT_SHARE = 0.2
NOISE_HU = 3.0


@dataclass(frozen=True)
class LevelsStudy:
    """One study.

    Attributes:
        image_hu: int16 (slices, rows, columns), from below.
        labels: bool (slices, 5), in the order of `rsna_task.SUBTYPES`: blood in the slice.
        evident: for each finding, whether it is a mimic that one slice tells.
    """

    image_hu: NDArray[np.int16]
    labels: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    evident: tuple[bool, ...]


@dataclass(frozen=True)
class _Slices:
    """The slices of one head, (slices, rows, columns): where each pixel is, and what is there.

    Attributes:
        x, y: MNI coordinates in mm.
        z: (slices,) height of each slice in the head, about.
        cavity_mm: distance to the inner table, positive inside.
        hu: what the scanner sees.
    """

    x: Field
    y: Field
    z: Field
    cavity_mm: Field
    hu: Field


@dataclass(frozen=True)
class _Look:
    """The look of a finding in one slice: deviations from its mean (mm, share, HU)."""

    x_mm: float
    y_mm: float
    size: float
    hu: float


def generate_levels_study(patient: int, seed: int) -> LevelsStudy:
    """Return the study of a patient; the same arguments give the same bytes."""
    rng = np.random.default_rng([seed, 21, patient])
    findings = draw_findings(np.random.default_rng([seed, 22, patient]))
    slices = _sample_head(Body.draw(rng), rng)
    side = float(rng.choice((-1.0, 1.0)))
    labels = np.zeros((NUM_SLICES, len(SUBTYPES)), bool)
    evident = []
    for finding in findings:
        own_side = side if finding.kind == "epidural" else -side
        if finding.kind.startswith("intra"):
            own_side = float(rng.choice((-1.0, 1.0)))
        is_evident = bool(rng.random() < EVIDENT_SHARE) and not finding.is_blood
        _paint(slices, finding, own_side, is_evident, rng)
        labels[finding.slices, SUBTYPES.index(finding.kind)] = finding.is_blood
        evident.append(is_evident)
    noise = rng.standard_normal(slices.hu.shape, dtype=np.float32)
    image = slices.hu + NOISE_HU * noise * np.where(slices.hu < -800, 0.5, 1) + rng.normal(0, 1.0)
    image_hu = np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
    return LevelsStudy(image_hu, labels, tuple(findings), tuple(evident))


@lru_cache(maxsize=1)
def _coarse_atlas() -> dict[str, Field]:
    """Return the fields of the atlas, blurred to the pixels of these slices."""
    atlas = load_atlas()
    width = SPACING_MM / 2.4
    sigma = (SLICE_MM / 2.4 / STEP_Z, width / STEP_Y, width / STEP_X)
    fields = {
        "grey": atlas.grey,
        "white": atlas.white,
        "cavity": atlas.cavity_mm,
        "ventricle": atlas.ventricle_mm,
    }
    return {name: ndimage.gaussian_filter(field, sigma) for name, field in fields.items()}


def _sample_head(body: Body, rng: Rng) -> _Slices:
    """Return a head of this body, turned and scaled at random, without findings."""
    yaw, roll, pitch = np.deg2rad(rng.normal(0, (4.0, 2.0, 2.5)))
    scale = np.exp(rng.normal(0, 0.03, 3))
    shift = rng.normal(0, (2.5, 2.5, 1.0))
    middle = (MATRIX - 1) / 2
    k, j, i = np.mgrid[:NUM_SLICES, :MATRIX, :MATRIX].astype(np.float32)
    u, v = (middle - i) * SPACING_MM, (middle - j) * SPACING_MM
    w = LOWEST_MM + SLICE_MM * k
    x = scale[0] * (u * np.cos(yaw) - v * np.sin(yaw) + shift[0])
    y = scale[1] * (u * np.sin(yaw) + v * np.cos(yaw) + shift[1]) - 18.0
    z = scale[2] * (w + shift[2]) + np.sin(roll) * u + np.sin(pitch) * v
    index = np.stack(
        [(z - Z_BOTTOM) / STEP_Z, (Y_FRONT - y) / STEP_Y, (X_RIGHT - x) / STEP_X]
    ).astype(np.float32)
    at = {
        name: ndimage.map_coordinates(field, index, order=1, mode="nearest")
        for name, field in _coarse_atlas().items()
    }
    grey, white = at["grey"], at["white"]
    brain = body.csf + grey * (body.grey - body.csf) + white * (body.white - body.csf)
    wet = ramp(at["ventricle"] + body.ventricle_mm + 1.0, 3.0)
    brain += wet * (body.csf - brain)
    cavity = at["cavity"]
    depth = -cavity - body.skull_mm  # outside the skull
    outside = np.where(depth < body.scalp_mm, np.float32(10.0), np.float32(-1000.0))
    outside = ndimage.gaussian_filter(outside, (0, 0.5, 0.5))
    bone = ramp(-depth, SPACING_MM)
    hu = outside + bone * (950.0 - outside)
    hu = hu + ramp(cavity, SPACING_MM) * (brain - hu)
    return _Slices(x, y, w[:, 0, 0], cavity, hu.astype(np.float32))


def _paint(slices: _Slices, finding: Finding, side: float, is_evident: bool, rng: Rng) -> None:
    """Paint a finding into its slices; nothing here depends on whether it is blood."""
    low, high = CALCIUM_HU if is_evident else BLOOD_HU
    mean_hu = rng.uniform(low, high)
    shape = {
        "epidural": _lens,
        "intraparenchymal": _clot,
        "intraventricular": _cast,
        "subarachnoid": _band,
        "subdural": _crescent,
    }[finding.kind](side, rng)
    for number in finding.slices:
        look = _Look(
            x_mm=float(rng.normal(0, 1.2)),
            y_mm=float(rng.normal(0, 1.2)),
            size=float(np.exp(rng.normal(0, 0.08))),
            hu=float(mean_hu + rng.normal(0, 2.0)),
        )
        x, y = slices.x[number] - look.x_mm, slices.y[number] - look.y_mm
        cavity_mm = slices.cavity_mm[number]
        inside_mm = shape(x, y, float(slices.z[number]), cavity_mm, look.size)
        share = ramp(inside_mm, SPACING_MM) * ramp(cavity_mm, SPACING_MM)
        slices.hu[number] += share * (look.hu - slices.hu[number])


def _lens(side: float, rng: Rng) -> Shape:
    middle_y, radius, thick = rng.uniform(-30, 10), rng.uniform(22, 30), rng.uniform(13, 18)

    def shape(x: Field, y: Field, z: float, cavity_mm: Field, size: float) -> Field:
        profile = size * thick * (1 - ((y - middle_y) / (size * radius)) ** 2)
        return np.where(side * x > 12, profile - cavity_mm, -99.0)

    return shape


def _crescent(side: float, rng: Rng) -> Shape:
    middle_y, reach, thick = rng.uniform(-35, 0), rng.uniform(58, 72), rng.uniform(6.0, 8.5)

    def shape(x: Field, y: Field, z: float, cavity_mm: Field, size: float) -> Field:
        profile = size * thick * np.clip(1.05 - np.abs((y - middle_y) / (size * reach)) ** 3, -1, 1)
        return np.where(side * x > 6, profile - cavity_mm, -99.0)

    return shape


def _clot(side: float, rng: Rng) -> Shape:
    middle = side * rng.uniform(24, 32), rng.uniform(-8, 22)
    radii = rng.uniform(8, 12), rng.uniform(9, 14)

    def shape(x: Field, y: Field, z: float, cavity_mm: Field, size: float) -> Field:
        reach = np.hypot((x - middle[0]) / radii[0], (y - middle[1]) / radii[1])
        return np.minimum((size - reach) * min(radii), cavity_mm - 4.0)

    return shape


def _cast(side: float, rng: Rng) -> Shape:
    offset, radii = rng.normal(0, 1.5, 2), (rng.uniform(6, 8), rng.uniform(8, 12))

    def shape(x: Field, y: Field, z: float, cavity_mm: Field, size: float) -> Field:
        # From the temporal horn up and inward to the body of the ventricle.
        middle_x = side * (27.0 - 0.35 * (z + 6.0)) + offset[0]
        middle_y = -42.0 + 0.45 * (z + 6.0) + offset[1]
        reach = np.hypot((x - middle_x) / radii[0], (y - middle_y) / radii[1])
        return (size - reach) * min(radii)

    return shape


def _band(side: float, rng: Rng) -> Shape:
    end = float(rng.choice((-1.0, 1.0)))  # behind or in front
    middle_y = 36.0 if end > 0 else -72.0
    reach, half_mm = rng.uniform(17, 24), rng.uniform(2.8, 4.0)

    def shape(x: Field, y: Field, z: float, cavity_mm: Field, size: float) -> Field:
        along = size * reach - np.abs(y - middle_y)
        return np.minimum(along, size * half_mm - np.abs(x))

    return shape
