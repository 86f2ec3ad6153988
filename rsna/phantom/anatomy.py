"""One patient's head before any disease: tissues in HU on the grid."""

from dataclasses import dataclass

import numpy as np

from rsna.phantom.atlas import Atlas, load_atlas, tentorium_height
from rsna.phantom.grid import Field, axes, ramp, smooth_noise
from rsna.phantom.skull_base import (
    DENSE_BONE,
    FAT,
    outline_mm,
    paint_base,
    paint_frontal_sinus,
    paint_soft_tissue,
)


@dataclass(frozen=True)
class Body:
    """Properties that all studies of a patient share; HU unless stated otherwise."""

    age: float
    grey: float
    white: float
    csf: float
    venous: float
    skull_mm: float
    scalp_mm: float
    ventricle_mm: float
    atrophy: float
    sinus_width_mm: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "Body":
        """Return a random adult body: older ones have wider CSF spaces and paler white matter.

        HU of tissues at 120 kV: grey matter 37 to 41, white matter 28 to 33, CSF 0 to 15
        (Kamalian et al., Handb Clin Neurol 2016; Bushberg, The Essential Physics of Medical
        Imaging); venous blood follows the hematocrit, 40 to 65 in healthy people.
        """
        age = float(rng.uniform(20, 90))
        old = (age - 20) / 70
        return Body(
            age=age,
            grey=float(rng.normal(39.0, 0.8)),
            white=float(rng.normal(31.5, 0.8) - 1.0 * old),
            csf=float(rng.uniform(3, 9)),
            venous=float(rng.uniform(44, 62)),
            skull_mm=float(rng.uniform(4.5, 8.0)),
            scalp_mm=float(rng.uniform(3.5, 8.0)),
            ventricle_mm=float(np.clip(rng.normal(-0.7 + 2.4 * old, 0.8), -1.5, 4.5)),
            atrophy=float(np.clip(rng.normal(0.1 + 0.8 * old, 0.2), 0, 1.2)),
            sinus_width_mm=float(rng.uniform(3.0, 5.0)),
        )


@dataclass
class Head:
    """A head on the grid; lesions and mimics are painted into it.

    Attributes:
        outside_hu: everything outside the cranial cavity: bone, scalp, face, air.
        brain_hu: the content of the cranial cavity.
        cavity_mm: distance to the inner table of the skull, positive inside.
        ventricle, cistern: share of CSF of each kind, 0 to 1.
        falx_mm, tentorium_mm: distance to the dural folds where they exist, else large.
    """

    body: Body
    outside_hu: Field
    brain_hu: Field
    cavity_mm: Field
    ventricle: Field
    cistern: Field
    falx_mm: Field
    tentorium_mm: Field

    def hu(self) -> Field:
        inside = ramp(self.cavity_mm, load_atlas().edge_mm)
        return self.outside_hu + inside * (self.brain_hu - self.outside_hu)


def build_head(body: Body, rng: np.random.Generator) -> Head:
    """Return a healthy head with this body; `rng` draws its individual irregularities."""
    atlas = load_atlas()
    ventricle, cistern = _csf_spaces(atlas, body, rng)
    falx_mm, tentorium_mm = _dural_folds(atlas, rng)
    brain_hu = _brain(atlas, body, ventricle, cistern, rng)
    _paint_dura(brain_hu, atlas.cavity_mm, falx_mm, tentorium_mm, body)
    return Head(
        body=body,
        outside_hu=_outside(atlas, body, rng),
        brain_hu=brain_hu,
        cavity_mm=atlas.cavity_mm,
        ventricle=ventricle,
        cistern=cistern,
        falx_mm=falx_mm,
        tentorium_mm=tentorium_mm,
    )


def _csf_spaces(atlas: Atlas, body: Body, rng: np.random.Generator) -> tuple[Field, Field]:
    uneven = smooth_noise(rng, 40.0)
    ventricle = ramp(atlas.ventricle_mm + body.ventricle_mm + 0.4 * uneven, 1.6)
    width = 1.0 + 1.4 * body.atrophy * (1 + 0.3 * uneven)
    cistern = np.clip(atlas.cistern * width - 0.08, 0, 1)
    gap_mm = 0.4 + body.atrophy * (1.0 + 0.5 * uneven)
    cistern = np.maximum(cistern, ramp(gap_mm - atlas.cavity_mm, 1.5))
    return ventricle, np.clip(cistern, 0, 1 - ventricle)


def _brain(
    atlas: Atlas, body: Body, ventricle: Field, cistern: Field, rng: np.random.Generator
) -> Field:
    matter = np.maximum(atlas.grey + atlas.white, 1e-3)
    tissue = (body.grey * atlas.grey + body.white * atlas.white) / matter
    tissue[matter < 0.05] = body.white
    near = np.clip(1 - np.abs(atlas.ventricle_mm + body.ventricle_mm) / 12.0, 0, 1)
    tissue -= near * atlas.white * 6.0 * np.clip((body.age - 50) / 40, 0, 1)
    tissue += 0.8 * smooth_noise(rng, 25.0)
    csf = ventricle + cistern
    return (tissue + csf * (body.csf - tissue)).astype(np.float32)


def _dural_folds(atlas: Atlas, rng: np.random.Generator) -> tuple[Field, Field]:
    z, y, x = axes()
    roof = tentorium_height(y, x)
    arch = ((y + 14) / 56) ** 2 + ((z - 2) / 34) ** 2
    far = np.float32(99.0)
    wave = rng.normal(0, 0.8) * np.sin((y - rng.uniform(-50, 50)) / 30) + 0.01 * z * rng.normal()
    falx = np.abs(x - wave) + 0 * z
    exists = (arch > 1) & (z > np.maximum(roof, -12)) & (atlas.cavity_mm > 0)
    tentorium = np.abs(z - roof) * 0.75
    notch = (x / 19) ** 2 + ((y + 24) / 28) ** 2 < 1
    below = (y < -14) & ~notch & (atlas.cavity_mm > 0) & (z > -34) & (np.abs(x) < 58)
    return (
        np.where(exists, falx, far).astype(np.float32),
        np.where(below, tentorium, far).astype(np.float32),
    )


def _paint_dura(
    brain_hu: Field, cavity_mm: Field, falx_mm: Field, tentorium_mm: Field, body: Body
) -> None:
    z, y, x = axes()
    for distance_mm, thick in ((falx_mm, 0.7), (tentorium_mm, 0.8)):
        brain_hu += ramp(thick - distance_mm, 1.2) * (0.9 * body.venous - brain_hu) * 0.8
    # The sagittal sinus is a triangle in the fork of the falx; the transverse ones follow the tent.
    width = np.clip(body.sinus_width_mm + 1.5 - 0.9 * cavity_mm, 0, None)
    behind = np.clip((80 - y + 2 * z) / 120, 0.1, 1.0)
    sagittal = ramp(width * behind - np.abs(x), 1.5) * (cavity_mm < 6) * (z > -14)
    edge = np.clip(body.sinus_width_mm - 0.7 * cavity_mm, 0, None)
    height = np.where(tentorium_mm < 90, tentorium_mm, 99.0)
    transverse = ramp(edge - height, 1.5) * (cavity_mm < 7) * (y < -45)
    for share in (sagittal, transverse):
        brain_hu += share.astype(np.float32) * (body.venous - brain_hu)


def _outside(atlas: Atlas, body: Body, rng: np.random.Generator) -> Field:
    z, y, x = axes()
    outside_mm = -atlas.cavity_mm
    # The squama of the temporal bone is thin, the occiput and the forehead are thick.
    lateral = np.exp(-(((np.abs(x) - 66) / 22) ** 2) - ((z + 8) / 26) ** 2 - ((y + 5) / 45) ** 2)
    occiput = np.exp(-((x / 22) ** 2) - ((y + 100) / 25) ** 2 - ((z + 20) / 22) ** 2)
    thick = body.skull_mm * (1 + 0.15 * smooth_noise(rng, 45.0) - 0.45 * lateral + 0.7 * occiput)
    below = np.clip((-14 - z) / 16, 0, 1) * np.clip((y + 60) / 30, 0, 1)
    thick = thick * (1 - 0.6 * below)
    scalp = body.scalp_mm * (1 + 0.15 * smooth_noise(rng, 60.0)) + 4.0 * lateral
    skin_mm = outline_mm(atlas.cavity_mm, thick + scalp)
    hu = np.empty_like(outside_mm)
    paint_soft_tissue(hu, skin_mm, atlas.edge_mm, rng)
    temporalis = ramp(0.9 * lateral + 0.1 - 0.5, 0.3) * ramp(skin_mm - 3.5, 1.5)
    hu += temporalis * (55.0 - hu)
    paint_base(hu, rng)
    depth = np.minimum(outside_mm, thick - outside_mm)
    marrow = 650 + 180 * smooth_noise(rng, 4.0)
    bone = DENSE_BONE - 100 + ramp(depth - 1.9, 1.4) * (marrow - DENSE_BONE + 100)
    shell = ramp(depth, atlas.edge_mm) * (outside_mm > -2)
    hu += shell * (bone - hu)
    paint_frontal_sinus(hu, atlas.cavity_mm, skin_mm, rng)
    _open_foramen(hu)
    return hu.astype(np.float32)


def _open_foramen(hu: Field) -> None:
    """Clear the bone around the cord below the foramen magnum."""
    z, y, x = axes()
    canal = ramp(15 - np.hypot(x, y + 46 + 0.1 * (z + 70)) + 0 * z, 2) * ramp(-68 - z, 4)
    hu += np.where(canal > 0, canal, 0) * (FAT * 0.3 - hu) * (hu > 100)
