"""The task's slices: which rows are trained and validated on, and how they become images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets import ImageClassificationDataset
from common.errors import InputError
from common.folds import folds_path, read_folds, split_rows, without_fold
from common.metrics import training_prior
from common.slices import SliceTable
from common.subset import draw_studies
from common.transforms import SampleTransform, load_transform
from config import Config
from rsna_task import LABELS, TASKS

logger = logging.getLogger(__name__)

# What the networks take: the windows of one slice.
NUM_CHANNELS = 3
TRANSFORMS_FOLDER = Path(__file__).resolve().parent / "transforms"


class RSNADataset(ImageClassificationDataset):
    """Slices with the labels of the task, or `any` alone."""

    def __init__(
        self,
        table: SliceTable,
        rows: np.ndarray,
        transform: SampleTransform,
        seed: int = 0,
        label_names: Sequence[str] = LABELS,
    ) -> None:
        super().__init__(table, rows, transform, label_names, seed=seed)


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
        """Tells the log how many slices and studies each side has."""
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            studies = dataset.table.frame["study_id"].iloc[dataset.rows].nunique()
            logger.info("%s: %d slices of %d studies", side, len(dataset), studies)


def load_data(config: Config, mean: Sequence[float], std: Sequence[float]) -> RSNAData:
    """Opens the dataset that the flags name.

    Args:
        config: the flags.
        mean, std: normalisation that the weights expect, for transforms without their own.

    Raises:
        InputError: no such dataset, fold or transform, or a validation transform that is random.
    """
    table = SliceTable.load(config.dataset_folder)
    fold = config.data.data_fold
    if not isinstance(fold, int):
        raise InputError("--data_fold all: give the number of one fold; only train.py takes all")
    folds = read_folds(folds_path(config.dataset_folder, fold))
    if config.data.data_leave_out_fold is not None:
        folds = without_fold(folds, config.data.data_leave_out_fold)
    label_names = TASKS[config.network.net_num_classes].label_names
    train_rows, valid_rows = split_rows(table, folds, fold, label_names)
    if config.general.dev_enabled:
        num_valid = max(1, config.general.dev_num_studies // 4)
        num_train = max(1, config.general.dev_num_studies - num_valid)
        train_rows = limit_studies(table, train_rows, num_train, config.general.seed)
        valid_rows = limit_studies(table, valid_rows, num_valid, config.general.seed)
    size = config.data.data_img_size
    transforms = [
        find_transform(flag, getattr(config.data, flag), size, mean, std)
        for flag in ("data_train_transform", "data_valid_transform", "data_test_transform")
    ]
    transforms[1].require_deterministic()
    seed = config.general.seed
    train = RSNADataset(table, train_rows, transforms[0], seed, label_names)
    valid = RSNADataset(table, valid_rows, transforms[1], seed, label_names)
    return RSNAData(train, valid, training_prior(train.labels), transforms[2])


def draw_subset(dataset: RSNADataset, num_studies: int, seed: int) -> RSNADataset:
    """The slices of some studies of a dataset; see `draw_studies`."""
    studies = dataset.table.frame["study_id"].to_numpy(dtype=object)[dataset.rows].astype(str)
    chosen = draw_studies(studies, dataset.labels, num_studies, seed)
    logger.info(
        "validation between those of the whole: %d slices of %d studies",
        chosen.sum(),
        len(np.unique(studies[chosen])),
    )
    return RSNADataset(
        dataset.table,
        dataset.rows[chosen],
        dataset.transform,
        dataset.seed,
        label_names=dataset.label_names,
    )


def find_transform(
    flag: str, name: str, size: int, mean: Sequence[float], std: Sequence[float]
) -> SampleTransform:
    """The transform called `name` in transforms/, or the file of that path.

    Args:
        flag: the flag that named it, for messages.
        size: side of the image in pixels, 0 for the transform's own.
        mean, std: normalisation where the transform has none.
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
    transform = transform.with_normalization(mean, std)
    transform.require_channels(NUM_CHANNELS)
    return transform


def limit_studies(table: SliceTable, rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """The rows of at most `most` studies, drawn from `seed`."""
    studies = table.frame["study_id"].to_numpy(dtype=object)[rows]
    unique = np.unique(studies.astype(str))
    if len(unique) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(unique, most, replace=False)
    return rows[np.isin(studies.astype(str), chosen)]
