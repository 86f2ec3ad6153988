"""Phantom heads: the same seed gives the same bytes, tissue has its HU, blood lies where it may."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
from scipy import ndimage

from rsna.phantom import lesions as lesion_module
from rsna.phantom.anatomy import Body, Head, build_head
from rsna.phantom.atlas import load_atlas
from rsna.phantom.grid import SHAPE, axes, ramp, smooth_noise
from rsna.phantom.mimics import paint_mimics
from rsna.phantom.scanner import Pose, Protocol, degrade, draw_pose, sample
from rsna.phantom.study import PLANS, Study, generate_study, num_studies_of, plan_of
from rsna_task import SUBTYPES

SEED = 4667
BLEEDING = [patient for patient in range(20) if plan_of(patient, SEED)]


@functools.cache
def small_study(patient: int) -> Study:
    return generate_study(patient, 0, SEED, matrix=64)


@functools.cache
def built_head() -> Head:
    rng = np.random.default_rng(1)
    return build_head(Body.draw(rng), rng)


def make_head() -> Head:
    """Return a head of its own, which a test may paint."""
    return copy.deepcopy(built_head())


def bleeding(label: str, seed: int) -> tuple[Head, np.ndarray]:
    """Return a head with a hemorrhage and the share of blood of its own type."""
    head = make_head()
    found = lesion_module.PAINTERS[label](head, np.random.default_rng([seed, 7]))
    return head, np.max([lesion.share for lesion in found if lesion.label == label], axis=0)


def straight_pose() -> Pose:
    return Pose(np.diag([-1.0, -1.0, 1.0]), np.zeros(3), bend_seed=0, bend_mm=0.0, fold_mm=0.0)


def axial_protocol(heights: np.ndarray, tilt_deg: float = 0.0, matrix: int = 120) -> Protocol:
    tilt = np.deg2rad(tilt_deg)
    corner = np.array([-120.0, -120.0 * np.cos(tilt), 120.0 * np.sin(tilt)])
    return Protocol(
        positions=np.array([corner + [0, 0, z] for z in heights]),
        tilt_deg=tilt_deg,
        spacing=240.0 / matrix,
        matrix=matrix,
        thickness_mm=np.full(len(heights), 2.0),
        noise_hu=3.0,
        kernel_px=0.5,
        offset_hu=0.0,
        streaks=0.5,
        head_rest=True,
    )


def test_the_same_arguments_give_the_same_study_and_others_another() -> None:
    first, other = (small_study(patient) for patient in BLEEDING[:2])
    again = generate_study(BLEEDING[0], 0, SEED, matrix=64)
    np.testing.assert_array_equal(first.image_hu, again.image_hu)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.protocol.positions, again.protocol.positions)
    assert first.image_hu.shape != other.image_hu.shape or (first.image_hu != other.image_hu).any()


def test_every_twenty_patients_hold_every_plan_and_some_come_again() -> None:
    for deck in range(3):
        plans = [plan_of(deck * len(PLANS) + i, SEED) for i in range(len(PLANS))]
        assert sorted(plans) == sorted(PLANS)
    counts = [num_studies_of(patient, SEED) for patient in range(300)]
    assert set(counts) == {1, 2, 3}
    assert {label for plan in PLANS for label in plan} == set(SUBTYPES)


# Means over the scanned image, noise and calibration included, away from borders.
TISSUE_HU = {
    "grey": (33, 43),
    "white": (22, 34),
    "ventricle": (-2, 15),
    "bone": (500, 1900),
    "air": (-1024, -950),
    "eye": (0, 20),
    "fat": (-130, -60),
}


def test_tissues_have_published_hounsfield_units() -> None:
    atlas, head = load_atlas(), make_head()
    z, y, x = axes()
    matter_only = (head.cavity_mm > 12) & (head.ventricle + head.cistern < 0.02)
    masks = {
        "grey": (atlas.grey > 0.97) & matter_only,
        "white": (atlas.white > 0.98) & matter_only,
        "ventricle": head.ventricle > 0.98,
        "bone": (head.cavity_mm < -0.5) & (head.cavity_mm > -4.5) & (z > -5) & (z < 35),
        "air": np.broadcast_to(np.abs(x) > 90, SHAPE),
        "eye": np.hypot(np.hypot(np.abs(x) - 32, y - 56), z + 37) < 6,
        "fat": (head.outside_hu < -85) & (head.outside_hu > -110) & (z < -30),
    }
    for name in set(masks) - {"bone"}:  # which is too thin
        masks[name] = ndimage.binary_erosion(masks[name])
    protocol = axial_protocol(np.arange(-50.0, 60.0, 4.0), matrix=240)
    shares = [masks[name].astype(np.float32) for name in TISSUE_HU]
    image_hu, *shares = sample(head.hu(), shares, straight_pose(), protocol)
    image_hu = degrade(image_hu, protocol, np.random.default_rng(0))
    for (name, (low, high)), share in zip(TISSUE_HU.items(), shares):
        values = image_hu[share > 0.95]
        assert len(values) > 30, name
        assert low <= values.mean() <= high, name


@pytest.mark.parametrize("label", SUBTYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_blood_has_published_hounsfield_units_and_lies_where_its_type_occurs(
    label: str, seed: int
) -> None:
    """Acute blood has 45 to 80 HU, subdural fluid of any age 10 to 80, where a voxel is full."""
    head, share = bleeding(label, seed)
    low, high = (10, 80) if label == "subdural" else (45, 80)
    assert (share > 0.9).sum() > 20
    assert low <= head.brain_hu[share > 0.9].mean() <= high
    solid = share > 0.5
    assert solid.sum() > 100
    assert not (solid & (head.cavity_mm < -0.5)).any(), "blood in bone"
    if label == "epidural":  # touches the skull, and is thinner than wide
        assert head.cavity_mm[solid].min() < 1.0
        assert head.cavity_mm[solid].max() < 25
    elif label == "subdural":
        shallow = (head.cavity_mm < 18) | (head.falx_mm < 8) | (head.tentorium_mm < 8)
        assert shallow[solid].mean() > 0.99
    elif label == "intraventricular":
        assert (head.ventricle[solid] > 0.4).all()
    elif label == "subarachnoid":
        assert (head.cistern[solid] > 0.1).all()
    else:
        atlas = load_atlas()
        assert (atlas.grey + atlas.white)[solid].mean() > 0.7
        assert (head.cavity_mm[solid] > 0.5).all()


def test_blood_goes_on_over_neighbouring_slices() -> None:
    for patient in BLEEDING[:2]:
        labels = small_study(patient).labels
        assert labels.any()
        for column in range(labels.shape[1]):
            positive = np.flatnonzero(labels[:, column])
            assert len(positive) != 1
    healthy_patient = next(p for p in range(20) if not plan_of(p, SEED))
    assert not generate_study(healthy_patient, 0, SEED, matrix=64).labels.any()


def test_mimics_are_bright_without_being_labelled() -> None:
    """A healthy old head with mimics holds voxels as bright as blood inside the skull."""
    rng = np.random.default_rng(3)
    body = dataclasses.replace(Body.draw(rng), age=88.0)
    head = build_head(body, rng)
    before = (head.brain_hu[head.cavity_mm > 3] > 60).sum()
    paint_mimics(head, np.random.default_rng(3))
    assert (head.brain_hu[head.cavity_mm > 3] > 60).sum() > before + 20


def test_sampling_straight_on_returns_the_grid() -> None:
    """Against scipy's interpolation of the same points."""
    field = 100 * smooth_noise(np.random.default_rng(0), 20.0)
    z, y, x = axes()
    field = np.where((np.abs(x) < 60) & (np.abs(y) < 60) & (np.abs(z) < 60), field, -1000.0)
    protocol = axial_protocol(np.arange(-20.0, 20.0, 5.0))
    image, _ = sample(field, [np.zeros(SHAPE)], straight_pose(), protocol)
    steps = protocol.spacing * np.arange(protocol.matrix) - 120.0
    inner = np.abs(steps) < 40
    for s, height in enumerate(np.arange(-20.0, 20.0, 5.0)):
        expected = np.zeros((inner.sum(), inner.sum()))
        for part in (-2 / 3, 0, 2 / 3):
            k = (height + part + 86.0) / 2
            rows, columns = np.meshgrid(106 + steps[inner], 96 + steps[inner], indexing="ij")
            points = np.stack([np.full_like(rows, k), rows, columns])
            expected += ndimage.map_coordinates(field, points, order=1) / 3
        np.testing.assert_allclose(image[s][np.ix_(inner, inner)], expected, atol=0.05)


def test_a_marker_is_found_where_the_header_says() -> None:
    """Position, orientation and spacing of the slices lead back to the template's coordinates."""
    rng = np.random.default_rng(8)
    pose = dataclasses.replace(draw_pose(rng, rng), bend_mm=0.0, fold_mm=0.0)
    z, y, x = axes()
    marker = np.array([22.0, -35.0, 14.0])
    ball = ramp(9 - np.sqrt((x - marker[0]) ** 2 + (y - marker[1]) ** 2 + (z - marker[2]) ** 2), 2)
    protocol = axial_protocol(np.arange(-60.0, 80.0, 3.0), tilt_deg=15.0, matrix=128)
    image, share = sample(1000 * ball - 1000, [ball], pose, protocol)
    np.testing.assert_allclose(image, 1000 * share - 1000, atol=2.0)
    s, row, column = (np.array(i) for i in np.indices(share.shape))
    weight = share / share.sum()
    corner = np.tensordot(weight.sum(axis=(1, 2)), protocol.positions, axes=1)
    point = (
        corner
        + (weight * row).sum() * protocol.spacing * protocol.column_direction
        + (weight * column).sum() * protocol.spacing * np.array([1.0, 0.0, 0.0])
    )
    np.testing.assert_allclose(pose.matrix @ point + pose.center, marker, atol=0.5)
    assert protocol.normal @ protocol.column_direction == pytest.approx(0)
    assert s.max() == len(protocol.positions) - 1
