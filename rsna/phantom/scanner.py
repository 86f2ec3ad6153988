"""A CT scanner: the pose of a head in the gantry, its slices, noise and artefacts."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.windows import SCANNED_AIR_HU
from rsna.phantom.grid import (
    STEP_X,
    STEP_Y,
    STEP_Z,
    X_RIGHT,
    Y_FRONT,
    Z_BOTTOM,
    Field,
    Mask,
    spline_noise,
)

Rng = np.random.Generator
Rows = NDArray[np.float64]
SUBSLICES = 3
NET = 4  # what is smooth is computed on every fourth pixel


@dataclass(frozen=True)
class Pose:
    """Deformation and pose of a head in the scanner.

    Attributes:
        matrix: (3, 3), from patient coordinates (mm; left, posterior, superior) to the template's.
        center: the template point at the isocenter, mm.
        bend_seed, bend_mm, fold_mm: a smooth deformation: its seed, and its deviation in mm at
            scales of 50 mm and of 20 mm.
    """

    matrix: Rows
    center: Rows
    bend_seed: int
    bend_mm: float
    fold_mm: float


@dataclass(frozen=True)
class Protocol:
    """Geometry and image quality of one series.

    Attributes:
        positions: (slices, 3) position of the first pixel in mm (left, posterior, superior).
        tilt_deg: gantry tilt; rows run along (1, 0, 0), columns along (0, cos, -sin).
        spacing: pixel size in mm; matrix: rows (= columns).
        thickness_mm: nominal thickness of each slice.
        noise_hu, kernel_px: deviation of the noise and blur of the reconstruction.
        offset_hu: error of calibration. streaks: strength of beam hardening between bones.
    """

    positions: Rows
    tilt_deg: float
    spacing: float
    matrix: int
    thickness_mm: Rows
    noise_hu: float
    kernel_px: float
    offset_hu: float
    streaks: float
    head_rest: bool

    @property
    def column_direction(self) -> Rows:
        """Return the direction in which rows follow each other, (3,)."""
        tilt = np.deg2rad(self.tilt_deg)
        return np.array([0.0, np.cos(tilt), -np.sin(tilt)])

    @property
    def normal(self) -> Rows:
        """Return the normal of the slices, (3,), pointing to the vertex."""
        return np.cross([1.0, 0.0, 0.0], self.column_direction)


def draw_pose(shape_rng: Rng, study_rng: Rng) -> Pose:
    """Return a pose: size and deformation belong to the patient, the rotation to the study."""
    size = shape_rng.normal(1.0, 0.035)
    scale = size * np.exp(shape_rng.normal(0, 0.035, 3))
    yaw, roll, pitch = np.deg2rad(study_rng.normal(0, [5.0, 3.0, 6.0]))
    cz, sz, cy, sy, cx, sx = *(_cos_sin(yaw)), *(_cos_sin(roll)), *(_cos_sin(pitch))
    turn = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )
    shear = np.eye(3)
    shear[0, 1] = shape_rng.normal(0, 0.02)
    # Left and posterior are minus x and minus y of the template.
    matrix = np.diag(1 / scale) @ shear @ np.diag([-1.0, -1.0, 1.0]) @ turn
    return Pose(
        matrix=matrix,
        center=np.array([0.0, -16.0, 0.0]),
        bend_seed=int(shape_rng.integers(2**31)),
        bend_mm=float(shape_rng.uniform(1.5, 3.0)),
        fold_mm=float(shape_rng.uniform(0.6, 1.2)),
    )


def _cos_sin(angle: float) -> tuple[float, float]:
    return float(np.cos(angle)), float(np.sin(angle))


def sample(head_hu: Field, shares: list[Field], pose: Pose, protocol: Protocol) -> list[Field]:
    """Return the head and the shares, from the grid, as slices (slices, rows, columns).

    A slice is the mean over its thickness. Where there is no head there is air, and no share.
    """
    num, size = len(protocol.positions), protocol.matrix
    grids = [np.ascontiguousarray(grid, np.float32) for grid in (head_hu - SCANNED_AIR_HU, *shares)]
    slices = [np.zeros((num, size, size), np.float32) for _ in grids]
    extents = [_extent(grid) for grid in grids]
    occupied = ndimage.binary_dilation(grids[0][::2, ::4, ::4] > 20, iterations=2)
    bends = _deformation(pose)
    to_index = np.array([[0, 0, 1 / STEP_Z], [0, -1 / STEP_Y, 0], [-1 / STEP_X, 0, 0]])
    origin = to_index @ pose.center + [-Z_BOTTOM / STEP_Z, Y_FRONT / STEP_Y, X_RIGHT / STEP_X]
    to_index = to_index @ pose.matrix
    row = (to_index @ protocol.column_direction * protocol.spacing)[:, None, None]
    column = (to_index @ np.array([1.0, 0.0, 0.0]) * protocol.spacing)[:, None, None]
    for s, position in enumerate(protocol.positions):
        shift = (np.arange(SUBSLICES) - (SUBSLICES - 1) / 2) / SUBSLICES * protocol.thickness_mm[s]
        for along in shift:
            start = (to_index @ (position + along * protocol.normal) + origin)[:, None, None]
            steps = np.arange(0, size, NET)
            net = start + row * steps[:, None] + column * steps
            inside = _look_up(occupied, net)
            if not inside.any():
                continue
            inside = cv2.resize(inside.astype(np.uint8), (size, size)) > 0
            rows, columns = np.nonzero(inside)
            index = (start[..., 0] + row[..., 0] * rows + column[..., 0] * columns).astype(
                np.float32
            )
            index += [cv2.resize(bend, (size, size))[inside] for bend in _bend(bends, net)]
            lowest, highest = index[0].min(), index[0].max()
            chosen = [i for i, (low, high) in enumerate(extents) if low < highest and lowest < high]
            parts = _interpolate([grids[i] for i in chosen], index) if chosen else []
            for i, values in zip(chosen, parts):
                slices[i][s, rows, columns] += values / SUBSLICES
    slices[0] += SCANNED_AIR_HU
    return slices


def _extent(grid: Field) -> tuple[int, int]:
    """Return the first and last plane that are not zero, widened by one."""
    planes = np.flatnonzero(grid.any(axis=(1, 2)))
    return (int(planes[0]) - 1, int(planes[-1]) + 1) if len(planes) else (-1, -1)


def _look_up(occupied: Mask, net: Field) -> Mask:
    """Return the coarse grid `occupied` at grid indices (3, rows, columns)."""
    coarse = np.rint(net / np.array([2.0, 4.0, 4.0])[:, None, None]).astype(int)
    k, j, i = (np.clip(c, 0, n - 1) for c, n in zip(coarse, occupied.shape))
    return occupied[k, j, i]


def _interpolate(grids: list[Field], index: Field) -> list[Field]:
    """Return each grid between its points at grid indices (3, points), linearly."""
    shape = grids[0].shape
    index = np.clip(index, 0, np.array(shape, np.float32)[:, None] - 1.001)
    floor = index.astype(np.int32)
    k, j, i = index - floor
    corner = (floor[0] * shape[1] + floor[1]) * shape[2] + floor[2]
    flat = [grid.ravel() for grid in grids]
    values = [np.zeros(index.shape[1], np.float32) for _ in grids]
    for step_k, weight_k in ((0, 1 - k), (shape[1] * shape[2], k)):
        for step_j, weight_j in ((0, weight_k * (1 - j)), (shape[2], weight_k * j)):
            here = corner + (step_k + step_j)
            for grid, value in zip(flat, values):
                low = grid[here]
                value += weight_j * (low + i * (grid[here + 1] - low))
    return values


def _deformation(pose: Pose) -> list[Field]:
    """Return the deformation in grid steps along (z, y, x), at every fourth millimetre."""
    rng = np.random.default_rng(pose.bend_seed)
    shape, steps = (46, 60, 49), (4.0, 4.0, 4.0)
    bends = []
    for step in (STEP_Z, STEP_Y, STEP_X):
        field = pose.bend_mm * spline_noise(rng, shape, steps, 50.0)
        field += pose.fold_mm * spline_noise(rng, shape, steps, 20.0)
        bends.append(field / np.float32(step))
    return bends


def _bend(bends: list[Field], net: Field) -> list[Field]:
    """Return the deformation in grid steps at grid indices (3, rows, columns)."""
    coarse = net * np.array([STEP_Z / 4, STEP_Y / 4, STEP_X / 4])[:, None, None]
    return [
        ndimage.map_coordinates(bend, coarse, np.float32, order=1, mode="nearest") for bend in bends
    ]


def degrade(slices_hu: Field, protocol: Protocol, rng: Rng) -> Field:
    """Return slices in HU with head rest, streaks, blur, noise and an error of calibration."""
    output = np.empty_like(slices_hu)
    rest = _head_rest(protocol, rng) if protocol.head_rest else None
    for s, image in enumerate(slices_hu):
        bone = np.clip((image - 400.0) / 1000.0, 0, 1.5)
        if rest is not None:
            image = np.where(image < -900, np.maximum(image, rest), image)
        image = image + protocol.streaks * _streaks(bone, rng) * (image > -300)
        image = cv2.GaussianBlur(image, (0, 0), protocol.kernel_px)
        # Much bone lets fewer photons through: the posterior fossa is noisier than the vertex.
        photons = 1.0 + 0.5 * np.clip(bone.mean() / 0.12 - 0.6, 0, 1)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), 0.65)
        noise *= protocol.noise_hu * photons / noise.std()
        output[s] = image + noise * np.where(image < -800, 0.6, 1.0) + protocol.offset_hu
    return output


def _streaks(bone: Field, rng: Rng) -> Field:
    """Return streaks in HU along the directions in which rays cross most bone."""
    size = bone.shape[0]
    total = np.zeros_like(bone)
    for angle in (rng.normal(0, 4), rng.normal(0, 15), rng.uniform(-40, 40)):
        there = cv2.getRotationMatrix2D((size / 2, size / 2), angle, 1.0)
        back = cv2.getRotationMatrix2D((size / 2, size / 2), -angle, 1.0)
        turned = cv2.warpAffine(bone, there, (size, size))
        profile = turned.sum(axis=1, keepdims=True)
        sharp = profile - ndimage.gaussian_filter1d(profile, size / 40, axis=0)
        band = np.repeat(-0.35 * sharp, size, axis=1).astype(np.float32)
        total += cv2.warpAffine(band, back, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return total


def _head_rest(protocol: Protocol, rng: Rng) -> Field:
    """Return a curved shell of plastic behind the head, -1000 HU elsewhere."""
    size = protocol.matrix
    row, column = np.mgrid[:size, :size].astype(np.float32) * protocol.spacing
    radius = rng.uniform(95, 110)
    middle = size * protocol.spacing / 2
    distance = np.hypot(column - middle, row - (middle + rng.uniform(4, 12)))
    shell = np.clip(1.5 - np.abs(distance - radius), 0, 1) * (row > middle + 20)
    return (-1000 + shell * rng.uniform(700, 1100)).astype(np.float32)
