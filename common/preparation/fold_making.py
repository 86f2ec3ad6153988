"""Make patient folds: balanced for several labels, as one split, or by source."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError
from common.slices.folds import ALWAYS_TRAINING, FOLD_COLUMNS, TRAIN_SPLIT, owners
from common.words import count

logger = logging.getLogger(__name__)

NO_FOLDS = pd.DataFrame({name: [] for name in FOLD_COLUMNS}).astype(
    {"image_id": "str", "patient_id": "str", "fold": "int64"}
)


def make_folds(
    frame: pd.DataFrame, label_names: Sequence[str], num_folds: int, seed: int
) -> pd.DataFrame:
    """Return image_id, patient_id and fold (0 to num_folds - 1) of the training slices.

    Every patient is whole in one fold. Patients are spread by iterative stratification (Sechidis
    et al., 2011) over what they have: each label, much of each label, many slices.
    The result depends on the rows, not on their order.

    Args:
        frame: slices with image_id, patient_id, split and the labels (NaN counts as absent).
            Rows of other splits, and files without image id, get no fold. Where no patient is
            known, the study is taken for one.

    Raises:
        InputError: fewer patients than folds.
    """
    rows = _training_rows(frame)
    if rows.empty:
        return NO_FOLDS.copy()
    strata = _patient_strata(rows, label_names)
    if len(strata) < num_folds or num_folds < 2:
        most = len(strata)
        allowed = f"--pre_num_folds takes 2 to {most} here" if most > 1 else "label 2 or more"
        raise InputError(
            f"{count(most, 'patient')} can't be split into {count(num_folds, 'fold')} ({allowed})"
        )
    # Imported here: scikit-learn makes a semaphore when it is imported.
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    splitter = MultilabelStratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    return _folds_table(rows, _stratify(strata, splitter))


def make_split(
    frame: pd.DataFrame, label_names: Sequence[str], valid_fraction: float, seed: int
) -> pd.DataFrame:
    """Return image_id, patient_id and fold of one split: 0 for validation, else -1.

    Like `make_folds`, but about `valid_fraction` of the patients are validated on and all others
    are trained on; there is no other fold.

    Raises:
        InputError: too few patients for two sides.
    """
    rows = _training_rows(frame)
    if rows.empty:
        return NO_FOLDS.copy()
    strata = _patient_strata(rows, label_names)
    num_valid = round(valid_fraction * len(strata))
    if not 1 <= num_valid < len(strata):
        raise InputError(
            f"--pre_valid_fraction {valid_fraction}: of {count(len(strata), 'patient')} none is "
            f"left on one of the sides"
        )
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=num_valid, train_size=len(strata) - num_valid, random_state=seed
    )
    return _folds_table(rows, _stratify(strata, splitter))


def make_source_folds(
    frame: pd.DataFrame, given: pd.Series | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Return image_id, patient_id and fold of a split by source, and the sources by fold.

    Validating on fold k is external validation: on a source (`sources_of`) that nothing was
    trained on. A patient of several sources is whole in the one with most of its slices.

    Raises:
        InputError: no sources.
    """
    rows = _training_rows(frame)
    if rows.empty:
        return NO_FOLDS.copy(), []
    names = sources_of(frame, given)[rows.index]
    counts = rows.groupby(["patient_id", names]).size().rename("count").reset_index()
    counts = counts.sort_values(["count", "source"], ascending=[False, True], kind="stable")
    most = counts.drop_duplicates("patient_id").set_index("patient_id")["source"]
    sources = sorted(most.unique())
    num_several = len(counts) - len(most)
    if num_several:
        logger.warning(
            "%s where a patient lies in a further source: it is whole with the one that has "
            "most of its slices",
            count(num_several, "case"),
        )
    fold_of = most.map({name: fold for fold, name in enumerate(sources)})
    return _folds_table(rows, fold_of), sources


def sources_of(frame: pd.DataFrame, given: pd.Series | None = None) -> pd.Series:
    """Return the source (hospital, scanner) of each training slice, by row, as `source`.

    It is what the label table gives; else the first folder, or zip archive, in the path of a file,
    as a tree with one folder per hospital has them; else the hospital in the headers.

    Args:
        frame: with source_file, split, image_id, patient_id, study_id, institution_hash.
        given: the source by image_id in a label table; may be empty.

    Raises:
        InputError: none of these has two sources, or the label table leaves some out.
    """
    rows = _training_rows(frame)
    if given is not None and len(given):
        names = rows["image_id"].map(given).rename("source")
        if names.isna().any():
            raise InputError(
                f"--pre_fold_by source: {count(int(names.isna().sum()), 'training slice')} "
                f"without a source in the label table: fill in the column"
            )
        if names.nunique() < 2:
            raise InputError("--pre_fold_by source: the label table names one source alone")
        return names
    folders = rows["source_file"].str.extract(r"^([^/]*?)!?/", expand=False).fillna(".")
    hospitals = rows["institution_hash"].fillna("unknown")
    for names in (folders, hospitals):
        num_sources = names.groupby(rows["patient_id"]).first().nunique()
        if num_sources >= 2 and names.nunique() < rows["patient_id"].nunique():
            return names.rename("source")
    raise InputError(
        "--pre_fold_by source: the training files are of one source, or of as many as patients: "
        "--pre_folder must hold one folder per hospital or scanner, or the label table a column "
        "source, or the files two values of InstitutionName. To validate on another dataset: "
        "evaluate.py --data_dataset <name>"
    )


def fold_report(
    folds: pd.DataFrame, frame: pd.DataFrame, label_names: Sequence[str]
) -> tuple[pd.DataFrame, float]:
    """Return the prevalence of each label per fold, and the largest relative deviation.

    The table has one row per fold (`training`: what is in none) and a last row `all`, with the
    number of patients and of slices. The deviation is the largest |prevalence in a fold /
    prevalence in all - 1| (0 where nothing is labelled).
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
    report.index = report.index.astype("str").where(report.index != ALWAYS_TRAINING, "training")
    report.loc["all"] = {
        "num_patients": labelled["patient_id"].nunique(),
        "num_slices": len(labelled),
        **overall,
    }
    return report.astype({"num_patients": "int64", "num_slices": "int64"}), deviation


def _training_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that get a fold; patient_id is whom `owners` names."""
    frame = frame.assign(patient_id=owners(frame))
    has_ids = frame["image_id"].notna() & frame["patient_id"].notna()
    return frame[frame["split"].eq(TRAIN_SPLIT) & has_ids]


def _folds_table(rows: pd.DataFrame, fold_of: pd.Series) -> pd.DataFrame:
    """Return the table of folds.csv from the fold of each patient id."""
    folds = rows[["image_id", "patient_id"]].copy()
    folds["fold"] = folds["patient_id"].map(fold_of).astype("int64")
    return folds.sort_values(["fold", "patient_id", "image_id"], ignore_index=True)


def _patient_strata(rows: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Return a table of 0/1 per patient, sorted by patient id.

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


def _stratify(strata: pd.DataFrame, splitter: Any) -> pd.Series:
    """Return by patient id which part of the splitter validates it, else `ALWAYS_TRAINING`."""
    fold_of = pd.Series(ALWAYS_TRAINING, index=strata.index, dtype="int64")
    with warnings.catch_warnings():
        # It warns where a label has fewer patients than there are folds; the report shows that.
        warnings.simplefilter("ignore")
        parts = splitter.split(np.zeros((len(strata), 1)), strata.to_numpy())
        for fold, (_, members) in enumerate(parts):
            fold_of.iloc[members] = fold
    return fold_of
