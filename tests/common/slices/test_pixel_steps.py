import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.slices.pixel_steps import (
    HeadFinder,
    PixelSteps,
    head_mask,
    recorded_steps,
    require_same_steps,
    steps_of,
)

SPACING = (0.5, 0.5)
MARGIN = 10  # 5 mm


def head(center: tuple[int, int] = (100, 120), axes: tuple[int, int] = (70, 50)) -> np.ndarray:
    """A skull around brain with an air cavity, (200, 240) pixels of 0.5 mm, on a table's shell."""
    image = np.full((200, 240), -1000, np.int16)
    image[185:189] = 300  # 2 mm thin, and it touches nothing
    image[60:180, 3:6] = 500
    rows, columns = np.mgrid[:200, :240]
    radius = np.hypot((rows - center[0]) / axes[0], (columns - center[1]) / axes[1])
    image[radius <= 1] = 1000
    image[radius <= 0.9] = 35
    image[radius <= 0.1] = -1000
    return image


def is_head(center: tuple[int, int] = (100, 120), axes: tuple[int, int] = (70, 50)) -> np.ndarray:
    rows, columns = np.mgrid[:200, :240]
    return np.hypot((rows - center[0]) / axes[0], (columns - center[1]) / axes[1]) <= 1


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def test_the_mask_is_the_head_with_its_cavities_and_without_the_table() -> None:
    mask = head_mask(head(), SPACING)
    assert mask is not None
    assert mask[is_head()].all()
    assert not mask[185:189].any()
    assert not mask[:, 3:6].any()
    grown = cv2.dilate(is_head().astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    assert not mask[~grown].any()


def test_the_box_holds_the_head_of_all_slices_with_a_margin() -> None:
    finder = HeadFinder(SPACING)
    tilted = ((90, 120), (60, 40)), ((110, 125), (70, 50))
    for center, axes in tilted:
        finder.add(head(center, axes))
    bit_of_table = np.full((200, 240), -1000, np.int16)
    bit_of_table[170:199, 0:30] = 300
    finder.add(bit_of_table)
    finder.add(np.full((200, 240), -1024, np.int16))
    top, bottom, left, right = box_of(is_head(*tilted[0]) | is_head(*tilted[1]))
    expected = (top - MARGIN, bottom + MARGIN, left - MARGIN, right + MARGIN)
    # The mask's edge is as far off as the ends of the opening's kernel: a few pixels.
    assert np.abs(np.subtract(finder.box(), expected)).max() <= 8  # type: ignore[arg-type]
    box = finder.box()
    assert box is not None
    assert box[0] <= top and box[1] >= bottom and box[2] <= left and box[3] >= right


def test_parts_of_a_head_that_lie_apart_are_all_in_the_box() -> None:
    finder = HeadFinder(SPACING)
    for top, left in ((20, 30), (140, 180)):
        image = np.full((200, 240), -1000, np.int16)
        image[top : top + 45, left : left + 45] = 40
        finder.add(image)
    box = finder.box()
    assert box is not None
    assert box[0] <= 20 and box[1] >= 185 and box[2] <= 30 and box[3] >= 225


def test_inside_the_head_nothing_changes_and_outside_is_air() -> None:
    finder = HeadFinder(SPACING)
    finder.add(head())
    plan = PixelSteps(head_crop=True).plan((200, 240), SPACING, finder.box())
    stored = plan.apply(head())
    assert stored.shape == plan.shape
    assert plan.scale == (1, 1)
    top, bottom, left, right = plan.cut
    cut, inside = head()[top:bottom, left:right], is_head()[top:bottom, left:right]
    assert np.array_equal(stored[inside], cut[inside])
    assert set(np.unique(stored[~inside])) <= {-1024, -1000}
    assert stored[0, 0] == -1024


@pytest.mark.parametrize("image", [np.full((64, 64), -1000), np.full((64, 64), -1024)])
def test_where_there_is_no_head_nothing_is_cut_and_it_is_said(image: np.ndarray) -> None:
    image = image.astype(np.int16)
    image[10:14, 10:14] = 100  # 2 mm of something
    finder = HeadFinder(SPACING)
    finder.add(image)
    assert finder.box() is None
    plan = PixelSteps(head_crop=True).plan((64, 64), SPACING, None)
    assert np.array_equal(plan.apply(image), image)
    assert plan.note == "no head found: not cropped"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(20, 90),
    columns=st.integers(20, 90),
    row_mm=st.floats(0.2, 1.5),
    column_mm=st.floats(0.2, 1.5),
    spacing_mm=st.sampled_from([0.0, 0.4, 0.7, 1.3]),
    size=st.sampled_from([0, 32, 64]),
)
def test_sizes_and_spacings_agree(
    rows: int, columns: int, row_mm: float, column_mm: float, spacing_mm: float, size: int
) -> None:
    steps = PixelSteps(spacing_mm=spacing_mm, size=size)
    plan = steps.plan((rows, columns), (row_mm, column_mm))
    stored = plan.apply(np.full((rows, columns), 37, np.int16))
    assert stored.shape == plan.shape
    assert stored.dtype == np.int16
    assert set(np.unique(stored)) <= set(range(-1024, 38))
    if size:
        assert plan.shape == (size, size)
    scale = plan.scale
    if spacing_mm:
        # To within half a pixel over the whole image.
        assert scale[0] * row_mm == pytest.approx(spacing_mm, rel=0.51 / plan.resampled[0])
        assert scale[1] * column_mm == pytest.approx(spacing_mm, rel=0.51 / plan.resampled[1])
    elif size:
        # A square of the longer side: nothing is stretched.
        assert scale == pytest.approx((max(rows, columns) / size,) * 2)
    else:
        assert scale == (1, 1)


def test_shrinking_takes_means_and_growing_makes_no_new_extremes() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 2000, (64, 64)).astype(np.int16)
    small = PixelSteps(size=32).plan((64, 64), SPACING).apply(image)
    means = image.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5
    large = PixelSteps(size=128).plan((64, 64), SPACING).apply(image)
    assert image.min() <= large.min() and large.max() <= image.max()


def test_padding_is_air_and_centred() -> None:
    image = np.full((20, 40), 30, np.int16)
    stored = PixelSteps(size=40).plan((20, 40), SPACING).apply(image)
    assert (stored[10:30] == 30).all()
    assert (stored[:10] == -1024).all() and (stored[30:] == -1024).all()
    plan = PixelSteps(spacing_mm=0.5, size=32).plan((20, 40), SPACING)
    stored = plan.apply(image)
    assert (stored[6:26] == 30).all() and (stored[:6] == -1024).all()
    assert "cut" in plan.note


def test_what_can_not_be_resampled_is_said() -> None:
    plan = PixelSteps(spacing_mm=1.0).plan((20, 40), (None, None))
    assert plan.shape == (20, 40)
    assert "unknown" in plan.note
    plan = PixelSteps(spacing_mm=0.1).plan((20, 40), (50.0, 50.0))
    assert plan.shape == (20, 40)
    assert "4096" in plan.note


def test_other_steps_than_a_predictor_s_are_refused(tmp_path: Path) -> None:
    steps = PixelSteps(True, 0.5, 256)
    trained = {"pixels": steps.parameters()}
    require_same_steps({}, tmp_path)
    with pytest.raises(InputError, match=r"--pre_head_crop 1 --pre_spacing 0\.5 --pre_size 256"):
        require_same_steps(trained, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"parameters": trained}))
    assert recorded_steps(tmp_path) == steps
    require_same_steps(trained, tmp_path)
    with pytest.raises(InputError, match="was prepared with --pre_head_crop 1"):
        require_same_steps({}, tmp_path)


def test_a_brain_crop_is_said_and_older_records_stay_as_they_were() -> None:
    brain = PixelSteps(size=64, brain_crop=True)
    assert brain and brain.flags().endswith("--pre_size 64 --pre_brain_crop 1")
    assert brain.parameters() == {
        "head_crop": False, "spacing_mm": 0.0, "size": 64, "brain_crop": True,
    }  # fmt: skip
    assert steps_of({"pixels": brain.parameters()}) == brain
    assert "brain_crop" not in PixelSteps(head_crop=True).parameters()
    assert "brain" not in PixelSteps(head_crop=True).flags()
    plan = brain.plan((64, 64), SPACING, None)
    assert plan.region is None and plan.note == "no brain found: not cropped"


def test_a_brain_crop_leaves_the_skull() -> None:
    image, spacing_mm = head(), (1.2, 1.2)
    image[is_head(axes=(80, 60)) & ~is_head()] = -80  # a scalp
    finder = HeadFinder(spacing_mm, "brain")
    finder.add(image)
    plan = PixelSteps(brain_crop=True).plan((200, 240), spacing_mm, finder.box())
    top, bottom, left, right = plan.cut
    # 90 % of 70 and 50 pixels are inside the bone, and 10 mm more.
    expected = (100 - 63 - 8, 100 + 63 + 9, 120 - 45 - 8, 120 + 45 + 9)
    assert np.abs(np.subtract((top, bottom, left, right), expected)).max() <= 3
    stored, cut = plan.apply(image), image[top:bottom, left:right]
    inside = is_head(axes=(63, 45))[top:bottom, left:right]
    assert np.array_equal(stored[inside], cut[inside])
    assert ((stored == 1000) == (cut == 1000)).mean() > 0.99
    assert (stored == -80).mean() < 0.02 and (image == -80).mean() > 0.05
