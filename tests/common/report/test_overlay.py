import numpy as np
import pytest

from common.report.overlay import overlay
from common.windows import BONE, BRAIN, windowed

IMAGE = np.linspace(-50, 130, 600).reshape(20, 30).astype(np.int16)


def test_where_the_map_is_zero_the_slice_is_as_it_is() -> None:
    heat = np.zeros((20, 30), np.float32)
    heat[5:8, 6:9] = 0.5
    made = overlay(IMAGE, heat, BONE)
    assert made.shape == (20, 30, 3) and made.dtype == np.uint8
    grey = np.repeat(windowed(IMAGE, *BONE)[..., None], 3, axis=2)
    assert (made[heat == 0] == grey[heat == 0]).all()
    assert (made[heat > 0] != grey[heat > 0]).any(axis=1).all()


def test_the_color_says_how_much_whatever_else_the_map_holds() -> None:
    flat = np.full((4, 5), 40, np.int16)
    heat = np.linspace(0, 1, 20).reshape(4, 5).astype(np.float32)
    alone = overlay(flat[:1], heat[1:2])
    assert (alone == overlay(flat, heat)[1:2]).all()
    # Red comes last: the largest values look warm.
    red, green, blue = overlay(flat, heat)[-1, -1].astype(int)
    assert red > green + 40 and red > blue + 40


def test_the_slice_shows_through_by_what_the_color_leaves() -> None:
    heat = np.full(IMAGE.shape, 0.4, np.float32)
    made, black = overlay(IMAGE, heat), overlay(np.full_like(IMAGE, -1024), heat)
    shown = made.astype(float) - black
    share = shown[..., 0] / np.maximum(windowed(IMAGE, *BRAIN), 1)
    bright = windowed(IMAGE, *BRAIN) > 100
    assert 0.1 < share[bright].mean() < 0.95 and np.ptp(share[bright]) < 0.03
    assert np.ptp(shown, axis=2).max() <= 1  # grey


@pytest.mark.parametrize("value", [-3.0, 7.0])
def test_values_beyond_the_scale_are_cut(value: float) -> None:
    cut = np.full((20, 30), np.clip(value, 0, 1), np.float32)
    assert (overlay(IMAGE, np.full((20, 30), value, np.float32)) == overlay(IMAGE, cut)).all()
