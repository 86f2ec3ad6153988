"""The place of slices along a volume, against plain loops and values computed by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dicom.order import (
    COORDINATES,
    IDS,
    INSTANCE_NUMBER,
    POSITION,
    SAME_POSITION_MM,
    SLICE_LOCATION,
    gap_starts,
    place_slices,
    position_numbers,
)

UNKNOWN = np.nan


def placed(position=None, number=None, location=None):
    """Return `place_slices` of lists, of which one that is left out is all unknown."""
    size = len(next(values for values in (position, number, location) if values is not None))
    given = (position, number, location)
    columns = [np.full(size, UNKNOWN) if v is None else np.array(v, dtype=float) for v in given]
    name, places, sources = place_slices(dict(zip(COORDINATES, columns)))
    return name, places.tolist(), list(sources)


@pytest.mark.parametrize(("first", "name"), [(0, POSITION), (1, INSTANCE_NUMBER)])
def test_the_best_coordinate_that_places_all_is_used(first, name):
    values = [[3.0, 1.0, 7.0], [1.0, 2.0, 5.0], [9.0, 8.0, 4.0]]
    values[:first] = [None] * first
    values[2] = values[2][::-1]
    assert placed(*values) == (name, values[first], [name] * 3)


@pytest.mark.parametrize(
    ("numbers", "locations", "is_turned"),
    [
        ([1.0, 2.0, 5.0], [9.0, 8.0, 4.0], True),
        ([1.0, 2.0, 5.0], [9.0, 8.0, 8.5], True),  # mostly
        ([1.0, 2.0, 5.0], [4.0, 8.0, 9.0], False),
        ([1.0, 2.0, 5.0], [9.0, 9.0, 9.0], False),
        ([2.0, 2.0, 2.0], [9.0, 8.0, 7.0], False),
        ([1.0, 2.0, 5.0], [UNKNOWN, UNKNOWN, 9.0], False),
        ([1.0, 2.0, 5.0], [9.0, UNKNOWN, 8.0], True),
        ([1.0, 2.0, 5.0], [8.0, UNKNOWN, 9.0], False),
    ],
)
def test_numbers_that_run_against_the_locations_are_turned(numbers, locations, is_turned):
    name, places, sources = placed(None, numbers, locations)
    assert (name, sources) == (INSTANCE_NUMBER, [INSTANCE_NUMBER] * 3)
    assert places == ([-number for number in numbers] if is_turned else numbers)


def test_a_better_coordinate_goes_before_a_later_one_that_places_as_many():
    # Neither places the third slice: no order of the numbers estimates a position.
    name, places, sources = placed([0.0, 5.0, UNKNOWN], [4.0, 4.0, UNKNOWN])
    assert name == POSITION
    assert places[:2] == [0.0, 5.0] and np.isnan(places[2])
    assert sources == [POSITION, POSITION, None]


def test_a_later_coordinate_that_places_more_is_used():
    # One location at two numbers estimates no number.
    name, places, sources = placed([0.0, UNKNOWN, UNKNOWN], [1.0, 2.0, UNKNOWN], [7.0, 7.0, 9.5])
    assert (name, places) == (SLICE_LOCATION, [7.0, 7.0, 9.5])
    assert sources == [SLICE_LOCATION] * 3


def test_nothing_known_is_the_order_of_ids():
    name, places, sources = placed([UNKNOWN] * 2)
    assert name == IDS and np.isnan(places).all() and sources == [IDS] * 2


def test_missing_places_are_interpolated_from_the_next_coordinate_and_then_the_last():
    position = [0.0, UNKNOWN, 20.0, UNKNOWN, UNKNOWN]
    number = [1.0, 2.0, 3.0, 5.0, UNKNOWN]
    location = [100.0, 90.0, 80.0, 60.0, 75.0]
    name, places, sources = placed(position, number, location)
    assert name == POSITION
    assert places == pytest.approx([0, 10, 20, 40, 25])
    assert sources == [POSITION, INSTANCE_NUMBER, POSITION, INSTANCE_NUMBER, SLICE_LOCATION]


def test_numbers_are_no_estimate_of_themselves_and_location_estimates_them():
    name, places, sources = placed(None, [1.0, UNKNOWN, 3.0], [10.0, 15.0, 20.0])
    # SliceLocation places all three; InstanceNumber with its estimate does as well, and is better.
    assert (name, places) == (INSTANCE_NUMBER, [1.0, 2.0, 3.0])
    assert sources == [INSTANCE_NUMBER, SLICE_LOCATION, INSTANCE_NUMBER]


@given(
    gaps=st.lists(st.floats(0.5, 9), min_size=2, max_size=8),
    steps=st.lists(st.integers(1, 4), min_size=9, max_size=9),
    is_falling=st.booleans(),
    beyond=st.integers(-6, 6),
    data=st.data(),
)
def test_estimates_equal_a_plain_piecewise_line(gaps, steps, is_falling, beyond, data):
    known = np.concatenate([[0.0], np.cumsum(gaps)]) * (-1 if is_falling else 1) + 3
    numbers = np.cumsum(steps[: len(known)]).astype(float)
    first, last = numbers[0], numbers[-1]
    wanted = last + beyond if beyond > 0 else first + beyond
    if beyond == 0:
        wanted = data.draw(st.floats(first, last))

    # By hand: between two known slices the line through both, outside the mean step goes on.
    slope = (known[-1] - known[0]) / (last - first)
    if wanted < first:
        expected = known[0] - slope * (first - wanted)
    elif wanted > last:
        expected = known[-1] + slope * (wanted - last)
    else:
        right = next(i for i in range(1, len(numbers)) if numbers[i] >= wanted)
        part = (wanted - numbers[right - 1]) / (numbers[right] - numbers[right - 1])
        expected = known[right - 1] + part * (known[right] - known[right - 1])

    name, places, sources = placed([*known, UNKNOWN], [*numbers, wanted])
    assert name == POSITION and sources[-1] == INSTANCE_NUMBER
    assert places[-1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("position", "number"),
    [
        ([0.0, 5.0, 10.0, UNKNOWN], [1, 2, 2, 3]),  # one number at two positions
        ([0.0, 5.0, 2.0, UNKNOWN], [1, 2, 3, 4]),  # rises and falls
        ([0.0, 5.0, 5.0, UNKNOWN], [1, 2, 3, 4]),  # stands still
        ([5.0, 5.0, UNKNOWN], [1, 2, 3]),  # one position
        ([0.0, 0.05, UNKNOWN], [1, 2, 3]),  # one position, to within what counts as the same
        ([5.0, UNKNOWN], [1, 2]),  # one slice
    ],
)
def test_numbers_that_do_not_tell_a_position_place_all_slices_themselves(position, number):
    assert placed(position, number) == (INSTANCE_NUMBER, number, [INSTANCE_NUMBER] * len(number))


def test_one_slice_that_has_both_estimates_nothing():
    name, places, sources = placed([0.0, 5.0, UNKNOWN], [1, UNKNOWN, 3])
    assert name == POSITION and places[:2] == [0, 5] and np.isnan(places[2])
    assert sources == [POSITION, POSITION, None]


@pytest.mark.parametrize(("off", "is_told"), [(0.04, True), (0.06, False)])
def test_slices_of_one_number_at_almost_one_position_still_tell(off, is_told):
    name, places, _ = placed([0.0, 10.0, 10.0 + off, 20.0, UNKNOWN], [1, 2, 2, 3, 4])
    if is_told:
        assert name == POSITION and places[-1] == pytest.approx(30)
    else:
        assert name == INSTANCE_NUMBER


@given(places=st.lists(st.integers(0, 60).map(lambda n: n * 0.02), min_size=1, max_size=12))
def test_position_numbers_equal_a_plain_loop(places):
    numbers = position_numbers(np.array(places))
    expected, number, before = {}, -1, -np.inf
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        if places[index] - before > SAME_POSITION_MM:
            number += 1
        before = places[index]
        expected[index] = number
    assert numbers.tolist() == [expected[i] for i in range(len(places))]
    assert numbers.dtype == np.int64


def test_no_places_have_no_numbers():
    assert position_numbers(np.array([])).tolist() == []


def test_the_limit_of_one_position_is_half_a_tenth_of_a_millimetre():
    assert position_numbers(np.array([0.0, 0.05, 0.101])).tolist() == [0, 0, 1]


def gaps(positions):
    return np.flatnonzero(gap_starts(np.array(positions, dtype=float))).tolist()


def gaps_by_loop(positions):
    """The rule of `gap_starts`, one distance after the other."""
    last_of = {}  # of each position the last slice
    for index, position in enumerate(positions):
        if last_of and position - positions[index - 1] <= SAME_POSITION_MM:
            last_of.pop(next(reversed(last_of)))
        last_of[index] = position
    places, lasts = [], list(last_of)
    begin = 0
    for last in lasts:
        places.append(positions[begin])
        begin = last + 1
    steps = [later - earlier for earlier, later in itertools.pairwise(places)]
    found = []
    for number, step in enumerate(steps):
        before, after = steps[max(number - 3, 0) : number], steps[number + 1 : number + 4]
        is_longer = [any(1.9 * other < step for other in side) for side in (before, after)]
        if number in (0, len(steps) - 1):  # longer than all between the two ends
            is_longer = [1.9 * other < step for other in steps[1:-1]]
        if all(is_longer) and len(places) > 3:
            found.append(lasts[number])
    return found


@given(st.lists(st.sampled_from([0.0, 0.04, 1.0, 1.85, 1.95, 2.0, 3.0, 4.1, 6.0]), max_size=12))
def test_gaps_equal_a_plain_loop(steps):
    positions = np.cumsum([0.0, *steps])
    found = gap_starts(positions)
    assert found.dtype == bool and found.shape == positions.shape
    assert np.flatnonzero(found).tolist() == gaps_by_loop(positions.tolist())


@pytest.mark.parametrize(
    ("positions", "starts"),
    [
        ([0, 5, 10, 20, 25], [2]),  # one slice is missing
        ([0, 5, 15, 20], [1]),  # the least: a step before, the gap, a step after
        ([0, 5, 20, 25], [1]),  # two are missing
        ([0, 5, 14.6, 19.6], [1]),  # 1.92 steps
        ([0, 5, 14.4, 19.4], []),  # 1.88
        ([0, 10, 15, 20, 25], [0]),
        ([0, 5, 10, 20], [2]),
        ([0, 5, 10, 20, 30, 40], []),  # a change of the spacing is no gap
        ([0, 5, 10, 20, 25, 30, 45, 50], [2, 5]),
        ([0, 5, 10, 10, 20, 25], [3]),  # the last slice at the position before it
        ([0, 0, 5, 10.04, 10, 20, 20, 25], [4]),
        ([0, 2, 5, 8, 12, 14], [3]),  # the shorter step is the third before
        ([0, 2, 5, 8, 11, 15, 17], []),  # the fourth
        ([0, 2, 6, 9, 12, 14], [1]),
        ([0, 2, 6, 9, 12, 15, 17], []),
        ([0, 5, 15], []),
        ([], []),
        ([3], []),
        ([0, 5, np.nan, 20, 25, 30], []),
    ],
)
def test_gaps_are_found_after_the_slice_before_them(positions, starts):
    assert gaps(positions) == starts


@given(
    num=st.integers(6, 30),
    spacing=st.floats(0.6, 10),
    begin=st.floats(-500, 500),
    data=st.data(),
)
def test_the_gaps_of_an_even_series_are_where_slices_were_taken_out(num, spacing, begin, data):
    # Two slices or more lie between gaps, and at either end.
    kept, starts = [0, 1], []
    while kept[-1] < num:
        missing = data.draw(st.integers(0, 3))
        if missing:
            starts.append(len(kept) - 1)
        kept += [kept[-1] + missing + 1, kept[-1] + missing + 2]
    assert gaps(begin + spacing * np.array(kept, dtype=float)) == starts


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
