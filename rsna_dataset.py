"""The task's slices: which rows are trained and validated on, and how they become images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets import ImageClassificationDataset
from common.errors import InputError
from common.folds import PSEUDO, folds_path, read_folds, split_rows, without_fold
from common.leakage import warn_of_pseudo_labels
from common.metrics import training_prior
from common.slices import SliceTable
from common.subset import draw_studies
from common.transforms import SampleTransform, load_transform
from config import Config, DataConfig
from rsna_task import LABELS, TASKS

logger = logging.getLogger(__name__)

TRANSFORMS_FOLDER = Path(__file__).resolve().parent / "transforms"


class RSNADataset(ImageClassificationDataset):
    """Slices with the labels of the task, or `any` alone; see the base for the neighbours."""

    def __init__(
        self,
        table: SliceTable,
        rows: np.ndarray,
        transform: SampleTransform,
        seed: int = 0,
        label_names: Sequence[str] = LABELS,
        slice_offsets: Sequence[int] = (0,),
        offsets_mm: Sequence[float] = (),
    ) -> None:
        super().__init__(
            table, rows, transform, label_names, slice_offsets, seed, offsets_mm=offsets_mm
        )


@dataclass(frozen=True)
class RSNAData:
    """What a training reads.

    Attributes:
        train, valid: the two sides of the fold.
        prior: share of positives per label in the training rows, inside (0, 1).
        tta_transform: draws extra views for predictions.
    """

    train: RSNADataset
    valid: RSNADataset
    prior: np.ndarray
    tta_transform: SampleTransform

    def log_sizes(self) -> None:
        """Tells the log how many slices and studies each side has, and what is not as asked for."""
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            studies = dataset.table.frame["study_id"].iloc[dataset.rows].nunique()
            logger.info("%s: %d slices of %d studies", side, len(dataset), studies)
            dataset.warn_of_fallbacks(side)


def neighbour_offsets(data: DataConfig) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Returns `slice_offsets` and `offsets_mm` of the samples that the flags ask for."""
    offsets = tuple(range(-data.data_neighbors, data.data_neighbors + 1))
    if not data.data_neighbors or not data.data_neighbor_mm:
        return offsets, ()
    return offsets, tuple(offset * data.data_neighbor_mm for offset in offsets)


def image_shape(config: Config) -> tuple[int, int, int]:
    """Returns (channels, height, width) of the training images that the flags ask for."""
    data, num_slices = config.data, len(neighbour_offsets(config.data)[0])
    transform = find_transform(
        "data_train_transform", data.data_train_transform, data.data_img_size, (0.5,), (0.5,)
    )
    assert transform.output_size is not None
    return (num_slices * transform.num_windows, *transform.output_size)


def load_data(config: Config, mean: Sequence[float], std: Sequence[float]) -> RSNAData:
    """Opens the dataset that the flags name.

    Args:
        config: the flags.
        mean, std: normalisation that the weights expect, for transforms without their own.

    Raises:
        InputError: no such dataset, fold or transform, or a validation transform that is random.
    """
    table = SliceTable.load(config.dataset_folder)
    train_rows, valid_rows = fold_rows(config, table)
    label_names = TASKS[config.network.net_num_classes].label_names
    augmented, plain, tta = find_transforms(config, mean, std)
    offsets = neighbour_offsets(config.data)
    train = RSNADataset(table, train_rows, augmented, config.general.seed, label_names, *offsets)
    valid = train.with_rows(valid_rows, plain)
    return RSNAData(train, valid, training_prior(train.labels), tta)


def fold_rows(config: Config, table: SliceTable) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to train on and those to validate on, dev mode considered.

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
    train_rows, valid_rows = split_rows(table, folds, fold, label_names)
    warn_of_pseudo_labels(table.frame["label_source"].iloc[train_rows], PSEUDO, fold)
    if config.general.dev_enabled:
        num_valid = max(1, config.general.dev_num_studies // 4)
        num_train = max(1, config.general.dev_num_studies - num_valid)
        train_rows = limit_studies(table, train_rows, num_train, config.general.seed)
        valid_rows = limit_studies(table, valid_rows, num_valid, config.general.seed)
    return train_rows, valid_rows


def draw_subset(dataset: RSNADataset, num_studies: int, seed: int) -> RSNADataset:
    """The slices of some studies of a dataset; see `draw_studies`."""
    studies = dataset.table.frame["study_id"].to_numpy(dtype=object)[dataset.rows].astype(str)
    chosen = draw_studies(studies, dataset.labels, num_studies, seed)
    logger.info(
        "validation between those of the whole: %d slices of %d studies",
        chosen.sum(),
        len(np.unique(studies[chosen])),
    )
    return dataset.with_rows(dataset.rows[chosen])


def find_transforms(
    config: Config, mean: Sequence[float], std: Sequence[float], num_slices: int | None = None
) -> tuple[SampleTransform, SampleTransform, SampleTransform]:
    """The transforms of training, validation and extra views that the flags name.

    Args:
        config: the flags.
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


def find_transform(
    flag: str,
    name: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    num_windows: int | None = None,
    num_slices: int = 1,
) -> SampleTransform:
    """The transform called `name` in transforms/, or the file of that path.

    Args:
        flag: the flag that named it, for messages.
        size: side of the image in pixels, 0 for the transform's own.
        mean, std: normalisation where the transform has none.
        num_windows: channels that it has to make of a slice; None for its own.
        num_slices: slices of a sample.
    """
    path = Path(name) if name.endswith(".json") else TRANSFORMS_FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TRANSFORMS_FOLDER.glob("*.json")))
        raise InputError(
            f"--{flag} {name}: no such file; give a path to a .json, or one of {known}"
        )
    transform = load_transform(path)
    if size:
        transform = transform.with_size(size)
    if transform.output_size is None:
        raise InputError(
            f"--{flag} {name}: its images differ in size: add a Resize, or give --data_img_size"
        )
    try:
        transform = transform.with_normalization(mean, std)
        transform.require_channels(num_windows or transform.num_windows, num_slices)
    except InputError as error:
        as_train = " as --data_train_transform has" if num_windows else ""
        raise InputError(f"--{flag}: {error}{as_train}") from error
    return transform


def limit_studies(table: SliceTable, rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """The rows of at most `most` studies, drawn from `seed`."""
    studies = table.frame["study_id"].to_numpy(dtype=object)[rows]
    unique = np.unique(studies.astype(str))
    if len(unique) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(unique, most, replace=False)
    return rows[np.isin(studies.astype(str), chosen)]
