import numpy as np
import pytest
import torch
from predictor_factory import rotating_transform, small_transform
from tiny_dataset import make_tiny_dataset

from common.datasets.classification import ImageClassificationDataset
from common.datasets.sequence import SeriesAugmentation
from common.datasets.series_images import SeriesImageDataset
from common.slices.pixel_steps import PixelSteps
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from rsna_task import LABELS


@pytest.fixture
def table(tmp_path) -> SliceTable:
    return SliceTable.load(make_tiny_dataset(tmp_path, num_patients=3, num_slices=5))


def test_series_hold_the_images_of_their_slices(table):
    rows = np.arange(len(table))
    transform = small_transform()
    series = SeriesImageDataset(table, rows, transform, LABELS)
    slices = ImageClassificationDataset(table, series.rows, transform, LABELS)
    assert len(series) == 3 and sorted(series.rows) == rows.tolist()
    for number in range(3):
        sample = series[number]
        for step, index in enumerate(sample["index"].tolist()):
            assert torch.equal(sample["images"][step], slices[index]["image"])
            assert torch.equal(sample["labels"][step], slices[index]["labels"])
        assert sample["position_mm"].diff().tolist() == [5.0] * 4


def test_slices_of_a_sample_are_turned_alike_and_anew_each_epoch(table):
    rows = table.group_rows(0)
    same_hu = table.image_hu(int(rows[0]))
    table.image_hu = lambda row: same_hu  # type: ignore[method-assign]
    series = SeriesImageDataset(table, rows, rotating_transform(), LABELS, seed=3)
    sample = series[(0, 0)]
    assert all(torch.equal(image, sample["images"][0]) for image in sample["images"])
    assert torch.equal(series[(0, 0)]["images"], sample["images"])
    drawn = [series[(epoch, 0)]["images"] for epoch in range(5)]
    assert not all(torch.equal(images, drawn[0]) for images in drawn)


def test_rows_not_asked_for_are_context(table):
    rows = table.group_rows(0)[[1, 3]]
    series = SeriesImageDataset(table, rows, small_transform(), LABELS)
    sample = series[0]
    assert sample["index"].tolist() == [-1, 0, -1, 1, -1]
    assert sample["labels"].isnan().all(dim=1).tolist() == [True, False, True, False, True]
    assert series.rows_of_series(0).tolist() == rows.tolist()


def test_crop_and_reversal_keep_images_with_their_labels(table):
    rows = np.arange(len(table))
    plain = SeriesImageDataset(table, rows, small_transform(), LABELS)
    augmentation = SeriesAugmentation(reverse=1.0, crop=3)
    series = SeriesImageDataset(table, rows, small_transform(), LABELS, augmentation)
    starts = set()
    for epoch in range(8):
        sample = series[(epoch, 1)]
        places = sample["index"].tolist()
        assert places == list(range(places[0], places[0] - 3, -1))
        starts.add(places[0])
        whole = plain[1]
        at = [whole["index"].tolist().index(place) for place in places]
        assert torch.equal(sample["images"], whole["images"][at])
        assert torch.equal(sample["labels"], whole["labels"][at])
        assert sample["position_mm"].diff().tolist() == [-5.0, -5.0]
    assert len(starts) > 1


def test_batches_are_padded_at_the_end(table):
    rows = np.concatenate([table.group_rows(0), table.group_rows(5)])
    augmentation = SeriesAugmentation(crop=3)
    series = SeriesImageDataset(table, rows, small_transform(), LABELS)
    short = SeriesImageDataset(table, rows, small_transform(), LABELS, augmentation)
    batch = series.collate([series[0], short[1]])
    assert batch["lengths"].tolist() == [5, 3]
    assert batch["images"].shape == (2, 5, 3, 32, 32) and not batch["images"][1, 3:].any()
    assert batch["index"][1].tolist()[3:] == [-1, -1] and batch["labels"][1, 3:].isnan().all()


def test_pixels_come_on_a_grid_in_mm(table):
    frame = table.frame.copy()
    frame[["spacing_row", "spacing_column"]] = 2.0
    table = SliceTable(frame, table.folder)
    seen, spacings = [], []

    def transform(
        image_hu: np.ndarray, seed: int, header_window: np.ndarray, spacing_mm: np.ndarray
    ) -> np.ndarray:
        seen.append(image_hu.shape)
        spacings.append(spacing_mm[:2].tolist())
        return image_hu.transpose(2, 0, 1).astype(np.float32)

    steps = PixelSteps(spacing_mm=1.0, size=60)
    series = SeriesImageDataset(table, np.arange(5), transform, LABELS, steps=steps)
    image = series[0]["images"][0, 0]
    assert set(seen) == {(60, 60, 1)} and spacings == [[1.0, 1.0]] * len(spacings)
    # 24 pixels of 2 mm are 48 of 1 mm; around them is air
    assert (image[:6] == -1024).all() and (image[7:-7, 7:-7] > -100).all()


def damage(table: SliceTable, rows: list[int]) -> None:
    read = table.image_hu

    def image_hu(row: int) -> np.ndarray:
        if row in rows:
            raise UnreadableSlice("checksum")
        return read(row)

    table.image_hu = image_hu  # type: ignore[method-assign]


def test_damaged_slices_are_left_out_where_that_is_wanted(table):
    rows = table.group_rows(0)
    damage(table, [int(rows[2])])
    options = (table, np.arange(len(table)), small_transform(), LABELS)
    with pytest.raises(UnreadableSlice):
        SeriesImageDataset(*options)[0]
    sample = SeriesImageDataset(*options, skips_damaged=True)[0]
    assert sample["index"].tolist() == [0, 1, 3, 4]
    assert sample["position_mm"].diff().tolist() == [5.0, 10.0, 5.0]
    damage(table, rows.tolist())
    sample = SeriesImageDataset(*options, skips_damaged=True)[0]
    assert sample["index"].tolist() == [-1] and sample["images"].shape[0] == 1
