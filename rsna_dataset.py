"""The task's slices: rows of training and validation, and their images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets.classification import ImageClassificationDataset
from common.errors import InputError
from common.slices.folds import (
    draw_studies,
)
from common.slices.table import PastEnd, SliceTable
from common.transforms import SampleTransform, load_transform
from common.words import count
from rsna_task import LABELS

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
        past_end: PastEnd = "last",
    ) -> None:
        super().__init__(
            table,
            rows,
            transform,
            label_names,
            slice_offsets,
            seed,
            offsets_mm=offsets_mm,
            past_end=past_end,
        )


@dataclass(frozen=True)
class RSNAData:
    """The data of a training.

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
        """Log how many slices and studies each side has, and the samples that lack something."""
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            studies = dataset.table.frame["study_id"].iloc[dataset.rows].nunique()
            logger.info("%s: %s of %s", side, count(len(dataset), "slice"), count(studies, "study"))
            dataset.warn_of_fallbacks(side)


def draw_subset(dataset: RSNADataset, num_studies: int, seed: int) -> RSNADataset:
    """Return the slices of some studies of a dataset; see `draw_studies`."""
    studies = dataset.table.frame["study_id"].to_numpy(dtype=object)[dataset.rows].astype(str)
    chosen = draw_studies(studies, dataset.labels, num_studies, seed)
    logger.info(
        "validation between those of the whole: %s of %s",
        count(chosen.sum(), "slice"),
        count(len(np.unique(studies[chosen])), "study"),
    )
    return dataset.with_rows(dataset.rows[chosen])


def find_transform(
    flag: str,
    name: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    num_windows: int | None = None,
    num_slices: int = 1,
) -> SampleTransform:
    """Return the transform called `name` in transforms/, or the file of that path.

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
    """Return the rows of at most `most` studies, drawn from `seed`."""
    studies = table.frame["study_id"].to_numpy(dtype=object)[rows]
    unique = np.unique(studies.astype(str))
    if len(unique) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(unique, most, replace=False)
    return rows[np.isin(studies.astype(str), chosen)]
