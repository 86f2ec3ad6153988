"""Checks of folds.csv and of given splits against the slices of a dataset."""

from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.preparation.checks.findings import RUN_AGAIN, Finding, finding
from common.slices.copies import leaking_copies
from common.slices.folds import (
    ALWAYS_TRAINING,
    FOLDS_FILE,
    TRAIN_SPLIT,
    fold_numbers,
    is_in,
    is_pseudo,
    owners,
    read_folds,
)


def check_folds(
    slices: pd.DataFrame, dataset_folder: Path, parameters: dict[str, Any], groups: pd.Series
) -> tuple[list[Finding], int]:
    """Return what is wrong with the folds and with given splits, and the number of folds.

    Args:
        groups: of `identical_pixels`, by row of the slices.
    """
    path = dataset_folder / FOLDS_FILE
    by_model = is_pseudo(slices)
    in_training = slices["split"].eq(TRAIN_SPLIT) | by_model
    with_ids = slices.assign(patient_id=owners(slices), group=groups)[in_training]
    with_ids = with_ids.dropna(subset=["image_id", "patient_id"])
    found: list[Finding] = []
    num_folds = 0
    if path.is_file():
        try:
            folds = read_folds(path)
        except InputError as error:
            found += [Finding("folds_unreadable", str(error), 1, (), RUN_AGAIN)]
        else:
            num_folds = len(set(folds.get("fold", [])) - {ALWAYS_TRAINING})
            found += _compare(folds, with_ids, parameters)
            found += _check_pixels(folds, with_ids, path.name)
            found += _check_pseudo(folds, slices.loc[by_model, "image_id"])
    elif len(with_ids) and parameters.get("num_folds") is not None:
        found += [Finding("no_folds", f"{FOLDS_FILE} missing", 1, (), RUN_AGAIN)]
    for given in sorted(dataset_folder.glob(f"dataset_{dataset_folder.name}_fold_*.csv")):
        found += _check_given(given, with_ids)
    return found, num_folds


def _check_pixels(folds: pd.DataFrame, slices: pd.DataFrame, name: str) -> list[Finding]:
    """Find slices trained on whose pixels another fold validates, under other ids."""
    leaks = leaking_copies(
        slices["group"],
        slices["image_id"].map(fold_numbers(folds)),
        slices["keep_for_training"].to_numpy(dtype=bool),
    )
    what = f"training slices with the pixels of slices that {name} validates, under other ids"
    advice = "run preprocessing.py again with --pre_drop_overlap 1, which leaves them out"
    return finding("fold_pixels", what, slices.loc[leaks, "image_id"], advice)


def _compare(
    folds: pd.DataFrame, slices: pd.DataFrame, parameters: dict[str, Any]
) -> list[Finding]:
    """Compare folds.csv with the training slices that have ids."""
    if "fold" not in folds:
        what = f"{FOLDS_FILE} without folds: a given split has another name"
        return [Finding("folds_unreadable", what, 1, (), RUN_AGAIN)]
    known = is_in(folds["image_id"], slices["image_id"])
    absent = slices.loc[~is_in(slices["image_id"], folds["image_id"]), "image_id"]
    together = folds.merge(slices[["image_id", "patient_id"]], on="image_id", suffixes=("", "_of"))
    others = together.loc[together["patient_id"] != together["patient_id_of"], "image_id"]
    spread = _of_spread_patients(together.assign(side=together["fold"]))
    numbers = sorted(set(folds["fold"]) - {ALWAYS_TRAINING})
    expected = _expected_folds(parameters, len(numbers))
    unlike = set(numbers) ^ set(range(expected))
    return [
        *finding(
            "fold_unknown",
            f"image ids of {FOLDS_FILE} that no training slice has",
            folds.loc[~known, "image_id"],
            RUN_AGAIN,
        ),
        *finding("fold_missing", "training slices without a fold", absent, RUN_AGAIN),
        *finding("fold_patient", f"slices with another patient in {FOLDS_FILE}", others, RUN_AGAIN),
        *finding("fold_spread", "slices of patients in several folds", spread, RUN_AGAIN),
        *finding(
            "fold_numbers",
            f"folds that are missing from {FOLDS_FILE}, or too many",
            [f"fold {fold}" for fold in sorted(unlike)],
            RUN_AGAIN,
        ),
    ]


def _check_pseudo(folds: pd.DataFrame, image_ids: pd.Series) -> list[Finding]:
    """Find slices with labels by a model that are in a fold to validate on."""
    if "fold" not in folds:
        return []
    validated = folds.loc[folds["fold"] != ALWAYS_TRAINING, "image_id"]
    at_fault = image_ids[is_in(image_ids, validated)]
    what = "slices with labels by a model in a fold that is validated on"
    return finding("fold_pseudo", what, at_fault, RUN_AGAIN)


def _expected_folds(parameters: dict[str, Any], num_found: int) -> int:
    """Return how many folds the manifest's parameters ask for."""
    if parameters.get("fold_by", "patient") != "patient":
        return num_found
    if parameters.get("valid_fraction"):
        return 1
    return int(parameters.get("num_folds") or num_found)


def _check_given(path: Path, slices: pd.DataFrame) -> list[Finding]:
    """Check a given `dataset_<x>_fold_<y>.csv`, which need not name all slices."""
    advice = f"correct {path.name}, or remove it to split by {FOLDS_FILE}"
    try:
        given = read_folds(path)
    except InputError as error:
        return [Finding("given_unreadable", str(error), 1, (), advice)]
    side = given.columns[-1]
    known = is_in(given["image_id"], slices["image_id"])
    together = given[["image_id", side]].merge(slices[["image_id", "patient_id"]], on="image_id")
    spread = _of_spread_patients(together.assign(side=together[side]))
    what = f"image ids of {path.name} that no training slice has"
    return [
        *_check_pixels(given, slices, path.name),
        *finding("given_unknown", what, given.loc[~known, "image_id"], advice),
        *finding(
            "given_spread", f"slices of patients on both sides of {path.name}", spread, advice
        ),
    ]


def _of_spread_patients(rows: pd.DataFrame) -> pd.Series:
    """Return the image ids of patients with more than one `side`."""
    return rows.loc[rows.groupby("patient_id")["side"].transform("nunique") > 1, "image_id"]
