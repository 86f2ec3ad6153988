"""Steps that change pixels, and marks of the brain range, in a whole dataset."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_ct
from prepared import contents, write_rsna_folder, write_series_files

from common.errors import InputError
from common.preparation import prepare_dataset
from common.preparation.splits import mark_brain_range
from common.slices.folds import read_folds, split_rows
from common.slices.pixel_steps import PixelSteps, recorded_steps
from common.slices.table import SliceTable
from config import Config
from rsna.sources.dicom import DicomSource
from rsna.sources.rsna import RSNASource
from rsna.training.results import origin_of
from rsna_task import LABELS

STEPS = PixelSteps(spacing_mm=1.0, size=40)


def prepare(folder: Path, out: Path, **options: object):
    return prepare_dataset(DicomSource(folder), out, n_jobs=0, **options)  # type: ignore[arg-type]


def test_tables_describe_what_is_stored(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in", num_slices=3, size=48, PixelSpacing=[0.5, 0.5])
    stored = np.full((24, 36), 1064, np.uint16)
    write_ct(tmp_path / "in" / "b.dcm", stored, SeriesInstanceUID="2.1", PixelSpacing=None)
    (tmp_path / "in" / "c.dcm").write_bytes(b"nothing")
    prepared = prepare(tmp_path / "in", tmp_path / "out", steps=STEPS)
    table = SliceTable.load(tmp_path / "out")
    frame = table.frame.set_index("series_id")
    same = frame.loc["1.2.3.4"]
    assert set(same["rows"]) == set(same["columns"]) == {40}
    assert set(same["spacing_row"]) == {1.0}
    for row in table.frame.index[table.frame["series_id"] == "1.2.3.4"]:
        image = table.image_hu(row)
        assert image.shape == (40, 40)
        assert table.frame["hu_max"][row] == image.max()
        assert (image[:8] == -1024).all()
        assert table.frame["brain_fraction"][row] == pytest.approx(
            ((image >= 0) & (image <= 80)).mean(), abs=1e-6
        )
    assert frame.loc["2.1", "rows"] == 40
    assert pd.isna(frame.loc["2.1", "spacing_row"])
    assert prepared.notes == {"the pixel spacing is unknown: not resampled": 1}
    assert prepared.rejected == {"not_dicom": 1}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["parameters"]["pixels"] == {
        "head_crop": False, "spacing_mm": 1.0, "size": 40,
    }  # fmt: skip


def test_a_series_is_cut_to_one_box(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:128, :128]
    for index, radius in enumerate((20, 40, 30)):
        pixels = np.zeros((128, 128), np.uint16)
        pixels[np.hypot(rows - 60, columns - 64) <= radius] = 1064
        pixels[120:123] = 1300
        write_ct(tmp_path / "in" / f"{index}.dcm", pixels, SOPInstanceUID=f"1.{index}",
                 ImagePositionPatient=[0, 0, 5 * index])  # fmt: skip
    prepared = prepare(tmp_path / "in", tmp_path / "out", steps=PixelSteps(head_crop=True))
    table = SliceTable.load(tmp_path / "out")
    size = table.frame.loc[0, ["rows", "columns"]].astype(int).tolist()
    # 81 pixels of head and 10 of margin on either side, of a mask that may reach 7 further.
    assert 101 <= size[0] <= 115 and 101 <= size[1] <= 115
    assert prepared.num_series == 1
    for row, radius in enumerate((20, 40, 30)):
        image = table.image_hu(row)
        assert list(image.shape) == size
        assert (image == 40).sum() == (np.hypot(rows - 60, columns - 64) <= radius).sum()
        assert image.max() == 40  # the table is gone


def test_a_series_is_cut_to_its_brain_and_says_so(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:128, :128]
    radius = np.hypot(rows - 60, columns - 64)
    for index, size in enumerate((30, 40, 35)):
        pixels = np.zeros((128, 128), np.uint16)
        pixels[radius <= size + 10] = 940  # scalp
        pixels[radius <= size + 4] = 2024
        pixels[radius <= size] = 1064
        pixels[120:126] = 1100
        write_ct(tmp_path / "in" / f"{index}.dcm", pixels, SOPInstanceUID=f"1.{index}",
                 ImagePositionPatient=[0, 0, 5 * index], PixelSpacing=[1.4, 1.4])  # fmt: skip
    steps = PixelSteps(brain_crop=True)
    prepare(tmp_path / "in", tmp_path / "out", steps=steps)
    table = SliceTable.load(tmp_path / "out")
    assert recorded_steps(tmp_path / "out") == steps
    size = table.frame.loc[0, ["rows", "columns"]].astype(int).tolist()
    assert np.abs(np.subtract(size, 81 + 20 / 1.4)).max() <= 3  # 10 mm around it
    for row, radius_of in enumerate((30, 40, 35)):
        image = table.image_hu(row)
        assert (image == 40).sum() == (radius <= radius_of).sum()
        assert (image == -84).mean() < 0.06 and not (image == 76).any()


def test_a_dataset_is_never_a_mixture_and_comes_out_the_same_after_a_kill(tmp_path: Path) -> None:
    for number in range(2):
        write_series_files(tmp_path / "in", f"1.{number}", num_slices=2, size=32)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare(tmp_path / "in", whole, steps=STEPS)
    before = contents(whole)
    for other in (PixelSteps(), PixelSteps(spacing_mm=1.0), PixelSteps(True, 1.0, 40)):
        with pytest.raises(InputError, match="was made with --pre_head_crop 0 --pre_spacing 1"):
            prepare(tmp_path / "in", whole, steps=other)
    assert contents(whole) == before
    plain = tmp_path / "plain"
    prepare(tmp_path / "in", plain)
    with pytest.raises(InputError, match="was made with --pre_head_crop 0 --pre_spacing 0"):
        prepare(tmp_path / "in", plain, steps=STEPS)
    # As a kill leaves it: some series, no tables.
    prepare(tmp_path / "in", broken, steps=STEPS)
    gone = sorted((broken / "store").glob("*.b2nd"))[0]
    gone.unlink()
    (broken / "slices.parquet").unlink()
    prepare(tmp_path / "in", broken, steps=STEPS)
    assert contents(broken) == before


def test_the_brain_range_goes_from_the_first_to_the_last_slice_with_brain() -> None:
    fractions = [0.0, 0.06, 0.01, 0.3, 0.05, 0.04, 0.5, 0.5, 0.01, None]
    frame = pd.DataFrame(
        {
            "store_file": ["a"] * 6 + ["b", "test", "c", None],
            "rank": [0, 1, 2, 3, 4, 5, 0, 0, 0, None],
            "brain_fraction": fractions,
            "split": ["train"] * 7 + ["test"] + ["train"] * 2,
        }
    ).astype({"rank": "Int32"})
    order = np.random.default_rng(0).permutation(len(frame))
    marked = mark_brain_range(frame.iloc[order], 0.05).sort_index()
    assert marked.tolist() == [True] + [False] * 4 + [True, False, False, True, False]


def test_marked_slices_are_kept_in_the_dataset_and_left_out_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rsna_folder(tmp_path / "in")
    source = RSNASource(tmp_path / "in")
    prepare_dataset(source, tmp_path / "all", n_jobs=0, num_folds=2)
    everything = SliceTable.load(tmp_path / "all")
    least = float(everything.frame["brain_fraction"].quantile(0.6))
    for _ in range(2):  # another value makes the tables again, not the store
        prepare_dataset(source, tmp_path / "some", n_jobs=0, num_folds=2, brain_min=least)
    table = SliceTable.load(tmp_path / "some")
    kept = table.frame["keep_for_training"]
    assert len(table) == len(everything) and table.readable.all()
    assert not kept.all()
    assert kept[table.frame["split"] == "test"].all()
    assert f"{(~kept).sum()} training slices" in caplog.text
    folds = read_folds(tmp_path / "some" / "folds.csv")
    assert folds.equals(read_folds(tmp_path / "all" / "folds.csv"))
    rows, valid = split_rows(table, folds, 0, LABELS)
    all_rows, all_valid = split_rows(everything, folds, 0, LABELS)
    assert np.array_equal(valid, all_valid)
    assert set(rows) == {row for row in all_rows if kept[row]}
    manifest = json.loads((tmp_path / "some" / "manifest.json").read_text())
    assert manifest["parameters"]["brain_min"] == least


def test_training_remembers_how_its_slices_were_prepared(tmp_path: Path) -> None:
    write_series_files(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out", steps=STEPS)
    origin = origin_of(Config(), "0001", 5, "", tmp_path / "out")
    assert origin["pixels"] == STEPS.parameters()
