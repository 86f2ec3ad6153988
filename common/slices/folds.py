"""Patient folds: whole patients, balanced for several labels, one table for every level."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.slices.leakage import require_disjoint_patients
from common.slices.table import SliceTable
from common.tables import read_csv
from common.words import count

logger = logging.getLogger(__name__)

FOLDS_FILE = "folds.csv"
FOLD_COLUMNS = ("image_id", "patient_id", "fold")
ALWAYS_TRAINING = -1
"""In the column fold: in the training rows of every fold (--pre_valid_fraction)."""
TRAIN_SPLIT, TEST_SPLIT = "train", "test"
PSEUDO = "pseudo:"
"""Start of label_source where a model made the labels (`ensembling.pseudo_labels`)."""
_IF_STUDIES = "; if its studies have some, give --net_model bag-<slice network>"


def owners(frame: pd.DataFrame) -> pd.Series:
    """Return whom a slice belongs to, by row: its patient, or its study where no patient is known.

    No owner is on both sides of a split.
    """
    patients = frame["patient_id"].astype("str")
    return patients.mask(patients.isna() | patients.eq(""), frame["study_id"].astype("str"))


def sampled(frame: pd.DataFrame) -> pd.Series:
    """Return what the rows are a sample of: `owners`, or the series or the slice, where unknown."""
    return owners(frame).fillna(frame["series_id"]).fillna(frame["image_id"])


def folds_path(dataset_folder: Path, fold: int) -> Path:
    """Return the file that splits a dataset: a given `dataset_<x>_fold_<y>.csv`, else folds.csv.

    `<x>` is the name of the dataset folder.
    """
    given = dataset_folder / f"dataset_{dataset_folder.name}_fold_{fold}.csv"
    if given.is_file():
        logger.info("the split is the given %s, not %s", given.name, FOLDS_FILE)
        return given
    return dataset_folder / FOLDS_FILE


def read_folds(path: Path) -> pd.DataFrame:
    """Return the content of `folds.csv`, or of a given `dataset_<x>_fold_<y>.csv`.

    The first has the columns image_id, patient_id, fold; the second becomes image_id and
    sample_type (`train` or `valid`), whatever its id column is called (image_id, id or ID).

    Raises:
        InputError: no such file, missing columns, other sample types, repeated ids.
    """
    if not path.is_file():
        raise InputError(
            f"no folds at {path}: run preprocessing.py first; folds are of labelled slices, so a "
            f"dataset without labels has none (--pre_labels gives them)"
        )
    folds = read_csv(path, dtype="str", keep_default_na=False)
    id_column = next((name for name in ("image_id", "id", "ID") if name in folds), None)
    if id_column and "sample_type" in folds:
        folds = folds.rename(columns={id_column: "image_id"})[["image_id", "sample_type"]]
        others = sorted(set(folds["sample_type"]) - {"train", "valid"})
        if others:
            raise InputError(f"{path}: sample_type is train or valid, not {others[0]!r}")
    elif id_column == "image_id" and {"patient_id", "fold"} <= set(folds):
        if not folds["fold"].str.fullmatch(rf"\d+|{ALWAYS_TRAINING}").all():
            raise InputError(
                f"{path}: a fold is a number from 0 on, or {ALWAYS_TRAINING} for what is always "
                f"trained on; one row has another value"
            )
        folds = folds[list(FOLD_COLUMNS)].astype({"fold": "int64"})
    else:
        raise InputError(
            f"{path} needs the columns image_id, patient_id and fold, or an image id and "
            f"sample_type; it has {', '.join(map(str, folds.columns))}"
        )
    if folds["image_id"].duplicated().any():
        raise InputError(
            f"{path} repeats {count(int(folds['image_id'].duplicated().sum()), 'image id')}"
        )
    return folds


def split_rows(
    table: SliceTable,
    folds: pd.DataFrame,
    fold: int,
    label_names: Sequence[str] = (),
    of_studies: NDArray[np.bool_] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training rows and the validation rows of a fold, int64 and ascending.

    Both are readable, of the split `train`, and their labels are known; training rows must be
    marked `keep_for_training` as well. Rows with labels by a model are trained on, whatever their
    split, where any label is known, and never validated on.

    Args:
        folds: what `read_folds` returned.
        label_names: labels that must be known.
        of_studies: (rows,) those that count although their own labels are unknown, because that of
            their study is known; None: none.

    Raises:
        InputError: no such fold, an empty side, or patients on both sides.
    """
    frame = table.frame
    is_valid_id = is_validated(folds, fold)
    train_side, valid_side = (
        is_in(frame["image_id"], folds.loc[chosen, "image_id"])
        for chosen in (~is_valid_id, is_valid_id)
    )
    by_model = is_pseudo(frame)
    usable = table.readable & (frame["split"].eq(TRAIN_SPLIT).to_numpy(dtype=bool) | by_model)
    is_unknown = np.isnan(table.labels(np.arange(len(table)), label_names))
    is_unlabelled = is_unknown.any(axis=1)
    if by_model.any():
        is_unlabelled &= ~by_model | is_unknown.all(axis=1)
    if of_studies is not None:
        is_unlabelled &= ~of_studies
    num_unlabelled = int((usable & is_unlabelled).sum())
    if num_unlabelled:
        logger.warning("%s left out: a label is unknown", count(num_unlabelled, "slice"))
    usable &= ~is_unlabelled
    is_train = usable & train_side & frame["keep_for_training"].to_numpy(dtype=bool)
    is_valid = usable & valid_side & ~by_model
    num_in_neither = int((usable & ~train_side & ~valid_side).sum())
    if num_in_neither:
        logger.warning("%s left out: in no fold", count(num_in_neither, "labelled slice"))
    patients = owners(frame)
    require_disjoint_patients(patients[train_side], patients[valid_side], f"fold {fold}")
    never = [name for name, column in zip(label_names, is_unknown.T) if column.all()]
    hint = "" if of_studies is not None else _IF_STUDIES
    if of_studies is None and never and label_names[-1] not in never:
        union = label_names[-1]
        hint = f": none knows {', '.join(never)}; --net_num_classes 1 trains {union} alone"
    for name, rows in (("training", is_train), ("validation", is_valid)):
        if not rows.any():
            raise InputError(
                f"fold {fold} of {table.folder} has no {name} slices with labels{hint}"
            )
    return np.flatnonzero(is_train), np.flatnonzero(is_valid)


def without_fold(folds: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return the fold table without the rows of a fold, which are then on neither side.

    Raises:
        InputError: no such fold, or a given split, which has none.
    """
    if "fold" not in folds or fold == ALWAYS_TRAINING or not folds["fold"].eq(fold).any():
        raise InputError(f"--data_leave_out_fold {fold}: the dataset has no such fold")
    return folds[folds["fold"] != fold]


def is_validated(folds: pd.DataFrame, fold: int) -> pd.Series:
    """Return bool by row of `folds`: validated on in this fold, not trained on.

    Raises:
        InputError: no such fold.
    """
    if "sample_type" in folds:
        return folds["sample_type"] == "valid"
    known = sorted(set(folds["fold"]) - {ALWAYS_TRAINING})
    if fold not in known:
        raise InputError(
            f"--data_fold {fold}: the dataset has the folds {', '.join(map(str, known)) or 'none'}"
        )
    return folds["fold"] == fold


def fold_numbers(folds: pd.DataFrame) -> pd.Series:
    """Return the fold of each row by image_id; in a given split 0 is validated, -1 is not."""
    if "fold" in folds:
        return folds.set_index("image_id")["fold"]
    sides = folds.set_index("image_id")["sample_type"]
    return sides.map({"valid": 0, "train": ALWAYS_TRAINING})


def is_pseudo(frame: pd.DataFrame) -> np.ndarray:
    """Return bool (rows,): the slices of a table whose labels a model made."""
    sources = frame["label_source"]
    kinds = [kind for kind in sources.dropna().unique() if str(kind).startswith(PSEUDO)]
    return sources.isin(kinds).to_numpy(dtype=bool)


def is_in(values: pd.Series, wanted: pd.Series) -> np.ndarray:
    """Return bool (values,): which strings are among the `wanted`; a missing one never is.

    The same as `Series.isin`, which takes 4 s for 750,000 strings where this takes 0.1 s.
    """
    found = pyarrow.compute.is_in(
        pyarrow.array(values.astype("str"), type=pyarrow.large_string()),
        value_set=pyarrow.array(wanted.dropna().astype("str"), type=pyarrow.large_string()),
    )
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def draw_studies(
    study_ids: ArrayLike, labels: ArrayLike, num_studies: int, seed: int
) -> NDArray[np.bool_]:
    """Return which rows belong to the subset: whole studies, drawn from the seed.

    First each label gets a positive study, the rarest label first, if any study has one; then
    studies with and without a positive are drawn in their shares of the whole. The result depends
    on the rows, not on their order.

    Args:
        study_ids: (n,).
        labels: (n, k) in [0, 1], positive above 0.5; NaN where unknown, which counts as absent.
        num_studies: size of the subset; all rows are in it where there are no more studies.
        seed: of the draw.
    """
    names: NDArray[np.str_] = np.asarray(study_ids).astype(str)
    studies, codes = np.unique(names, return_inverse=True)
    if len(studies) <= num_studies:
        return np.ones(len(names), dtype=bool)
    y = np.nan_to_num(np.asarray(labels, dtype=np.float64), nan=0.0)
    positive = np.zeros((len(studies), y.shape[1]), dtype=bool)
    np.logical_or.at(positive, codes, y > 0.5)
    order = np.random.default_rng(seed).permutation(len(studies))
    chosen: list[int] = []
    counts = positive.sum(axis=0)
    for column in np.argsort(counts, kind="stable"):
        if len(chosen) < num_studies and counts[column] and not positive[chosen, column].any():
            chosen.append(next(int(study) for study in order if positive[study, column]))
    has_any = [bool(row.any()) for row in positive]
    wanted = round(num_studies * float(np.mean(has_any)))
    for side, size in ((True, wanted), (False, num_studies - wanted)):
        left = [int(s) for s in order if has_any[s] == side and int(s) not in chosen]
        missing = size - sum(has_any[s] == side for s in chosen)
        chosen += left[: max(0, min(missing, num_studies - len(chosen)))]
    left = [int(study) for study in order if int(study) not in chosen]
    chosen += left[: num_studies - len(chosen)]
    return np.isin(codes, chosen)
