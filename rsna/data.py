"""Rows, transforms and datasets of a training, from its flags."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.scoring.metrics import majority, training_prior
from common.slices.copies import require_unseen_pixels
from common.slices.folds import PSEUDO, folds_path, read_folds, split_rows, without_fold
from common.slices.leakage import warn_of_pseudo_labels
from common.slices.table import SliceTable
from common.transforms import SampleTransform
from config import Config
from flags.data import DataConfig
from rsna_dataset import RSNAData, RSNADataset, find_transform, limit_studies
from rsna_task import TASKS


def neighbour_offsets(data: DataConfig) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return `slice_offsets` and `offsets_mm` of the samples that the flags ask for."""
    offsets = tuple(range(-data.data_neighbors, data.data_neighbors + 1))
    if not data.data_neighbors or not data.data_neighbor_mm:
        return offsets, ()
    return offsets, tuple(offset * data.data_neighbor_mm for offset in offsets)


def image_shape(config: Config) -> tuple[int, int, int]:
    """Return (channels, height, width) of the training images that the flags ask for."""
    data, num_slices = config.data, len(neighbour_offsets(config.data)[0])
    transform = find_transform(
        "data_train_transform", data.data_train_transform, data.data_img_size, (0.5,), (0.5,)
    )
    assert transform.output_size is not None
    return (num_slices * transform.num_windows, *transform.output_size)


def load_data(config: Config, mean: Sequence[float], std: Sequence[float]) -> RSNAData:
    """Open the dataset that the flags name.

    Args:
        mean, std: normalisation that the weights expect, for transforms without their own.

    Raises:
        InputError: no such dataset, fold or transform, or a validation transform that is random.
    """
    table = SliceTable.load(config.dataset_folder)
    train_rows, valid_rows = fold_rows(config, table)
    label_names = TASKS[config.network.net_num_classes].label_names
    augmented, plain, tta = find_transforms(config, mean, std)
    offsets = neighbour_offsets(config.data)
    end = config.data.data_neighbor_end
    seed = config.general.seed
    train = RSNADataset(table, train_rows, augmented, seed, label_names, *offsets, past_end=end)
    valid = train.with_rows(valid_rows, plain)
    return RSNAData(train, valid, training_prior(majority(train.labels)), tta)


def fold_rows(
    config: Config, table: SliceTable, of_studies: NDArray[np.bool_] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those to validate on, dev mode considered.

    Args:
        of_studies: as of `split_rows`.

    Raises:
        InputError: no such fold, or one without slices on a side.
    """
    fold = config.data.data_fold
    if not isinstance(fold, int):
        raise InputError("--data_fold all: give the number of one fold; only train.py takes all")
    folds = read_folds(folds_path(config.dataset_folder, fold))
    if config.data.data_leave_out_fold is not None:
        folds = without_fold(folds, config.data.data_leave_out_fold)
    label_names = TASKS[config.network.net_num_classes].label_names
    train_rows, valid_rows = split_rows(table, folds, fold, label_names, of_studies)
    require_unseen_pixels(table, train_rows, valid_rows, fold)
    warn_of_pseudo_labels(table.frame["label_source"].iloc[train_rows], PSEUDO, fold)
    if config.general.dev_enabled:
        num_valid = max(1, config.general.dev_num_studies // 4)
        num_train = max(1, config.general.dev_num_studies - num_valid)
        train_rows = limit_studies(table, train_rows, num_train, config.general.seed)
        valid_rows = limit_studies(table, valid_rows, num_valid, config.general.seed)
    return train_rows, valid_rows


def find_transforms(
    config: Config, mean: Sequence[float], std: Sequence[float], num_slices: int | None = None
) -> tuple[SampleTransform, SampleTransform, SampleTransform]:
    """Return the transforms of training, validation and extra views that the flags name.

    Args:
        mean, std: normalisation where a transform has none.
        num_slices: slices of a sample; None for those that the flags ask for.

    Raises:
        InputError: one is unusable, random in validation, or has other windows than the first.
    """
    num_slices = num_slices or len(neighbour_offsets(config.data)[0])

    def find(flag: str, num_windows: int | None = None) -> SampleTransform:
        name, size = getattr(config.data, flag), config.data.data_img_size
        return find_transform(flag, name, size, mean, std, num_windows, num_slices)

    augmented = find("data_train_transform")
    plain = find("data_valid_transform", augmented.num_windows)
    plain.require_deterministic()
    return augmented, plain, find("data_test_transform", augmented.num_windows)
