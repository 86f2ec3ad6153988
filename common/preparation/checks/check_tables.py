"""Checks of slices.parquet and studies.parquet: ids, order, Hounsfield units, labels, splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.dicom.hounsfield import MAX_HU
from common.preparation.checks.findings import CORRECT_LABELS, RUN_AGAIN, Finding, finding
from common.preparation.checks.label_audit import CONTRADICTING, AuditFinding
from common.preparation.overlap import find_overlap
from common.preparation.tables import LABELS_OF_STUDY, studies_of_slices
from common.slices.folds import TRAIN_SPLIT, is_pseudo
from common.slices.table import STATUS_OK, STUDIES_FILE
from common.windows import AIR_HU

POSITION_TOLERANCE_MM = 1e-6


def check_ids(slices: pd.DataFrame) -> list[Finding]:
    """Find repeated and missing image ids, and rows whose status and pixels disagree."""
    ids, usable = slices["image_id"], slices["status"].eq(STATUS_OK)
    has_pixels = slices["store_file"].notna() & slices["store_index"].notna()
    repeated = ids[ids.notna() & ids.duplicated()]
    # The name of a file may be that of a patient: these are only counted.
    lacking = [None] * int((usable & ids.isna()).sum())
    without = ids[usable & ~has_pixels] if has_pixels.any() else ids[:0]
    half = slices["store_file"].notna() ^ slices["store_index"].notna()
    rejected = ids[(~usable & has_pixels) | half]
    place = ["store_file", "store_index"]
    shared = ids[has_pixels & slices.duplicated(place)]
    return [
        *finding("repeated_ids", "image ids that several rows have", repeated, RUN_AGAIN),
        *finding("no_id", "usable slices without an image id", lacking, RUN_AGAIN),
        *finding("no_pixels", "slices of status ok without pixels", without, RUN_AGAIN),
        *finding("rejected_pixels", "slices not of status ok with pixels", rejected, RUN_AGAIN),
        *finding(
            "shared_pixels", "slices whose pixels are those of another row", shared, RUN_AGAIN
        ),
    ]


def check_order(slices: pd.DataFrame) -> list[Finding]:
    """Find ranks that are not 0, 1, 2, ..., falling positions and wrong numbers of slices."""
    ranked = slices[slices["rank"].notna()]
    stored = ranked[ranked["store_file"].notna()].sort_values(["store_file", "rank"])
    rank, size = (stored[name].to_numpy(np.int64, na_value=-1) for name in ("rank", "num_slices"))
    sizes = stored.groupby("store_file")["num_slices"]
    is_wrong = stored.duplicated(["store_file", "rank"]).to_numpy(dtype=bool, copy=True)
    is_wrong |= (rank < 0) | (rank >= size)
    is_wrong |= (sizes.transform("min") != sizes.transform("max")).to_numpy(dtype=bool)
    # Undecodable slices count, but name no store file: so all of a size are counted together.
    key = ["series_id", "rows", "columns", "num_slices"]
    together = ranked.groupby(key, dropna=False)["rank"].transform("size")
    incomplete = together % ranked["num_slices"].clip(lower=1) != 0
    wrong = pd.concat([stored["image_id"][is_wrong], ranked["image_id"][incomplete]])
    wrong = wrong[~wrong.index.duplicated()].sort_index()
    same_file = stored["store_file"].eq(stored["store_file"].shift())
    falls = stored["position_mm"].diff() < -POSITION_TOLERANCE_MM
    unplaced = stored["position_mm"].isna().groupby(stored["store_file"]).transform("any")
    falling = stored.loc[same_file & falls & ~unplaced, "image_id"].sort_index()
    return [
        *finding("rank", "slices whose rank or number of slices is wrong", wrong, RUN_AGAIN),
        *finding("position", "slices below the slice before them", falling, RUN_AGAIN),
    ]


def check_range(slices: pd.DataFrame) -> list[Finding]:
    """Find slices whose recorded Hounsfield units can't be."""
    low, high, mean = slices["hu_min"], slices["hu_max"], slices["hu_mean"]
    inside = (low >= AIR_HU) & (high <= MAX_HU) & (low <= mean) & (mean <= high)
    outside = slices.loc[slices["store_file"].notna() & ~inside.fillna(False), "image_id"]
    what = f"slices whose hu_min, hu_mean, hu_max do not ascend from {AIR_HU} to {MAX_HU}"
    return finding("hu_range", what, outside, RUN_AGAIN)


def check_labels(
    slices: pd.DataFrame, studies: pd.DataFrame | None, subtypes: Sequence[str], union: str
) -> list[Finding]:
    """Find labels outside 0 to 1, missing where others are known, or at odds with `union`.

    Args:
        subtypes: labels of which `union` is the largest.
        union: the label that says that there is any of them.
    """
    names = [*subtypes, union]
    ids, values = slices["image_id"], slices[names].to_numpy(np.float64, na_value=np.nan)
    by_model = is_pseudo(slices)
    # Shares of raters, or probabilities by a model.
    allowed = np.isnan(values) | ((values >= 0) & (values <= 1))
    odd = ids[~allowed.all(axis=1)]
    unlike = ids[_disagrees(values, is_strict=True)]
    unknown = np.isnan(values).any(axis=1)
    in_training = (slices["split"].eq(TRAIN_SPLIT) & slices["status"].eq(STATUS_OK)).to_numpy(bool)
    in_training = in_training & ~by_model
    if studies is not None:  # what is known of their study is enough for some networks
        whole = studies.loc[studies["label_source"].eq(LABELS_OF_STUDY), "study_id"]
        unknown &= ~slices["study_id"].isin(whole).to_numpy(dtype=bool)
    lacking = ids[in_training & unknown]
    if not (in_training & ~unknown).any():
        lacking = lacking[:0]
    found = [
        *finding("label_value", "slices with a label outside 0 to 1", odd, RUN_AGAIN),
        *finding(
            "union",
            f"slices whose {union} is not the largest of the others",
            unlike,
            CORRECT_LABELS,
        ),
        *finding(
            "no_label",
            "training slices that lack a label",
            lacking,
            "they are neither trained nor validated on; complete the label file, then run "
            "preprocessing.py again",
        ),
    ]
    if studies is not None:
        # Readers of a whole scan may agree that there is blood, but not on its kind.
        strict = studies["label_source"].ne(LABELS_OF_STUDY).to_numpy(dtype=bool)
        values = studies[names].to_numpy(np.float64, na_value=np.nan)
        wrong = np.where(strict, _disagrees(values, True), _disagrees(values, False))
        what = f"studies whose {union} is not the largest of the others"
        found += finding("study_union", what, _first_images(slices, studies[wrong]), CORRECT_LABELS)
    return found


def check_has_labels(
    slices: pd.DataFrame,
    studies: pd.DataFrame | None,
    label_names: Sequence[str],
    parameters: Mapping[str, Any],
) -> list[Finding]:
    """Find that a dataset made with a label table has no label at all: none matched a file.

    Args:
        parameters: of the manifest.
    """
    in_training = slices["split"].eq(TRAIN_SPLIT) & slices["status"].eq(STATUS_OK)
    expected = slices.loc[in_training | ("labels" in parameters), "image_id"]
    tables = [slices] if studies is None else [slices, studies]
    if any(table[list(label_names)].notna().any(axis=None) for table in tables):
        expected = expected[:0]
    return finding(
        "no_labels",
        "slices that should have labels, of which none has one",
        expected,
        "correct the ids of the label file, then run preprocessing.py again",
    )


def check_copies(slices: pd.DataFrame, audit: Sequence[AuditFinding]) -> list[Finding]:
    """Find labels that contradict those of a copy of the same pixels."""
    return [
        fault
        for found in audit
        if found.kind == CONTRADICTING
        for fault in finding(
            found.kind, found.what, slices["image_id"].iloc[found.rows], CORRECT_LABELS
        )
    ]


def check_studies(
    slices: pd.DataFrame, studies: pd.DataFrame, label_names: Sequence[str]
) -> list[Finding]:
    """Find studies in one table only, or with other labels than their slices."""
    names = list(label_names)
    derived = studies_of_slices(slices, names)
    repeated = studies[studies["study_id"].duplicated()]
    given = studies.drop_duplicates("study_id").set_index("study_id")
    missing = derived.index.difference(given.index)
    unknown = given.index.difference(derived.index)
    both = derived.index.intersection(given.index)
    derived, given = derived.loc[both], given.loc[both]
    of_slices = given["label_source"].ne(LABELS_OF_STUDY).to_numpy(dtype=bool)
    left, right = (t[names].to_numpy(np.float64, na_value=np.nan) for t in (derived, given))
    differs = of_slices & ~((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1)
    of_others = derived["patient_id"].fillna("").ne(given["patient_id"].fillna("")).to_numpy(bool)
    unlike = given[differs | of_others].reset_index()
    at_fault = pd.concat([missing.to_frame(False), unlike[["study_id"]], repeated[["study_id"]]])
    images = _first_images(slices, at_fault) + [None] * len(unknown)
    what = f"studies of {STUDIES_FILE} that disagree with their slices"
    return finding("studies", what, images, RUN_AGAIN)


def check_overlap(slices: pd.DataFrame, copies: pd.Series) -> list[Finding]:
    """Find training slices of patients, studies or images that are in the test too."""
    overlap, concerned = find_overlap(slices, copies)
    kept = slices.loc[concerned & slices["keep_for_training"].to_numpy(dtype=bool), "image_id"]
    advice = "run preprocessing.py again with --pre_drop_overlap 1, which leaves them out"
    return finding("overlap", f"training slices trained on although {overlap.line()}", kept, advice)


def _disagrees(values: np.ndarray, is_strict: bool) -> np.ndarray:
    """Return bool (rows,): the last label is known not to be the largest of the others.

    Where not `is_strict`, it may be 1 although all others are 0.
    """
    others, union = values[:, :-1], values[:, -1]
    positive = (others > 0.5).any(axis=1)
    disagrees = positive & (union < 0.5)
    if is_strict:  # shares of raters for two others may add up to a majority for the union
        disagrees |= (others == 0).all(axis=1) & (union > 0.5)
    return disagrees


def _first_images(slices: pd.DataFrame, studies: pd.DataFrame) -> list[object]:
    """Return an image id of each study: study ids are not to be shown."""
    first = slices.dropna(subset=["study_id", "image_id"]).drop_duplicates("study_id")
    return studies["study_id"].map(first.set_index("study_id")["image_id"]).tolist()
