"""Patient folds: whole patients, balanced for several labels, one table for every level."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import read_csv
from common.slices import SliceTable

logger = logging.getLogger(__name__)

FOLDS_FILE = "folds.csv"
FOLD_COLUMNS = ("image_id", "patient_id", "fold")
TRAIN_SPLIT = "train"


def make_folds(
    frame: pd.DataFrame, label_names: Sequence[str], num_folds: int, seed: int
) -> pd.DataFrame:
    """Returns image_id, patient_id and fold (0 to num_folds - 1) of the training slices.

    Every patient is whole in one fold. Patients are spread by iterative stratification (Sechidis
    et al., 2011) over what they have: each label, much of each label, many slices.
    The result depends on the rows, not on their order.

    Args:
        frame: slices with image_id, patient_id, split and the labels (NaN counts as absent).
            Rows of other splits, and files without image or patient id, get no fold.

    Raises:
        InputError: fewer patients than folds.
    """
    has_ids = frame["image_id"].notna() & frame["patient_id"].notna()
    rows = frame[frame["split"].eq(TRAIN_SPLIT) & has_ids]
    if rows.empty:
        return pd.DataFrame({"image_id": [], "patient_id": [], "fold": []}).astype(
            {"image_id": "str", "patient_id": "str", "fold": "int64"}
        )
    strata = _patient_strata(rows, label_names)
    if len(strata) < num_folds or num_folds < 2:
        raise InputError(
            f"{len(strata)} patients can't be split into {num_folds} folds "
            f"(--pre_num_folds takes 2 to {len(strata)} here)"
        )
    fold_of = _stratify(strata, num_folds, seed)
    folds = rows[["image_id", "patient_id"]].copy()
    folds["fold"] = folds["patient_id"].map(fold_of).astype("int64")
    return folds.sort_values(["fold", "patient_id", "image_id"], ignore_index=True)


def fold_report(
    folds: pd.DataFrame, frame: pd.DataFrame, label_names: Sequence[str]
) -> tuple[pd.DataFrame, float]:
    """Returns the prevalence of each label per fold, and the largest relative deviation.

    The table has one row per fold and a last row `all`, with the number of patients and of
    slices. The deviation is the largest |prevalence in a fold / prevalence in all - 1| (0 where
    nothing is labelled).
    """
    labelled = folds.merge(frame[["image_id", *label_names]], on="image_id", how="left")
    labelled = labelled.astype({name: "float64" for name in label_names})
    by_fold = labelled.groupby("fold")
    report = by_fold.agg(
        num_patients=("patient_id", "nunique"), num_slices=("image_id", "size")
    ).join(by_fold[list(label_names)].mean())
    overall = labelled[list(label_names)].mean()
    present = overall[overall > 0].index
    ratios = report[present] / overall[present] - 1
    deviation = float(ratios.abs().max().max()) if len(present) and len(ratios) else 0.0
    report.index = report.index.astype("str")
    report.loc["all"] = {
        "num_patients": labelled["patient_id"].nunique(),
        "num_slices": len(labelled),
        **overall,
    }
    return report.astype({"num_patients": "int64", "num_slices": "int64"}), deviation


def folds_path(dataset_folder: Path, fold: int) -> Path:
    """Returns the file that splits a dataset: a given `dataset_<x>_fold_<y>.csv`, else folds.csv.

    `<x>` is the name of the dataset folder.
    """
    given = dataset_folder / f"dataset_{dataset_folder.name}_fold_{fold}.csv"
    if given.is_file():
        logger.info("the split is the given %s, not %s", given.name, FOLDS_FILE)
        return given
    return dataset_folder / FOLDS_FILE


def read_folds(path: Path) -> pd.DataFrame:
    """Returns the content of `folds.csv`, or of a given `dataset_<x>_fold_<y>.csv`.

    The first has the columns image_id, patient_id, fold; the second becomes image_id and
    sample_type (`train` or `valid`), whatever its id column is called (image_id, id or ID).

    Raises:
        InputError: no such file, missing columns, other sample types, repeated ids.
    """
    if not path.is_file():
        raise InputError(f"no folds at {path}: run preprocessing.py first")
    folds = read_csv(path, dtype="str", keep_default_na=False)
    id_column = next((name for name in ("image_id", "id", "ID") if name in folds), None)
    if id_column and "sample_type" in folds:
        folds = folds.rename(columns={id_column: "image_id"})[["image_id", "sample_type"]]
        others = sorted(set(folds["sample_type"]) - {"train", "valid"})
        if others:
            raise InputError(f"{path}: sample_type is train or valid, not {others[0]!r}")
    elif id_column == "image_id" and {"patient_id", "fold"} <= set(folds):
        if not folds["fold"].str.fullmatch(r"\d+").all():
            raise InputError(f"{path}: a fold is a number from 0 on; one row has another value")
        folds = folds[list(FOLD_COLUMNS)].astype({"fold": "int64"})
    else:
        raise InputError(
            f"{path} needs the columns image_id, patient_id and fold, or an image id and "
            f"sample_type; it has {', '.join(map(str, folds.columns))}"
        )
    if folds["image_id"].duplicated().any():
        raise InputError(f"{path} repeats {int(folds['image_id'].duplicated().sum())} image ids")
    return folds


def split_rows(
    table: SliceTable, folds: pd.DataFrame, fold: int, label_names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training rows and the validation rows of a fold, int64 and ascending.

    Both are readable, of the split `train`, and their labels are known; training rows must be
    marked `keep_for_training` as well.

    Args:
        folds: what `read_folds` returned.
        label_names: labels that must be known.

    Raises:
        InputError: no such fold, an empty side, or patients on both sides.
    """
    frame = table.frame
    side = _sides(folds, fold).reindex(frame["image_id"]).to_numpy()
    usable = table.readable & frame["split"].eq(TRAIN_SPLIT).to_numpy(dtype=bool)
    is_unlabelled = np.isnan(table.labels(np.arange(len(table)), label_names)).any(axis=1)
    num_unlabelled = int((usable & is_unlabelled).sum())
    if num_unlabelled:
        logger.warning("%d slices are left out: a label is unknown", num_unlabelled)
    usable &= ~is_unlabelled
    is_train = usable & (side == "train") & frame["keep_for_training"].to_numpy(dtype=bool)
    is_valid = usable & (side == "valid")
    patients = frame["patient_id"]
    num_shared = len(
        set(patients[side == "train"].dropna()) & set(patients[side == "valid"].dropna())
    )
    if num_shared:
        raise InputError(
            f"{num_shared} patients are on both sides of fold {fold}: make the folds again "
            f"by patient (preprocessing.py), or correct the given file"
        )
    for name, rows in (("training", is_train), ("validation", is_valid)):
        if not rows.any():
            raise InputError(f"fold {fold} of {table.folder} has no {name} slices with labels")
    return np.flatnonzero(is_train), np.flatnonzero(is_valid)


def _sides(folds: pd.DataFrame, fold: int) -> pd.Series:
    """Returns `train` or `valid` by image id."""
    if "sample_type" in folds:
        return folds.set_index("image_id")["sample_type"]
    known = sorted(folds["fold"].unique())
    if fold not in known:
        raise InputError(
            f"--data_fold {fold}: the dataset has the folds {', '.join(map(str, known))}"
        )
    return pd.Series(
        np.where(folds["fold"] == fold, "valid", "train"), index=folds["image_id"], dtype="str"
    )


def _patient_strata(rows: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Returns a table of 0/1 per patient, sorted by patient id.

    Columns per label: has it; has more positive slices of it than half of those that have it.
    A last one: has more slices than half of the patients. The second kind balances slices, where
    counting patients alone leaves folds with few positive slices.
    """
    labels = rows[list(label_names)].astype("float64").fillna(0.0)
    counts = labels.groupby(rows["patient_id"]).sum().sort_index()
    strata = pd.DataFrame(index=counts.index)
    for name in label_names:
        positive = counts[name] > 0
        strata[name] = positive
        strata[f"much {name}"] = positive & (counts[name] > counts.loc[positive, name].median())
    num_slices = rows.groupby("patient_id").size().sort_index()
    strata["many slices"] = num_slices > num_slices.median()
    return strata.astype("int64")


def _stratify(strata: pd.DataFrame, num_folds: int, seed: int) -> pd.Series:
    """Returns the fold of each patient id."""
    # Imported here: scikit-learn makes a semaphore when it is imported.
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    splitter = MultilabelStratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    fold_of = pd.Series(-1, index=strata.index, dtype="int64")
    with warnings.catch_warnings():
        # It warns where a label has fewer patients than there are folds; the report shows that.
        warnings.simplefilter("ignore")
        parts = splitter.split(np.zeros((len(strata), 1)), strata.to_numpy())
        for fold, (_, members) in enumerate(parts):
            fold_of.iloc[members] = fold
    return fold_of
