"""The average head: tissue maps of the MNI152 template and the spaces derived from them.

The grey- and white-matter maps ship inside the nilearn package (Fonov et al., NeuroImage 2011,
doi 10.1016/j.neuroimage.2010.07.033), so nothing is downloaded.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from rsna.phantom.grid import (
    SHAPE,
    STEP_X,
    STEP_Y,
    STEP_Z,
    X_RIGHT,
    Y_FRONT,
    Z_BOTTOM,
    Field,
    Mask,
    axes,
    box,
)

SAMPLING = (STEP_Z, STEP_Y, STEP_X)


@dataclass(frozen=True)
class Atlas:
    """The average head; all arrays are on the grid of `rsna.phantom.grid`.

    Attributes:
        grey, white: share of each tissue, 0 to 1; in the cranial cavity the rest is CSF.
        cavity_mm: signed distance to the inner table of the skull, positive inside.
        edge_mm: width of its border: wider where it lies flat, as planes of the grid are apart.
        ventricle_mm: signed distance to the walls of the ventricles, positive inside.
        cistern: share of subarachnoid CSF (sulci, fissures, cisterns), 0 to 1.
    """

    grey: Field
    white: Field
    cavity_mm: Field
    edge_mm: Field
    ventricle_mm: Field
    cistern: Field


def signed_distance(mask: Mask) -> Field:
    """Return the distance in mm to the border of `mask`, positive inside."""
    inside = ndimage.distance_transform_edt(mask, sampling=SAMPLING)
    outside = ndimage.distance_transform_edt(~mask, sampling=SAMPLING)
    return (inside - outside).astype(np.float32)


def _on_grid(image: object) -> Field:
    """Return a 1 mm template image of nilearn on the grid, 0 where the grid goes beyond it."""
    data = image.get_fdata(dtype=np.float32)  # type: ignore[attr-defined]
    left, back, bottom = (round(float(v)) for v in image.affine[:3, 3])  # type: ignore[attr-defined]
    z = Z_BOTTOM + STEP_Z * np.arange(SHAPE[0]) - bottom
    y = Y_FRONT - STEP_Y * np.arange(SHAPE[1]) - back
    x = X_RIGHT - STEP_X * np.arange(SHAPE[2]) - left
    grid = np.zeros(SHAPE, np.float32)
    inside = [np.flatnonzero((v >= 0) & (v < n)) for v, n in zip((z, y, x), data.shape[::-1])]
    source = [v[i].astype(int) for v, i in zip((z, y, x), inside)]
    grid[np.ix_(*inside)] = data.transpose(2, 1, 0)[np.ix_(*source)]
    return grid


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Return the atlas, made once per process (some seconds)."""
    from nilearn import datasets  # slow to import, and needed nowhere else

    grey = _on_grid(datasets.load_mni152_gm_template(resolution=1))
    white = _on_grid(datasets.load_mni152_wm_template(resolution=1))
    brain = _on_grid(datasets.load_mni152_brain_mask(resolution=1)) > 0.5
    z, y, x = axes()

    # The template ends at z = -72: the medulla goes on to the bottom of the grid.
    cord_mm = 7.0 - np.hypot(x, y + 46.0 + 0.1 * (z + 70.0)) + 0 * z
    white = np.maximum(white, np.where(z < -66, np.clip(cord_mm + 0.5, 0, 1), 0)).astype(np.float32)
    brain |= (z < -66) & (cord_mm > -4.0)

    cavity_mm = _cavity(brain)
    slope = np.abs(np.gradient(cavity_mm, STEP_Z, axis=0))
    csf = np.where(cavity_mm > 0, np.clip(1 - grey - white, 0, 1), 0).astype(np.float32)
    ventricle = csf * _ventricle_region(csf)
    return Atlas(
        grey=grey,
        white=white,
        cavity_mm=cavity_mm,
        edge_mm=(1.2 + 1.8 * np.clip(slope, 0, 1) ** 2).astype(np.float32),
        ventricle_mm=_ventricle_distance(ventricle),
        cistern=csf - ventricle,
    )


def _cavity(brain: Mask) -> Field:
    """Return the distance to the inner table: the brain closed over fissures and cisterns.

    Closing by 6 mm leaves open the gaps where petrous bone and sphenoid lie; the convexity, which
    has none, is closed by 16 mm; the suprasellar cistern, which the templates leave out, is filled.
    """
    z, y, x = axes()
    # Closing is coarse anyway: every second voxel in plane makes it four times as fast.
    outside = ndimage.distance_transform_edt(~brain[:, ::2, ::2], sampling=2.0)
    narrow = ndimage.distance_transform_edt(outside < 6.0, sampling=2.0) > 6.0
    wide = ndimage.distance_transform_edt(outside < 16.0, sampling=2.0) > 16.0
    narrow, wide = (
        mask.repeat(2, axis=1).repeat(2, axis=2)[:, : SHAPE[1], : SHAPE[2]]
        for mask in (narrow, wide)
    )
    suprasellar = (np.abs(x) < 17) & (y > -16) & (y < 22) & (z > -28) & (z < -6)
    closed = brain | narrow | (wide & (z > -4)) | suprasellar
    fine = ndimage.gaussian_filter(signed_distance(closed), (0.8, 1.6, 1.6))
    smooth = ndimage.gaussian_filter(fine, (1.5, 4.0, 4.0))
    upper = np.clip((z - 10.0) / 20.0, 0, 1)
    return (fine + upper * (smooth - fine) + 1.5).astype(np.float32)


def _ventricle_region(csf: Field) -> Field:
    """Return 1 in and around the four ventricles, 0 at the outer CSF."""
    z, y, x = axes()
    core = csf > 0.5
    seeds = np.zeros(SHAPE, bool)
    lateral = (np.abs(x) < 42) & (y > -75) & (y < 40) & (z > -22) & (z < 36)
    not_sylvian = np.abs(x) < 26 + 0.35 * np.clip(-y - 20, 0, 60)
    not_quadrigeminal = ~((y < -28) & (np.abs(x) < 13 + 0.2 * np.clip(z, 0, 30)) & (z < 14))
    not_callosal = ~((np.abs(x) < 3) & (z > 18)) & ~((np.abs(x) < 6) & (y < -34) & (z < 30))
    frontal = ~((y > 22) & ((np.abs(x) < 5) | (z < -4)))
    low = (z > -4) | ((np.abs(x) > 22) & (y < -2))
    seeds |= lateral & not_sylvian & not_quadrigeminal & not_callosal & frontal & low
    seeds |= (np.abs(x) < 5) & (y > -28) & (y < 6) & (z > -12) & (z < 14)
    seeds |= (np.abs(x) < 14) & (y > -58) & (y < -36) & (z > -46) & (z < -20) & (np.abs(x) < 60 + y)
    region = seeds & core
    labels, count = ndimage.label(region)
    sizes = ndimage.sum_labels(region, labels, np.arange(1, count + 1))
    keep = np.isin(labels, 1 + np.flatnonzero(sizes > 80))
    return ndimage.gaussian_filter(
        ndimage.binary_dilation(keep, iterations=2).astype(np.float32), (0.5, 1, 1)
    )


def _ventricle_distance(ventricle: Field) -> Field:
    """Return the signed distance to the ventricles, -20 mm wherever it is farther."""
    distance = np.full(SHAPE, -20.0, np.float32)
    where = box((0.0, -20.0, -4.0), (64.0, 80.0, 66.0))
    near = ndimage.gaussian_filter(signed_distance(ventricle[where] > 0.5), (0.3, 0.6, 0.6))
    distance[where] = np.maximum(near, -20.0)
    return distance


def tentorium_height(y: Field, x: Field) -> Field:
    """Return the height z in mm of the tentorium over the point (x, y)."""
    apex = -4.0 + 8.0 * np.exp(-(((y + 52.0) / 22.0) ** 2))
    fall = 0.011 * np.clip(np.abs(x) - 4.0, 0, None) ** 1.9 * (1 - 0.004 * (y + 40.0))
    return (apex - fall - 0.16 * np.clip(-60.0 - y, 0, None)).astype(np.float32)
