"""Overlap of training and test slices: patients, studies, images, identical pixels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.preparation.identity import DUPLICATE, same_image_files
from common.slices.folds import TEST_SPLIT, TRAIN_SPLIT
from common.slices.table import STATUS_OK
from common.words import count


@dataclass(frozen=True)
class Overlap:
    """Overlap of the splits `train` and `test`, in numbers; all 0 where they share nothing.

    Attributes:
        num_patients: patient ids with slices in both.
        num_studies: study ids with slices in both.
        num_images: image ids of which both have a file.
        num_identical: training slices whose pixels a test slice has too.
        num_training: training slices of all patients concerned.
        num_kept: those of them that are trained on.
    """

    num_patients: int = 0
    num_studies: int = 0
    num_images: int = 0
    num_identical: int = 0
    num_training: int = 0
    num_kept: int = 0

    def line(self) -> str:
        return (
            f"training and test share {count(self.num_patients, 'patient')}, "
            f"{count(self.num_studies, 'study')}, {count(self.num_images, 'image id')} and "
            f"{count(self.num_identical, 'slice')} with identical pixels, "
            f"which concerns {count(self.num_training, 'training slice')}"
        )


def find_overlap(slices: pd.DataFrame, copies: pd.Series) -> tuple[Overlap, np.ndarray]:
    """Return the overlap, and the training slices concerned, as bool (rows,).

    These are the ones with a patient id, study id, image id or pixels of a test slice, and all
    others of the same patients.

    Args:
        slices: the slice table, numbered from 0.
        copies: of `identical_pixels`, by row.
    """
    usable = slices["status"].eq(STATUS_OK).to_numpy(dtype=bool)
    in_train = usable & slices["split"].eq(TRAIN_SPLIT).to_numpy(dtype=bool)
    in_test = usable & slices["split"].eq(TEST_SPLIT).to_numpy(dtype=bool)
    if not in_train.any() or not in_test.any():
        return Overlap(), np.zeros(len(slices), dtype=bool)
    # A copy of an image is of a patient as much as the one that stays.
    seen = slices[slices["status"].isin((STATUS_OK, DUPLICATE))]
    of_train, of_test = (seen[seen["split"].eq(split)] for split in (TRAIN_SPLIT, TEST_SPLIT))
    patients, studies = (
        np.intersect1d(of_train[name].dropna(), of_test[name].dropna())
        for name in ("patient_id", "study_id")
    )
    of_ids = slices["patient_id"].isin(patients) | slices["study_id"].isin(studies)
    of_image, num_images = _images_of_both(slices)
    of_pixels = in_train & copies.isin(copies[in_test].dropna()).to_numpy(dtype=bool)
    concerned = in_train & (of_ids.to_numpy(dtype=bool) | of_image | of_pixels)
    of_patients = slices["patient_id"].isin(slices.loc[concerned, "patient_id"].dropna().unique())
    concerned |= in_train & of_patients.to_numpy(dtype=bool)
    overlap = Overlap(
        num_patients=len(patients),
        num_studies=len(studies),
        num_images=num_images,
        num_identical=int(of_pixels.sum()),
        num_training=int(concerned.sum()),
        num_kept=int((concerned & slices["keep_for_training"].to_numpy(dtype=bool)).sum()),
    )
    return overlap, concerned


def _images_of_both(slices: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return which rows have an image id that the other split has too, and how many ids.

    Of several files with one image only the first keeps the id; the others name that file.
    """
    first_files = same_image_files(slices)
    by_file = slices.drop_duplicates("source_file").set_index("source_file")["split"]
    first_splits = first_files.map(by_file)
    own_splits = slices.loc[first_files.index, "split"]
    pairs = pd.DataFrame({"own": own_splits, "first": first_splits})
    across = pairs.isin([TRAIN_SPLIT, TEST_SPLIT]).all(axis=1) & (pairs["own"] != pairs["first"])
    files = first_files[across]
    rows = slices["source_file"].isin(files).to_numpy(dtype=bool, copy=True)
    rows[files.index] = True
    return rows, int(files.nunique())
