"""Skull and cavity against the anatomy of phantoms, and on a real head with and without scalp."""

from pathlib import Path

import numpy as np
import pytest

from common.slices.pixel_steps import BONE_MARGIN_MM, HeadFinder, PixelSteps
from common.slices.regions import _disk, skull_and_cavity, skull_mask
from rsna.phantom import anatomy, grid, scanner, study
from rsna.phantom.atlas import load_atlas

Spacing = tuple[float, float]


def phantom(patient: int) -> tuple[np.ndarray, np.ndarray, Spacing]:
    """The slices of a healthy phantom, int16 HU, where its cranial cavity is, and the spacing."""
    shape_rng, study_rng = (np.random.default_rng([7, k, patient]) for k in (1, 2))
    body = anatomy.Body.draw(shape_rng)
    pose = scanner.draw_pose(shape_rng, study_rng)
    head = anatomy.build_head(body, np.random.default_rng([7, 3, patient]))
    protocol = study.draw_protocol(pose, 256, study_rng)
    inside = grid.ramp(head.cavity_mm, load_atlas().edge_mm)
    image_hu, share = scanner.sample(head.hu(), [inside], pose, protocol)
    clipped = np.rint(image_hu).clip(-1024, 3071).astype(np.int16)
    return clipped, share > 0.5, (protocol.spacing, protocol.spacing)


@pytest.fixture(scope="module", params=[1, 2])  # without and with a head rest
def known(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, Spacing]:
    return phantom(request.param)


def brain_box(images: np.ndarray, spacing_mm: Spacing) -> tuple[int, int, int, int]:
    finder = HeadFinder(spacing_mm, "brain")
    for image_hu in images:
        finder.add(image_hu)
    box = finder.box()
    assert box is not None
    return box


def without_scalp(images: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    masks = [skull_mask(image_hu, spacing_mm) for image_hu in images]
    pairs = zip(images, masks, strict=True)
    return np.stack([one if mask is None else np.where(mask, one, -1024) for one, mask in pairs])


def test_no_brain_is_lost_and_the_box_is_that_of_the_anatomy(
    known: tuple[np.ndarray, np.ndarray, Spacing],
) -> None:
    images, cavity, spacing_mm = known
    rows, columns = (np.flatnonzero(cavity.any(axis=(0, axis))) for axis in (2, 1))
    truth_mm = np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]) * spacing_mm[0]
    truth_mm += np.array([-1, 1, -1, 1]) * BONE_MARGIN_MM
    found_mm = np.array(brain_box(images, spacing_mm)) * spacing_mm[0]
    assert np.abs(found_mm - truth_mm).max() < 2.5
    overlaps = []
    for image_hu, inside in zip(images, cavity, strict=True):
        if inside.sum() * spacing_mm[0] ** 2 < 500:
            continue
        mask, found = skull_and_cavity(image_hu, spacing_mm)
        assert mask is not None and mask[inside].all()
        if found is not None:
            overlaps.append((found & inside).sum() / (found | inside).sum())
    assert np.median(overlaps) > 0.97


def test_a_series_of_a_few_slices_of_the_base_keeps_its_brain(
    known: tuple[np.ndarray, np.ndarray, Spacing],
) -> None:
    """Their cavities are the cerebellum alone, or a part of the face."""
    images, cavity, spacing_mm = known
    low = np.flatnonzero(cavity.sum(axis=(1, 2)) * spacing_mm[0] ** 2 > 500)[:8]
    for first in range(6):
        rows = low[first : first + 2]
        top, bottom, left, right = brain_box(images[rows], spacing_mm)
        inside = cavity[rows]
        assert inside[:, top:bottom, left:right].sum() > 0.99 * inside.sum(), first


def test_scalp_and_rest_make_no_difference(
    known: tuple[np.ndarray, np.ndarray, Spacing],
) -> None:
    images, cavity, spacing_mm = known
    bare = without_scalp(images, spacing_mm)
    assert (bare != images).sum() > 20_000
    box = brain_box(images, spacing_mm)
    assert np.abs(np.subtract(brain_box(bare, spacing_mm), box)).max() * spacing_mm[0] < 2
    steps = PixelSteps(size=128, brain_crop=True)
    shape = (images.shape[1], images.shape[2])
    plans = [steps.plan(shape, spacing_mm, box_of) for box_of in (box, brain_box(bare, spacing_mm))]
    differ = [
        (np.abs(plans[0].apply(one) - plans[1].apply(other).astype(float)) > 50).mean()
        for one, other, inside in zip(images, bare, cavity, strict=True)
        if inside.sum() * spacing_mm[0] ** 2 > 500
    ]
    assert np.median(differ) < 0.005


def test_a_bone_flap_that_is_out_costs_no_brain() -> None:
    images, cavity, spacing_mm = phantom(3)
    checked = 0
    for image_hu, inside in zip(images, cavity, strict=True):
        if inside.sum() * spacing_mm[0] ** 2 < 8000:
            continue
        opened = image_hu.copy()
        middle = int(np.flatnonzero(inside.any(0)).mean())
        rows = np.flatnonzero(inside.any(1))
        flap = np.zeros(image_hu.shape, bool)
        flap[rows[0] + len(rows) // 5 : rows[-1] - len(rows) // 5, middle:] = True
        opened[flap & (image_hu > 150)] = 35  # brain and galea where there was bone
        mask = skull_mask(opened, spacing_mm)
        assert mask is not None and mask[inside].mean() > 0.995
        checked += 1
    assert checked > 5


def test_a_disk_is_round_in_mm() -> None:
    assert _disk(10.0, (0.5, 1.0)).shape == (21, 11)


def test_parts_of_a_base_without_scalp_are_all_kept_and_a_table_is_not() -> None:
    y, x = np.mgrid[:400, :400]
    image = np.full((400, 400), -1024, np.int16)
    brain = np.zeros((400, 400), bool)
    for row, column, radius in ((110, 120, 50), (110, 290, 40), (250, 200, 90)):
        distance = np.hypot(y - row, x - column)
        image[distance < radius] = 900
        image[distance < radius - 8] = 35
        brain |= distance < radius - 8
    image[370:395] = 150  # a thick table
    mask = skull_mask(image, (0.5, 0.5))
    assert mask is not None and mask[brain].all() and not mask[370:].any()


def test_a_real_head_with_and_without_scalp(test_data: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    files = [pydicom.dcmread(path) for path in sorted((test_data / "ge_head").glob("*.dcm"))]
    slopes = [(float(one.RescaleSlope), float(one.RescaleIntercept)) for one in files]
    images = np.stack([
        np.rint(one.pixel_array * slope + offset).clip(-1024, 3071).astype(np.int16)
        for one, (slope, offset) in zip(files, slopes, strict=True)
    ])  # fmt: skip
    row_mm, column_mm = map(float, files[0].PixelSpacing)
    box = brain_box(images, (row_mm, column_mm))
    bare = without_scalp(images, (row_mm, column_mm))
    assert np.abs(np.subtract(brain_box(bare, (row_mm, column_mm)), box)).max() <= 4
    # Of a head of about 150 by 190 mm; the table is gone.
    height_mm, width_mm = (box[1] - box[0]) * row_mm, (box[3] - box[2]) * column_mm
    assert 150 < height_mm < 200 and 130 < width_mm < 190
    for image_hu, left in zip(images, bare, strict=True):
        _, cavity = skull_and_cavity(image_hu, (row_mm, column_mm))
        assert cavity is None or np.array_equal(left[cavity], image_hu[cavity])
        assert (left > -900).sum() < (image_hu > -900).sum()
