import os
import pickle
import zlib
from pathlib import Path

import blosc2
import numpy as np
import pytest

from common.slices.store import SeriesWriter, SliceStore, UnreadableSlice, write_series


def random_series(num_slices: int = 5, rows: int = 40, columns: int = 33) -> np.ndarray:
    generator = np.random.default_rng(7)
    return generator.integers(-1024, 31768, (num_slices, rows, columns)).astype(np.int16)


def test_slices_come_back_bit_for_bit(tmp_path: Path) -> None:
    volume = random_series()
    write_series(tmp_path / "a.b2nd", volume)
    store = SliceStore(tmp_path)
    assert store.num_slices("a.b2nd") == 5
    for index in (3, 0, 4, 1, 2):
        image = store.read("a.b2nd", index)
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image, volume[index])
    assert store.verify("a.b2nd") == []


def test_the_file_is_a_plain_blosc2_array_with_one_chunk_per_slice(tmp_path: Path) -> None:
    volume = random_series()
    write_series(tmp_path / "a.b2nd", volume)
    array = blosc2.open(str(tmp_path / "a.b2nd"), mode="r")
    assert array.chunks == (1, 40, 33)
    np.testing.assert_array_equal(array[:], volume)
    assert [path.name for path in tmp_path.iterdir()] == ["a.b2nd"]


def test_writer_takes_views_and_refuses_other_shapes_and_types() -> None:
    writer = SeriesWriter(4, 6)
    assert writer.append(np.arange(24, dtype=np.int16).reshape(6, 4).T) == 0
    with pytest.raises(ValueError, match="does not fit"):
        writer.append(np.zeros((6, 4), np.int16))
    with pytest.raises(ValueError, match="does not fit"):
        writer.append(np.zeros((4, 6), np.float32))
    assert len(writer) == 1


def test_no_slices_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no slice"):
        write_series(tmp_path / "a.b2nd", [])
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_index_out_of_range(tmp_path: Path) -> None:
    write_series(tmp_path / "a.b2nd", random_series(2))
    store = SliceStore(tmp_path)
    with pytest.raises(UnreadableSlice, match=r"b\.b2nd"):
        store.read("b.b2nd", 0)
    for index in (2, -1):
        with pytest.raises(UnreadableSlice, match="no chunk"):
            store.read("a.b2nd", index)


def test_a_foreign_blosc2_file_is_refused(tmp_path: Path) -> None:
    blosc2.asarray(np.zeros((2, 3, 4), np.int16), urlpath=str(tmp_path / "a.b2nd"))
    with pytest.raises(UnreadableSlice):
        SliceStore(tmp_path).read("a.b2nd", 0)


def test_damage_never_passes_as_an_image(tmp_path: Path) -> None:
    """Flips one byte at a time: a slice is either exactly what was written, or an error."""
    volume = random_series(4, 16, 16)
    volume[:, 4:12] = 0
    write_series(tmp_path / "a.b2nd", volume)
    data = (tmp_path / "a.b2nd").read_bytes()
    num_errors = 0
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        (tmp_path / "b.b2nd").write_bytes(damaged)
        store = SliceStore(tmp_path)
        for index in range(4):
            try:
                np.testing.assert_array_equal(store.read("b.b2nd", index), volume[index])
            except UnreadableSlice:
                num_errors += 1
    assert num_errors > 0


def test_verify_names_the_damaged_slice(tmp_path: Path) -> None:
    volume = random_series(4, 32, 32)
    write_series(tmp_path / "a.b2nd", volume)
    array = blosc2.open(str(tmp_path / "a.b2nd"), mode="a")
    array[2] = volume[1]
    store = SliceStore(tmp_path)
    assert store.verify("a.b2nd") == [2]
    with pytest.raises(UnreadableSlice, match="checksum"):
        store.read("a.b2nd", 2)


def test_truncated_file_is_an_error(tmp_path: Path) -> None:
    write_series(tmp_path / "a.b2nd", random_series())
    data = (tmp_path / "a.b2nd").read_bytes()
    for size in (0, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "a.b2nd").write_bytes(data[:size])
        with pytest.raises(UnreadableSlice):
            SliceStore(tmp_path).read("a.b2nd", 0)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    for name in range(10):
        write_series(tmp_path / f"{name}.b2nd", random_series(1))
    store = SliceStore(tmp_path, max_open=3)
    num_before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for name in range(10):
        store.read(f"{name}.b2nd", 0)
    if num_before:
        assert len(os.listdir("/proc/self/fd")) <= num_before + 3
    assert sum(file.is_open for file in store._files.values()) == 3


def test_pickled_store_opens_its_own_files(tmp_path: Path) -> None:
    volume = random_series()
    write_series(tmp_path / "a.b2nd", volume)
    store = SliceStore(tmp_path)
    store.read("a.b2nd", 0)
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._files
    np.testing.assert_array_equal(copy.read("a.b2nd", 1), volume[1])


def test_forked_reader_of_a_parent_that_has_read(tmp_path: Path) -> None:
    """More than one Blosc2 thread in the parent would hang the child for ever."""
    volume = random_series()
    write_series(tmp_path / "a.b2nd", volume)
    store = SliceStore(tmp_path)
    store.read("a.b2nd", 0)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(store.read("a.b2nd", 1), volume[1]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_replaced_file_is_opened_again(tmp_path: Path) -> None:
    write_series(tmp_path / "a.b2nd", random_series())
    store = SliceStore(tmp_path)
    store.read("a.b2nd", 0)
    volume = np.full((7, 8, 8), 40, np.int16)
    write_series(tmp_path / "a.b2nd", volume)
    np.testing.assert_array_equal(store.read("a.b2nd", 6), volume[6])


def test_a_slice_is_verified_when_a_process_first_reads_it(tmp_path: Path, monkeypatch) -> None:
    volume = random_series(3)
    write_series(tmp_path / "a.b2nd", volume)
    checked = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: checked.append(1) or crc32(data))
    store = SliceStore(tmp_path)
    for _ in range(3):
        for index in range(3):
            np.testing.assert_array_equal(store.read("a.b2nd", index), volume[index])
    assert len(checked) == 3
    pickle.loads(pickle.dumps(store)).read("a.b2nd", 0)
    assert len(checked) == 4
    # A failed read, here of a shorter series that took its place, forgets what was verified.
    write_series(tmp_path / "a.b2nd", volume[:1])
    checked.clear()
    store.close()
    with pytest.raises(UnreadableSlice):
        store.read("a.b2nd", 2)
    store.read("a.b2nd", 0)
    assert len(checked) == 1


def test_a_file_of_other_chunks_is_refused(tmp_path: Path) -> None:
    volume = random_series(4, 16, 16)
    array = blosc2.asarray(
        volume, chunks=(2, 16, 16), blocks=(1, 16, 16), urlpath=str(tmp_path / "a.b2nd")
    )
    checksums = [zlib.crc32(image_hu) for image_hu in volume]
    array.schunk.vlmeta["slice_crc32"] = np.array(checksums, "<u4").tobytes()
    with pytest.raises(UnreadableSlice, match="not a slice store"):
        SliceStore(tmp_path).read("a.b2nd", 0)
