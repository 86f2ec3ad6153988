import io
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_dataset import make_tiny_dataset

from common.errors import InputError
from common.preparation.export import (
    EXPORT_WINDOWS,
    ExportOptions,
    _encoded,
    export_images,
    file_stem,
    fixed_window_image,
    header_window_image,
)
from common.slices.store import write_series
from common.slices.table import SLICES_FILE, STORE_FOLDER, SliceTable

NPY = ExportOptions("npy")
GREY = ExportOptions("png", ("bone",))


def notebook_window(pixels, slope, intercept, center, width):
    """The formula of the takmanman notebook, as published."""
    pixels = pixels * slope + intercept
    low, high = center - width // 2, center + width // 2
    pixels[pixels < low] = low
    pixels[pixels > high] = high
    return np.uint8((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255)


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = make_tiny_dataset(tmp_path / "dataset", num_patients=3)
    frame = pd.read_parquet(folder / SLICES_FILE)
    frame[["window_center", "window_width"]] = 40.0, 80.0
    frame.loc[0, "window_center"] = np.nan
    frame.to_parquet(folder / SLICES_FILE)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(("center", "width"), [(40.0, 80.0), (36.0, 135.0), (30.0, 3.0)])
def test_npy_images_are_those_of_the_notebook(center, width):
    stored = np.random.default_rng(0).integers(0, 2200, (30, 20))
    image_hu = (stored - 1024).astype(np.int16)
    expected = notebook_window(stored.astype(float), 1.0, -1024.0, center, width)
    assert np.array_equal(header_window_image(image_hu, center, width), expected)


def test_an_image_of_one_value_is_black():
    flat = np.full((4, 4), 500, dtype=np.int16)
    assert not header_window_image(flat, 40, 80).any()


def test_png_windows_end_where_they_should():
    image_hu = np.array([[-1024, 0, 40, 80, 3000]], dtype=np.int16)
    image = fixed_window_image(image_hu, [(40, 80), (600, 2800)])
    assert image[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert image[0, :, 1].tolist() == [0, 73, 76, 80, 255]


def test_three_windows_are_red_green_and_blue():
    image_hu = np.random.default_rng(0).integers(-100, 300, (8, 6)).astype(np.int16)
    data, _ = _encoded(image_hu, None, ExportOptions("png"))
    windows = [EXPORT_WINDOWS[name] for name in ("brain", "subdural", "soft")]
    expected = fixed_window_image(image_hu, windows)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


def test_every_slice_becomes_a_file_that_the_index_names(dataset, tmp_path):
    table = SliceTable.load(dataset)
    exported = export_images(table, tmp_path / "out", NPY, n_jobs=0)
    index = pd.read_csv(tmp_path / "out" / "images.csv")
    assert index["image_id"].tolist() == table.frame["image_id"].tolist()
    for row, name in enumerate(index["file"]):
        image = np.load(tmp_path / "out" / name)
        assert np.array_equal(image, header_window_image(table.image_hu(row), 40, 80))
    assert "exported 12 slices (0 kept)" in exported.line()
    assert "without a window in the header: 1 image" in exported.line()


def test_what_was_interrupted_goes_on_to_the_same_files(dataset, tmp_path):
    table = SliceTable.load(dataset)
    export_images(table, tmp_path / "whole", GREY, n_jobs=0)
    out = tmp_path / "out"
    export_images(table, out, GREY, n_jobs=0)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (out / "ID_1_2.png").unlink()
    (out / ".export" / "series2.b2nd.json").write_text("{")
    exported = export_images(table, out, GREY, n_jobs=0)
    assert "exported 12 slices (4 kept)" in exported.line()
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert {name for name in before if before[name] == after[name]} == {
        f"ID_0_{n}.png" for n in range(4)
    }
    assert contents(out) == contents(tmp_path / "whole")


def test_new_pixels_are_exported_again(dataset, tmp_path):
    table = SliceTable.load(dataset)
    export_images(table, tmp_path / "out", GREY, n_jobs=0)
    image_hu = np.arange(4 * 24 * 24, dtype=np.int16).reshape(4, 24, 24)
    write_series(dataset / STORE_FOLDER / "series1.b2nd", image_hu)
    exported = export_images(SliceTable.load(dataset), tmp_path / "out", GREY, n_jobs=0)
    assert "(8 kept)" in exported.line()
    image = np.asarray(Image.open(tmp_path / "out" / "ID_1_3.png"))
    assert np.array_equal(image, fixed_window_image(image_hu[3], [(600, 2800)])[:, :, 0])


def test_damaged_series_are_counted_and_the_others_exported(dataset, tmp_path):
    (dataset / STORE_FOLDER / "series1.b2nd").write_bytes(b"damaged")
    exported = export_images(SliceTable.load(dataset), tmp_path / "out", GREY, n_jobs=0)
    assert "exported 8 slices (0 kept), 4 damaged in the store" in exported.line()
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 8


def test_a_folder_of_something_else_is_refused(dataset, tmp_path):
    table = SliceTable.load(dataset)
    export_images(table, tmp_path / "out", GREY, n_jobs=0)
    with pytest.raises(InputError, match="another kind"):
        export_images(table, tmp_path / "out", NPY, n_jobs=0)
    with pytest.raises(InputError, match="something else"):
        export_images(table, dataset, NPY, n_jobs=0)


@settings(max_examples=50)
@given(st.text())
def test_no_id_leads_out_of_the_folder(image_id):
    stem = file_stem(image_id)
    assert re.fullmatch(r"[A-Za-z0-9_~.-]{1,128}", stem)
    assert os.path.basename(stem) == stem
    assert stem not in (".", "..")
    assert (stem == image_id) == ("~" not in stem)


def test_hostile_ids_get_names_of_their_own(dataset, tmp_path):
    ids = ["../../outside", "/etc/passwd", "a\nb", "..", "", "a/b", "a\\b", "a b", "x" * 500]
    assert len({file_stem(name) for name in ids}) == len(ids)
    assert file_stem("ID_000012eaf") == "ID_000012eaf"
    assert file_stem("1.2.840.113619.2") == "1.2.840.113619.2"
    frame = pd.read_parquet(dataset / SLICES_FILE)
    frame.loc[: len(ids) - 1, "image_id"] = ids
    frame.to_parquet(dataset / SLICES_FILE)
    export_images(SliceTable.load(dataset), tmp_path / "place" / "out", NPY, n_jobs=0)
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"out"}
    assert len(list((tmp_path / "place" / "out").glob("*.npy"))) == 12


@pytest.mark.long
def test_processes_make_the_same_files(dataset, tmp_path):
    table = SliceTable.load(dataset)
    export_images(table, tmp_path / "one", GREY, n_jobs=0)
    export_images(table, tmp_path / "two", GREY, n_jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
