"""Order, grouping and tilt, against invariants of rotations and the field's conventions."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import ordered, volumes_of

from common.dicom import SliceHeader
from common.dicom.geometry import gantry_tilt, is_orientation, slice_normal

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def header(**fields: object) -> SliceHeader:
    values: dict = dict.fromkeys(SliceHeader.__dataclass_fields__)
    values |= {"image_id": "1", "study_id": "s", "series_id": "r", "rows": 4, "columns": 4}
    values |= {"image_type": (), "num_frames": 1, "left_out": ""}
    return SliceHeader(**(values | {"orientation": AXIAL} | fields))


def tilted(degrees: float) -> tuple[float, ...]:
    angle = math.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, math.cos(angle), -math.sin(angle))


def ids(headers: list[SliceHeader]) -> list[str]:
    return [headers[index].image_id for index in ordered(headers)]


@pytest.mark.parametrize("degrees", [-25.0, 0.0, 14.5, 30.0])
def test_tilt_is_signed_and_zero_without_tilt(degrees: float) -> None:
    assert gantry_tilt(tilted(degrees)) == pytest.approx(degrees)
    assert math.copysign(1, gantry_tilt(AXIAL) or 0.0) == 1  # 0, not -0


def test_tilt_of_rsna_s_example() -> None:
    assert gantry_tilt((1, 0, 0, 0, 0.968, -0.250)) == pytest.approx(14.48, abs=0.01)


def test_coronal_slices_have_no_tilt() -> None:
    assert gantry_tilt((1, 0, 0, 0, 0, -1)) is None


@pytest.mark.parametrize("sign", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_the_normal_of_axial_slices_points_to_the_head(sign: tuple[int, int]) -> None:
    """Prone, feet-first and mirrored images included."""
    orientation = np.array(tilted(10)) * np.repeat(sign, 3)
    assert slice_normal(orientation)[2] == pytest.approx(math.cos(math.radians(10)))
    assert gantry_tilt(orientation) == pytest.approx(10)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_normal_is_a_unit_vector_across_the_slice(seed: int) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    orientation = rotation[:2].ravel()
    assert is_orientation(tuple(orientation))
    normal = slice_normal(orientation)
    np.testing.assert_allclose(rotation[:2] @ normal, 0, atol=1e-12)
    assert np.linalg.norm(normal) == pytest.approx(1)


@pytest.mark.parametrize(
    "orientation", [(0,) * 6, (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0), (1, 0, 0, 0, 2, 0)]
)
def test_what_is_no_orientation(orientation: tuple[float, ...]) -> None:
    assert not is_orientation(tuple(orientation))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    st.floats(-30, 30),
    st.integers(0, 2**32 - 1),
)
def test_order_is_along_the_normal_whatever_the_input_order(
    steps: list[float], degrees: float, seed: int
) -> None:
    orientation = tilted(degrees)
    normal = slice_normal(orientation)
    positions = np.cumsum(steps)[:, None] * normal + [-120, 40, 10]
    headers = [
        header(image_id=f"{n:03d}", position=tuple(position), orientation=orientation)
        for n, position in enumerate(positions)
    ]
    shuffled = random.Random(seed).sample(headers, len(headers))
    assert ids(shuffled) == [h.image_id for h in headers]
    gaps = np.diff([h.position_mm for h in headers])
    np.testing.assert_allclose(gaps, steps[1:], atol=1e-9)


def test_equal_positions_are_ordered_by_id() -> None:
    headers = [header(image_id=i, position=(0, 0, z)) for i, z in [("b", 5), ("c", 0), ("a", 5)]]
    assert ids(headers) == ["c", "a", "b"]


def test_frames_whose_positions_are_all_zero_are_ordered_by_number() -> None:
    headers = [header(image_id=f"u_{n}", frame=n, position=(0, 0, 0)) for n in (10, 2, 1)]
    assert volumes_of(headers) == [[2, 1, 0]]


def test_without_positions_the_instance_number_decides() -> None:
    headers = [header(image_id=i, instance_number=n) for i, n in [("b", 1), ("a", 2), ("c", 0)]]
    assert ids(headers) == ["c", "b", "a"]
    assert ids([header(image_id=i) for i in "bca"]) == ["a", "b", "c"]


def test_groups_differ_by_series_orientation_and_matrix() -> None:
    noisy = (1.0, 1e-7, -1e-7, 0.0, 0.9999999, 1e-6)
    headers = [
        header(position=(0.0, 0.0, 0.0)),
        header(position=(0.0, 0.0, 0.0), series_id="other"),
        header(position=(0.0, 0.0, 0.0), orientation=tilted(5)),
        header(position=(0.0, 0.0, 0.0), rows=5),
        header(position=(0.0, 0.0, 5.0), orientation=noisy),
    ]
    headers = [replace(one, image_id=str(number)) for number, one in enumerate(headers)]
    assert volumes_of(headers) == [[0, 4], [1], [2], [3]]
