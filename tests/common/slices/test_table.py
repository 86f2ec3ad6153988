import pickle
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slice_frames import slice_frame

from common.errors import InputError
from common.slices.store import write_series
from common.slices.table import STORE_FOLDER, SliceTable
from common.tables import write_parquet


def small_table(folder: Path) -> SliceTable:
    """Two groups in mixed order; the slice of rank 2 of the first group is unreadable."""
    frame = slice_frame(
        image_id=["a3", "b0", "a0", "a2", "b1", "a1", "bad"],
        status=["ok", "ok", "ok", "corrupt", "ok", "ok", "not_dicom"],
        store_file=["a", "b", "a", None, "b", "a", None],
        store_index=[2, 0, 0, None, 1, 1, None],
        rank=[3, 0, 0, 2, 1, 1, None],
        position_mm=[30.0, 5.0, 0.0, 20.0, None, 10.0, None],
        any=[1.0, 0.0, 0.0, 1.0, None, 1.0, None],
    )
    return SliceTable(frame, folder)


def test_neighbours_keep_rank_order_repeat_edges_and_pass_over_unreadable(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    assert table.neighbour_rows(5, (-2, -1, 0, 1, 2)) == [2, 2, 5, 0, 0]
    assert table.neighbour_rows(0, (-1, 0, 1)) == [5, 0, 0]
    assert table.neighbour_rows(4, (-1, 0, 1)) == [1, 4, 4]
    assert table.neighbour_rows(5, (-2, -1, 0, 1, 2), past_end="air") == [-1, 2, 5, 0, -1]
    assert table.group_rows(0).tolist() == [2, 5, 0]


def test_neighbours_in_mm(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    assert table.neighbour_rows_mm(5, (-10.0, 0.0, 6.0, 14.0, 100.0)) == [2, 5, 5, 0, 0]
    with pytest.raises(InputError, match="b0"):
        table.neighbour_rows_mm(1, (5.0,))


def test_a_slice_at_the_same_position_is_still_itself(tmp_path: Path) -> None:
    frame = slice_frame(
        image_id=["x", "y"],
        status=["ok", "ok"],
        store_file=["a", "a"],
        store_index=[0, 1],
        rank=[0, 1],
        position_mm=[5.0, 5.0],
    )
    assert SliceTable(frame, tmp_path).neighbour_rows_mm(1, (0.0,)) == [1]


def test_rows_without_pixels_have_no_neighbours_and_no_image(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    assert table.readable.tolist() == [True] * 3 + [False] + [True] * 2 + [False]
    for row in (3, 6):
        with pytest.raises(ValueError, match="no pixels"):
            table.neighbour_rows(row, (0,))
        with pytest.raises(ValueError, match="no pixels"):
            table.image_hu(row)


def test_labels_are_nan_where_unknown(tmp_path: Path) -> None:
    labels = small_table(tmp_path).labels(np.array([0, 4, 1]), ["any"])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1], [np.nan], [0]])


def test_rows_of_ids(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    assert table.rows_of(["bad", "a0"]).tolist() == [6, 2]
    gaps = table.frame.assign(image_id=["p", None, "q", None, "r", "s", "t"])
    assert SliceTable(gaps, tmp_path).rows_of(np.array(["t", "q", "q"])).tolist() == [6, 2, 2]
    with pytest.raises(InputError, match="'nobody'"):
        table.rows_of(["a0", "nobody"])
    again = SliceTable(table.frame.assign(image_id="a0"), tmp_path)
    with pytest.raises(InputError, match="several rows have one image id: run preprocessing"):
        again.rows_of(["a0"])


def test_pixels_of_a_loaded_and_pickled_table(tmp_path: Path) -> None:
    volume = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    write_series(tmp_path / STORE_FOLDER / "a", volume)
    write_parquet(tmp_path / "slices.parquet", small_table(tmp_path).frame)
    table = SliceTable.load(tmp_path)
    np.testing.assert_array_equal(table.image_hu(0), volume[2])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).image_hu(5), volume[1])
    assert table.neighbour_rows(5, (1,)) == [0]


def test_no_dataset_and_foreign_table_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preprocessing\.py"):
        SliceTable.load(tmp_path)
    pd.DataFrame({"image_id": ["a"]}).to_parquet(tmp_path / "slices.parquet")
    with pytest.raises(InputError, match="lacks the columns"):
        SliceTable.load(tmp_path)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=30),
    st.integers(-5, 5),
    st.randoms(use_true_random=False),
)
def test_neighbours_equal_a_plain_search(rows: list, offset: int, random: object) -> None:
    ranks = random.sample(range(len(rows)), len(rows))  # type: ignore[attr-defined]
    frame = slice_frame(
        image_id=[str(k) for k in range(len(rows))],
        status=["ok" if good else "corrupt" for _, good in rows],
        store_file=[name for name, _ in rows],
        store_index=[k if good else None for k, (_, good) in enumerate(rows)],
        rank=ranks,
    )
    table = SliceTable(frame, Path("nowhere"))
    for row, (name, good) in enumerate(rows):
        if good:
            same = [k for k, one in enumerate(rows) if one == (name, True)]
            ordered = sorted(same, key=ranks.__getitem__)
            place = min(max(ordered.index(row) + offset, 0), len(ordered) - 1)
            assert table.neighbour_rows(row, [offset]) == [ordered[place]]


def test_a_table_of_the_size_of_rsna_is_indexed_and_read_quickly() -> None:
    num_rows = 752_803
    ids = np.arange(num_rows)
    frame = slice_frame(
        image_id=ids.astype(str),
        status="ok",
        store_file=(ids // 35).astype(str),
        store_index=ids % 35,
        rank=ids % 35,
        position_mm=(ids % 35) * 5.0,
    )
    start = time.perf_counter()
    table = SliceTable(frame, Path("nowhere"))
    built = time.perf_counter()
    rows = np.random.default_rng(3).integers(0, num_rows, 2000)
    assert all(len(table.neighbour_rows(int(row), (-1, 0, 1))) == 3 for row in rows)
    read = time.perf_counter()
    assert built - start < 30
    assert (read - built) / len(rows) < 1e-3


def test_a_damaged_table_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "slices.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"can't be read.*preprocessing\.py"):
        SliceTable.load(tmp_path)


def test_rows_left_out_are_passed_over_like_unreadable_ones(tmp_path: Path) -> None:
    frame = slice_frame(
        image_id=[f"s{k}" for k in range(5)],
        status="ok",
        store_file="a",
        store_index=range(5),
        rank=range(5),
        position_mm=[0.0, 5.0, 10.0, 15.0, 20.0],
    )
    table = SliceTable(frame, tmp_path)
    without = SliceTable(frame.assign(status=["ok", "corrupt", "ok", "ok", "corrupt"]), tmp_path)
    for row in (0, 2, 3):
        offsets, offsets_mm = (-2, -1, 0, 1, 2), (-9.0, -5.0, 0.0, 5.0, 9.0)
        assert table.neighbour_rows(row, offsets, {1, 4}) == without.neighbour_rows(row, offsets)
        assert table.neighbour_rows_mm(row, offsets_mm, {1, 4}) == without.neighbour_rows_mm(
            row, offsets_mm
        )


def test_samples_are_by_distance_where_a_series_has_positions_and_else_by_number(
    tmp_path: Path,
) -> None:
    table = small_table(tmp_path)
    assert table.has_positions(np.array([0, 1, 2, 4, 5])).tolist() == [
        True,
        False,
        True,
        False,
        True,
    ]
    by_number, by_mm = (-1, 0, 1), (-30.0, 0.0, 30.0)
    assert table.sample_rows(0, by_number) == [5, 0, 0]
    assert table.sample_rows(0, by_number, by_mm) == [2, 0, 0]
    assert table.sample_rows(4, by_number, by_mm) == table.neighbour_rows(4, by_number) == [1, 4, 4]


def test_distances_skip_thin_slices_and_repeat_edges(tmp_path: Path) -> None:
    """A series whose upper half has slices of half the distance, as on RSNA scanners."""
    positions = [0.0, 5.0, 10.0, 12.5, 15.0, 17.5]
    frame = slice_frame(
        image_id=[f"s{k}" for k in range(6)],
        status="ok",
        store_file="a",
        store_index=range(6),
        rank=range(6),
        position_mm=positions,
    )
    table = SliceTable(frame, tmp_path)
    assert table.neighbour_rows_mm(4, (-5.0, 0.0, 5.0)) == [2, 4, 5]
    assert table.neighbour_rows_mm(2, (-5.0, 0.0, 5.0)) == [1, 2, 4]
    assert table.neighbour_rows_mm(0, (-5.0, 0.0, 5.0)) == [0, 0, 1]
    # As near to either: the neighbour rather than the slice itself, on both sides.
    assert table.neighbour_rows_mm(1, (-2.5, 0.0, 2.5)) == [0, 1, 2]


def test_windows_of_headers(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    table.frame["window_center"] = [40.0, None, 30.0, 35.0, 40.0, 40.0, None]
    table.frame["window_width"] = [80.0, None, 100.0, 80.0, None, 80.0, None]
    windows = table.header_windows(np.array([2, 1, 4]))
    np.testing.assert_array_equal(windows, [[30, 100], [np.nan, np.nan], [40, np.nan]])


def test_spacings_are_the_headers_and_the_median_of_a_group(tmp_path: Path) -> None:
    frame = small_table(tmp_path).frame.iloc[[0] * 6].reset_index(drop=True)
    frame = frame.assign(
        status="ok",
        store_file=["a", "b", "a", "a", "a", "c"],
        store_index=range(6),
        rank=[3, 0, 2, 0, 1, 0],
        position_mm=[-25.0, 1.0, -15.0, 0.0, -5.0, 3.0],
        spacing_row=[0.5, 0.4, np.nan, 0.5, 0.5, 0.5],
        spacing_column=[0.6, 0.4, np.nan, 0.6, 0.6, 0.6],
    )
    spacings = SliceTable(frame, tmp_path).spacings_mm(np.array([1, 2, 3]))
    nan = np.nan
    np.testing.assert_array_equal(spacings, [[0.4, 0.4, nan], [nan, nan, 10], [0.5, 0.6, 10]])
