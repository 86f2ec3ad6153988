"""The submission: one probability per image and label, with ids and order of the sample.

An id is `<image id>_<label>`, such as ID_0123456789_any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.files import replacing
from common.scoring.metrics import Floats
from common.tables import read_csv
from common.words import count

COLUMNS = ("ID", "Label")


@dataclass(frozen=True)
class SubmissionSample:
    """The rows that a submission must have.

    Attributes:
        ids: str (rows,), in the order asked for.
        image_ids: str (images,), in order of appearance.
        images: int (rows,), which of the images each row is about.
        labels: int (rows,), which of the labels.
    """

    ids: NDArray[np.object_]
    image_ids: NDArray[np.object_]
    images: NDArray[np.intp]
    labels: NDArray[np.intp]


def read_sample(path: Path, label_names: Sequence[str]) -> SubmissionSample:
    """Return the rows of a sample submission.

    Raises:
        InputError: the file is no such table, repeats an id, or does not ask for every label of
            every image.
    """
    ids = _read_ids(path)
    parts = ids.str.rsplit("_", n=1, expand=True).reindex(columns=[0, 1])
    labels = pd.Index(label_names).get_indexer(pd.Index(parts[1]))
    if (labels < 0).any():
        row = int(np.argmax(labels < 0))
        raise InputError(
            f"{path}: the id {ids[row]!r} in line {row + 2} must end with _ and a label that the "
            f"experiment predicts, which are: {', '.join(label_names)}; choose an experiment that "
            f"predicts all the labels asked for, or correct the file"
        )
    repeated = ids[ids.duplicated()]
    if len(repeated):
        rows = count(len(repeated), "row")
        raise InputError(f"{path}: {rows} with a repeated id, the first is {repeated.iloc[0]!r}")
    images, image_ids = pd.factorize(parts[0])
    incomplete = np.bincount(images, minlength=len(image_ids)) != len(label_names)
    if incomplete.any():
        raise InputError(
            f"{path}: {count(int(incomplete.sum()), 'image')} without all {len(label_names)} "
            f"labels, the first is {image_ids[int(np.argmax(incomplete))]!r}"
        )
    return SubmissionSample(
        ids.to_numpy(dtype=object), np.asarray(image_ids, dtype=object), images, labels
    )


def build_submission(
    sample: SubmissionSample,
    predictions: pd.DataFrame,
    prior: Floats,
    label_names: Sequence[str],
) -> tuple[pd.DataFrame, list[str]]:
    """Return the submission, and the image ids that have the prior because nothing is predicted.

    Args:
        predictions: a prediction table with one row per image; it may hold others too.
        prior: (k,) probabilities for images that it lacks.
    """
    rows = pd.Index(predictions["image_id"]).get_indexer(pd.Index(sample.image_ids))
    probabilities = predictions[list(label_names)].to_numpy(dtype=np.float64)
    of_images = np.tile(np.asarray(prior, dtype=np.float64), (len(sample.image_ids), 1))
    of_images[rows >= 0] = probabilities[rows[rows >= 0]]
    submission = pd.DataFrame(
        {"ID": sample.ids, "Label": of_images[sample.images, sample.labels]}, columns=list(COLUMNS)
    )
    return submission, [str(name) for name in sample.image_ids[rows < 0]]


def check_submission(submission: pd.DataFrame, sample: SubmissionSample) -> None:
    """Raise ValueError unless every id asked for has one probability, in the order asked for."""
    if tuple(submission.columns) != COLUMNS:
        raise ValueError(f"a submission has the columns {', '.join(COLUMNS)}")
    if not np.array_equal(submission["ID"].to_numpy(dtype=object), sample.ids):
        raise ValueError("the ids of the submission are not those of the sample, in its order")
    values = submission["Label"].to_numpy(dtype=np.float64)
    num_bad = int(np.sum(~((values >= 0) & (values <= 1))))
    if num_bad:
        raise ValueError(f"{num_bad} values of the submission are not in [0, 1]")


def write_submission(path: Path, submission: pd.DataFrame, sample: SubmissionSample) -> None:
    """Check a submission and write it as csv, in one step."""
    check_submission(submission, sample)
    with replacing(path) as temporary:
        submission.to_csv(temporary, index=False)


def _read_ids(path: Path) -> pd.Series:
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of a sample submission")
    frame = read_csv(path, dtype={"ID": "str"}, keep_default_na=False)
    if "ID" not in frame:
        raise InputError(f"{path}: a sample submission has the columns {', '.join(COLUMNS)}")
    if frame.empty:
        raise InputError(f"{path}: there is no id in it")
    return frame["ID"]
