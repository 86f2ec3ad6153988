"""Images are turned upright as their orientation says."""

import itertools

import numpy as np
import pytest

from common.dicom.upright import AS_STORED, TURNS, turn_back, turn_image, turn_of

UPRIGHT = np.arange(6).reshape(2, 3)


def stored(swap: bool, up: bool, left: bool) -> tuple[np.ndarray, str]:
    """The upright image as a scanner could store it, with the orientation that says so."""
    image, row, column = UPRIGHT, np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    if left:
        image, row = image[:, ::-1], -row
    if up:
        image, column = image[::-1], -column
    if swap:
        image, row, column = image.T, column, row
    return image, "\\".join(str(value) for value in (*row, *column))


@pytest.mark.parametrize("how", itertools.product((False, True), repeat=3))
def test_every_way_of_lying_ends_upright(how: tuple[bool, bool, bool]) -> None:
    image, orientation = stored(*how)
    turn = turn_of(orientation)
    assert np.array_equal(turn_image(image, turn), UPRIGHT)
    assert np.array_equal(turn_back(UPRIGHT, turn), image)
    assert (turn == AS_STORED) == (not any(how)) and turn in TURNS


def test_a_tilted_gantry_turns_nothing() -> None:
    assert turn_of("1.0\\0.0\\0.0\\0.0\\0.9483237\\-0.3173047") == AS_STORED
    assert turn_of("0.98\\0.19899748742\\0.0\\-0.19899748742\\0.98\\0.0") == AS_STORED


@pytest.mark.parametrize("orientation", ["", "1.0\\0.0\\0.0\\0.0\\0.0\\-1.0"])
def test_unknown_or_coronal_images_stay(orientation: str) -> None:
    assert turn_of(orientation) == AS_STORED
