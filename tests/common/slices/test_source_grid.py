"""Where stored slices lie in the images of their files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turned_heads import write_head

from common.dicom.upright import AS_STORED, TURNS, Turn, turn_back, turn_image
from common.errors import InputError
from common.preparation import prepare_dataset
from common.slices.pixel_steps import PixelSteps
from common.slices.source_grid import SourceGrid, _grid, source_grids
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource


@pytest.mark.parametrize("turn", TURNS)
def test_turning_back_undoes_turning(turn: Turn) -> None:
    image = np.arange(12).reshape(3, 4)
    assert (turn_back(turn_image(image, turn), turn) == image).all()


STEPS = (
    PixelSteps(),
    PixelSteps(spacing_mm=1.3),
    PixelSteps(size=100),
    PixelSteps(head_crop=True),
    PixelSteps(spacing_mm=0.6, size=128),
    PixelSteps(head_crop=True, spacing_mm=1.0, size=150),
    PixelSteps(brain_crop=True, size=96),
)


@pytest.mark.parametrize("number, turn", enumerate(TURNS))
def test_a_spot_is_found_where_the_file_has_it(tmp_path: Path, number: int, turn: Turn) -> None:
    for tilt_deg, steps in ((0.0, STEPS[number % 7]), (18.0, STEPS[(number + 3) % 7])):
        source, out = tmp_path / f"in{tilt_deg}", tmp_path / f"out{tilt_deg}"
        places = write_head(source, turn, tilt_deg, [0.9, 1.2])
        prepare_dataset(DicomSource(source), out, n_jobs=0, steps=steps)
        table = SliceTable.load(out)
        rows = np.flatnonzero(table.readable)
        assert len(rows) == 3
        for row, grid in zip(rows, source_grids(table, rows), strict=True):
            place = places[int(table.image_id(row)[-1])]
            stored = (table.image_hu(row) > 1500).astype(np.float32)
            found = grid.map_back(stored, np.eye(3))
            assert found.shape == (160, 150)
            seen = np.argwhere(found > 0.5)
            assert len(seen) > 20
            assert np.abs(seen.mean(axis=0) - place).max() <= 0.75


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(40, 90), st.integers(40, 90)),
    spacing=st.tuples(st.floats(0.4, 1.5), st.floats(0.4, 1.5)),
    wanted=st.sampled_from([0.0, 0.5, 0.8, 1.1]),
    size=st.sampled_from([0, 64, 150]),
    corner=st.tuples(st.integers(0, 15), st.integers(0, 15)),
)
def test_boxes_of_any_steps(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    wanted: float,
    size: int,
    corner: tuple[int, int],
) -> None:
    """An image of coordinates goes through the steps; what comes out are those of the matrix."""
    box = (corner[0], shape[0] - 3, corner[1], shape[1])
    plan = PixelSteps(spacing_mm=wanted, size=size, head_crop=True).plan(shape, spacing, box)
    grid = _grid(plan.source_box(shape), plan.shape, AS_STORED)
    matrix = grid.matrix
    assert grid.shape == shape
    rows, columns = np.mgrid[: shape[0], : shape[1]] * 100
    for axis, values in enumerate((rows, columns)):
        plain = type(plan)(**{**vars(plan), "region": None})
        made = plain.apply((values + 1000).astype(np.int16)).astype(float)
        length = plan.shape[axis]
        step, start = matrix[1 - axis, 1 - axis], matrix[1 - axis, 2]
        where = start + np.arange(length) * step
        line = made.max(axis=1 - axis)
        inside = (where > box[2 * axis] + 1.5) & (where < box[2 * axis + 1] - 2.5)
        inside &= np.abs(np.gradient(line)) < 300
        assert inside.sum() >= 5
        assert np.abs((line - 1000)[inside] / 100 - where[inside]).max() < 0.15


def test_datasets_that_do_not_say_where_they_were_cut_are_refused(tmp_path: Path) -> None:
    write_head(tmp_path / "in", (False, False, False), 0.0, [1.0, 1.0])
    out = tmp_path / "out"
    prepare_dataset(DicomSource(tmp_path / "in"), out, n_jobs=0, steps=PixelSteps(size=64))
    table = SliceTable.load(out)
    older = SliceTable(table.frame.drop(columns="source_box"), out)
    with pytest.raises(InputError, match=r"out: an earlier version .* prepare them again"):
        source_grids(older, np.array([0]))


def test_what_a_map_does_not_show_is_zero() -> None:
    grid = SourceGrid(np.diag([1.0, 1.0, 1.0]), (20, 30), (True, False, True))
    shifted = np.array([[1, 0, 10], [0, 1, 5], [0, 0, 1.0]])
    found = grid.map_back(np.ones((4, 6), np.float32), shifted)
    assert found.dtype == np.float32 and found.shape == (30, 20)
    assert found.sum() == 24
    assert turn_image(found, grid.turn)[5:9, 10:16].all()
