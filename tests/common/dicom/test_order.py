"""Gaps between positions, and which way numbers run."""

import numpy as np
import pytest

from common.dicom.order import INSTANCE_NUMBER, POSITION, SLICE_LOCATION, gap_starts, place_slices


@pytest.mark.parametrize("missing", [[1], [10], [28], [10, 12], [10, 12, 13], [5, 6, 20], [1, 28]])
def test_missing_slices_are_gaps_wherever_they_lie(missing: list[int]) -> None:
    numbers = np.setdiff1d(np.arange(30), missing)
    expected = np.flatnonzero(np.diff(numbers) > 1)
    assert np.flatnonzero(gap_starts(5.0 * numbers)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "steps",
    [
        [2.5] * 10 + [5.0] * 20,
        [5.0] * 20 + [2.5] * 10,
        [2.5] * 10 + [3.75] + [5.0] * 20,
        [2.5] * 10 + [5.0] * 10 + [2.5] * 10,
        [5.0] * 20 + [2.0],
        [5.0] * 10 + [2.0] + [5.0] * 10,
        [5.0] + [2.5] * 10 + [5.0] * 10,
        [2.5] * 10 + [10.0] * 10,
    ],
)
def test_a_change_of_spacing_is_no_gap(steps: list[float]) -> None:
    assert not gap_starts(np.cumsum([0.0, *steps])).any()


def test_a_hole_between_two_spacings_is_a_gap() -> None:
    positions = np.cumsum([0.0, *[2.5] * 10, 12.0, *[5.0] * 10])
    assert np.flatnonzero(gap_starts(positions)).tolist() == [10]


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_alone_rise_with_the_slice_location(sign: int) -> None:
    locations = np.arange(6) * 5.0
    locations[2] = np.nan
    coordinates = {
        POSITION: np.full(6, np.nan),
        INSTANCE_NUMBER: sign * np.arange(6.0),
        SLICE_LOCATION: locations,
    }
    name, places, sources = place_slices(coordinates)
    assert name == INSTANCE_NUMBER and set(sources) == {INSTANCE_NUMBER}
    assert np.argsort(places).tolist() == list(range(6))
