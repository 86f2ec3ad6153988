"""The task's datasets: same draws wherever a sample is read, nothing random in validation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import make_tiny_dataset

from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.errors import InputError
from config import Config
from rsna.data import load_data
from rsna_dataset import RSNADataset, find_transform
from rsna_task import LABELS


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("data")
    make_tiny_dataset(folder / "datasets" / "tiny")
    return Config().with_flags(data_input_folder=str(folder), data_dataset="tiny", data_img_size=24)


@pytest.fixture(scope="module")
def data(config):
    return load_data(config, (0.5,) * 3, (0.5,) * 3)


def test_sides_share_no_patient_and_labels_follow_the_table(data):
    frame = data.train.table.frame
    patients = [set(frame["patient_id"].iloc[side.rows]) for side in (data.train, data.valid)]
    assert patients[0] and patients[1] and not patients[0] & patients[1]
    sample = data.valid[3]
    row = frame.set_index("image_id").loc[data.valid.sample_id(3)]
    assert sample["labels"].tolist() == row[list(LABELS)].tolist()
    assert sample["image"].shape == (3, 24, 24)
    assert sample["image"].dtype == torch.float32


def test_draws_depend_on_seed_epoch_and_image_alone(data):
    train = data.train
    image = train[(1, 5)]["image"]
    assert torch.equal(image, train[(1, 5)]["image"])
    assert not torch.equal(image, train[(2, 5)]["image"])
    # The same image at another place of a dataset of other rows, read by another process.
    turned = RSNADataset(train.table, train.rows[::-1], train.transform, train.seed)
    place = len(train) - 1 - 5
    assert turned.sample_id(place) == train.sample_id(5)
    sampler = EpochSampler(len(turned), seed=1)
    sampler.start(1)
    for batch in make_loader(turned, 3, num_workers=2, sampler=sampler):
        for index, other in zip(batch["index"].tolist(), batch["image"]):
            if index == place:
                assert torch.equal(image, other)
                return
    raise AssertionError("the sample did not come")


def test_validation_is_deterministic_whatever_the_epoch(data):
    for index in range(len(data.valid)):
        assert torch.equal(data.valid[(0, index)]["image"], data.valid[(9, index)]["image"])


def test_other_seeds_draw_otherwise(config, data):
    other = load_data(config.with_flags(seed=1), (0.5,) * 3, (0.5,) * 3)
    assert not torch.equal(other.train[(0, 5)]["image"], data.train[(0, 5)]["image"])
    assert torch.equal(other.valid[5]["image"], data.valid[5]["image"])


def test_neighbours_are_slice_major_channels(data):
    table, rows = data.valid.table, data.valid.rows
    dataset = RSNADataset(table, rows, data.valid.transform)
    dataset.slice_offsets = (-1, 0, 1)
    images = dataset[1]["image"]
    assert images.shape[0] == 9
    before, here, after = table.neighbour_rows(int(rows[1]), (-1, 0, 1))
    assert here == rows[1]
    for start, row in ((0, before), (3, here), (6, after)):
        single = data.valid.transform(table.image_hu(row), 0)
        np.testing.assert_array_equal(images[start : start + 3].numpy(), single)


def test_dev_mode_limits_studies(config):
    limited = load_data(config.with_flags(dev_enabled=1, dev_num_studies=2), (0.5,) * 3, (0.5,) * 3)
    frame = limited.train.table.frame
    assert frame["study_id"].iloc[limited.train.rows].nunique() == 1
    assert frame["study_id"].iloc[limited.valid.rows].nunique() == 1


@pytest.mark.parametrize(
    ("windows", "means", "word"),
    [
        (1, 1, "makes 1 channels of a slice instead of 3.*as --data_train_transform has"),
        (3, 2, "2 means for 9 channels"),
        (2, 3, "3 means for 6 channels"),
    ],
)
def test_channels_that_do_not_fit_are_refused_before_training(tmp_path, windows, means, word):
    limits = {
        f"window_{what}_{end}": [40.0] * windows
        for what in ("width", "center")
        for end in ("mins", "maxs")
    }
    nodes = [
        {"__class_fullname__": "Resize", "height": 8, "width": 8},
        {"__class_fullname__": "common.albumentations.DicomWindowShift", **limits},
        {"__class_fullname__": "Normalize", "mean": [0.5] * means, "std": [0.5] * means}
        | {"max_pixel_value": 1.0},
    ]
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": nodes}
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"__version__": "2.0.8", "transform": compose}))
    with pytest.raises(InputError, match=word):
        find_transform("data_valid_transform", str(path), 0, [0.5] * 3, [0.5] * 3, 3, num_slices=3)


def test_transforms_folder_is_found_from_anywhere(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = str(Path(config.data.data_input_folder).resolve())
    assert len(load_data(config.with_flags(data_input_folder=folder), (0.5,), (0.5,)).train)
