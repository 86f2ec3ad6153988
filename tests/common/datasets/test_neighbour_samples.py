"""Samples of several slices and of header windows, as the dataset makes them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from predictor_factory import make_dataset, small_transform

from common.datasets.classification import ImageClassificationDataset
from common.datasets.loading import make_loader
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from common.transforms import SampleTransform
from rsna_task import LABELS

OFFSETS = (-1, 0, 1)
SWAP = {"__class_fullname__": "common.albumentations.NeighborSwap", "p": 0.5}


@pytest.fixture
def table(tmp_path: Path) -> SliceTable:
    return make_dataset(tmp_path)


def dataset_of(table: SliceTable, rows: list[int], *args: Any, **options: Any) -> Any:
    options.setdefault("slice_offsets", OFFSETS)
    return ImageClassificationDataset(
        table, rows, *(args or (small_transform(),)), LABELS, **options
    )


def rows_of(table: SliceTable, *names: str) -> list[int]:
    return table.rows_of([f"ID_{name}" for name in names]).tolist()


def header_transform() -> SampleTransform:
    nodes = [
        {"__class_fullname__": "Resize", "height": 32, "width": 32, "p": 1.0},
        {"__class_fullname__": "common.albumentations.HeaderWindow"},
    ]
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": nodes}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose})


def images_of(dataset: Any) -> list[np.ndarray]:
    return [dataset[index]["image"].numpy() for index in range(len(dataset))]


def stacked(table: SliceTable, *names: str) -> np.ndarray:
    """The windows of slice after slice."""
    rows = rows_of(table, *names)
    return np.concatenate([small_transform()(table.image_hu(row), 0) for row in rows])


def test_channels_are_the_slice_below_the_slice_and_the_one_above(table: SliceTable) -> None:
    rows = rows_of(table, "p2r0_0", "p2r0_3", "p2r0_5", "p0r0_4")
    first, middle, last, before_unreadable = images_of(dataset_of(table, rows))
    assert np.array_equal(first, stacked(table, "p2r0_0", "p2r0_0", "p2r0_1"))
    assert np.array_equal(middle, stacked(table, "p2r0_2", "p2r0_3", "p2r0_4"))
    assert np.array_equal(last, stacked(table, "p2r0_4", "p2r0_5", "p2r0_5"))
    assert np.array_equal(before_unreadable, stacked(table, "p0r0_3", "p0r0_4", "p0r0_4"))


def test_air_past_the_ends_where_it_is_asked_for(table: SliceTable) -> None:
    rows = rows_of(table, "p2r0_0", "p2r0_3", "p0r0_4")
    first, middle, before_unreadable = images_of(dataset_of(table, rows, past_end="air"))
    air = np.zeros_like(first[:3])  # the lower end of each window
    assert np.array_equal(first, np.concatenate([air, stacked(table, "p2r0_0", "p2r0_1")]))
    assert np.array_equal(middle, stacked(table, "p2r0_2", "p2r0_3", "p2r0_4"))
    below_and_self = stacked(table, "p0r0_3", "p0r0_4")
    assert np.array_equal(before_unreadable, np.concatenate([below_and_self, air]))


def test_distances_count_where_slices_have_positions(table: SliceTable, caplog: Any) -> None:
    frame = table.frame.copy()
    frame.loc[frame["store_file"] == "p3r0.b2nd", "position_mm"] = None
    table = SliceTable(frame, table.folder)
    rows = rows_of(table, "p2r0_3", "p3r0_3")
    dataset = dataset_of(table, rows, offsets_mm=(-10.0, 0.0, 10.0))
    far, near = images_of(dataset)
    assert np.array_equal(far, stacked(table, "p2r0_1", "p2r0_3", "p2r0_5"))
    assert np.array_equal(near, stacked(table, "p3r0_2", "p3r0_3", "p3r0_4"))
    with caplog.at_level(logging.WARNING):
        dataset.warn_of_fallbacks("training")
    assert "training: 1 of 2 slices lack positions: neighbours by number" in caplog.text
    assert dataset_of(table, rows).count_fallbacks() == {}


def test_a_damaged_neighbour_is_passed_over_and_a_damaged_slice_is_not(table: SliceTable) -> None:
    frame = table.frame.copy()
    bad = rows_of(table, "p2r0_2")
    frame.loc[bad, "store_index"] = 99  # not in the file
    damaged = SliceTable(frame, table.folder)
    rows = rows_of(table, "p2r0_3", "p2r0_1", "p2r0_2")
    dataset = dataset_of(damaged, rows)
    assert np.array_equal(dataset[0]["image"], stacked(table, "p2r0_1", "p2r0_3", "p2r0_4"))
    assert np.array_equal(dataset[1]["image"], stacked(table, "p2r0_0", "p2r0_1", "p2r0_3"))
    with pytest.raises(UnreadableSlice):
        dataset[2]
    by_mm = dataset_of(damaged, rows, offsets_mm=(-5.0, 0.0, 5.0))
    assert np.array_equal(by_mm[0]["image"], stacked(table, "p2r0_1", "p2r0_3", "p2r0_4"))


def test_header_windows_are_those_of_the_samples_own_slice(
    table: SliceTable, caplog: pytest.LogCaptureFixture
) -> None:
    frame = table.frame.copy()
    frame["window_center"] = pd.Series(40.0, frame.index)
    frame["window_width"] = 80.0 + 10.0 * np.arange(len(frame))
    rows = rows_of(table, "p2r0_3", "p2r0_4")
    frame.loc[rows[1], "window_width"] = None
    table = SliceTable(frame, table.folder)
    dataset = dataset_of(table, rows, header_transform())
    for image, row, width in zip(images_of(dataset), rows, (80 + 10 * rows[0], 80.0)):
        slices = np.stack([table.image_hu(row + k) for k in OFFSETS], axis=2)
        assert np.array_equal(image, header_transform()(slices, 0, (40.0, width)))
    with caplog.at_level(logging.WARNING):
        dataset.warn_of_fallbacks("validation")
    assert "validation: 1 of 2 slices lack a window in their header: 40/80" in caplog.text


def transform_in_mm() -> SampleTransform:
    nodes = [
        {"__class_fullname__": "Resize", "height": 32, "width": 32, "p": 1.0},
        {"__class_fullname__": "FieldOfView", "p": 1.0},
        {"__class_fullname__": "SliceThickness", "p": 1.0},
        {"__class_fullname__": "Calibration", "p": 1.0},
    ]
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": nodes}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose})


@pytest.mark.parametrize(
    ("offsets", "offsets_mm", "gap_mm"),
    [((-1, 0, 1), (), 5.0), ((-2, 0, 2), (), 10.0), ((-1, 0, 1), (-12, 0, 12), 12.0)],
)
def test_transforms_in_mm_know_the_spacing_of_their_slice(
    table: SliceTable, offsets: Any, offsets_mm: Any, gap_mm: float, caplog: Any
) -> None:
    frame = table.frame.copy()
    rows = rows_of(table, "p2r0_3", "p2r0_4")
    frame.loc[rows[0], ["spacing_row", "spacing_column"]] = (4.0, 5.0)
    frame.loc[rows[1], ["spacing_row", "spacing_column"]] = None
    table = SliceTable(frame, table.folder)
    options = {"slice_offsets": offsets, "offsets_mm": offsets_mm}
    dataset = dataset_of(table, rows, transform_in_mm(), **options)
    nan = float("nan")
    for index, spacing in enumerate([(4.0, 5.0, gap_mm), (nan, nan, gap_mm)]):
        slices = np.stack(dataset.slices_hu(index), axis=-1)
        expected = transform_in_mm()(slices, 7, None, spacing)
        assert np.array_equal(dataset.make_sample(index, 7)["image"], expected)
        dataset.host_transform = dataset.transform.host_part()
        _, draws = dataset.host_transform(np.moveaxis(slices, 2, 0), 7, None, spacing)
        assert np.array_equal(dataset.make_sample(index, 7)["draws"], draws)
        dataset.host_transform = None
    with caplog.at_level(logging.WARNING):
        dataset.warn_of_fallbacks("training")
    assert "training: 1 of 2 slices lack a pixel spacing: 250 mm is taken" in caplog.text
    alone = dataset_of(table, rows, transform_in_mm(), slice_offsets=(0,)).count_fallbacks()
    assert alone["neighbours in their sample: SliceThickness has no effect"] == 2


def test_other_rows_are_made_alike(table: SliceTable) -> None:
    rows = rows_of(table, "p2r0_3", "p3r0_1")
    dataset = dataset_of(table, rows[:1], seed=4, offsets_mm=(-5.0, 0.0, 5.0))
    dataset.host_transform = dataset.transform.host_part()
    other = dataset.with_rows(rows[::-1])
    expected = dataset_of(table, rows[::-1], seed=4, offsets_mm=(-5.0, 0.0, 5.0))
    for sample, same in zip(other, expected):
        assert sample.keys() == same.keys()
        assert torch.equal(sample["image"], same["image"])
        assert torch.equal(sample["labels"], same["labels"])
    assert other.sample_id(0) == "ID_p3r0_1" and len(dataset) == 1
    assert other.with_rows(rows, header_transform())[0]["image"].shape[0] == 3


def test_swaps_depend_on_seed_epoch_and_image_alone(table: SliceTable) -> None:
    transform = small_transform(SWAP)
    rows = rows_of(table, *(f"p{p}r0_{k}" for p in (2, 3) for k in range(1, 5)))
    dataset = dataset_of(table, rows, transform, seed=1)
    plain = dataset_of(table, rows, seed=1)

    def swapped(data: Any, epoch: int) -> dict[str, bool]:
        return {
            data.sample_id(i): not torch.equal(data[epoch, i]["image"], plain.with_rows(
                data.rows)[i]["image"]) for i in range(len(data))
        }  # fmt: skip

    first, second = swapped(dataset, 0), swapped(dataset, 1)
    assert first != second and len(set(first.values())) == 2
    turned = dataset.with_rows(rows[::-1])
    assert swapped(turned, 0) == first
    batches = list(make_loader(turned, 3, num_workers=2))
    images = torch.cat([batch["image"] for batch in batches])
    expected = torch.stack([dataset[0, i]["image"] for i in reversed(range(len(rows)))])
    assert torch.equal(images, expected)


def test_loader_and_device_make_the_same_of_neighbours_and_headers(table: SliceTable) -> None:
    rows = rows_of(table, "p2r0_0", "p2r0_3", "p3r0_2")
    for transform in (small_transform(SWAP), header_transform()):
        dataset = dataset_of(table, rows, transform, seed=2)
        expected = torch.stack([dataset[index]["image"] for index in range(len(rows))])
        dataset.host_transform = transform.host_part()
        batch = dataset.collate([dataset[index] for index in range(len(rows))])
        assert batch["image"].shape[1] == 3 and batch["image"].dtype == torch.int16
        images = transform.device_part()(batch["image"], batch["draws"])
        torch.testing.assert_close(images, expected, atol=2e-3, rtol=0)
