"""What tests of preparing datasets share: small DICOM series, and comparing dataset folders."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from dicom_factory import write_ct, write_rsna

from common.preparation import Preparation, prepare_dataset
from rsna.sources.dicom import DicomSource
from rsna_task import LABELS, SUBTYPES


def write_series_files(
    folder: Path, series: str = "1.2.3.4", num_slices: int = 4, size: int = 16, **tags: object
) -> np.ndarray:
    """Write slices in falling order of position; returns their HU by ascending position."""
    rng = np.random.default_rng(int(hashlib.sha256(series.encode()).hexdigest()[:8], 16))
    stored = rng.integers(0, 3000, (num_slices, size, size)).astype(np.uint16)
    for index, pixels in enumerate(stored):
        elements = {
            "SOPInstanceUID": f"{series}.{index}",
            "SeriesInstanceUID": series,
            "StudyInstanceUID": f"{series}.0",
            "PatientID": f"patient of {series}",
            "ImagePositionPatient": [-10.0, -10.0, 5.0 * index],
        }
        write_ct(folder / f"{series}-{num_slices - index}.dcm", pixels, **(elements | tags))
    return stored.astype(np.int64) - 1024


def write_rsna_folder(folder: Path, stage: str = "stage_2", ending: str = "") -> dict[str, int]:
    """Four patients of three slices, one more for the test; returns the label `any` by image."""
    rng = np.random.default_rng(5)
    rows, any_of = [], {}
    for patient in range(5):
        split = "test" if patient == 4 else "train"
        for index in range(3):
            image_id = f"ID_{patient}0000000{index}"
            pixels = rng.integers(0, 2000, (16, 16)).astype(np.int16)
            write_rsna(
                folder / f"{stage}_{split}{ending}" / f"{image_id}.dcm",
                pixels,
                image_id,
                PatientID=f"ID_{patient}",
                StudyInstanceUID=f"ID_study{patient}",
                SeriesInstanceUID=f"ID_series{patient}",
                ImagePositionPatient=[0.0, 0.0, -5.0 * index],
            )
            if split == "train":
                labels = rng.integers(0, 2, len(SUBTYPES)).tolist()
                any_of[image_id] = max(labels)
                rows += [f"{image_id}_{n},{v}" for n, v in zip(LABELS, [*labels, max(labels)])]
    (folder / f"{stage}_train.csv").write_text("\n".join(["ID,Label", *rows, *rows[:6]]) + "\n")
    return any_of


def prepare_dicom(
    folder: Path, dataset: Path, n_jobs: int = 0, *, remove: bool = False
) -> tuple[Preparation, pd.DataFrame]:
    """Prepare a folder of DICOM, in this process unless told otherwise; returns the table too."""
    prepared = prepare_dataset(DicomSource(folder), dataset, n_jobs=n_jobs, remove=remove)
    return prepared, pd.read_parquet(dataset / "slices.parquet")


def contents(dataset: Path) -> dict[str, str]:
    """Return a hash of every file that the contract names, by its name."""
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(dataset).parts[0] not in ("index", ".lock")
    }
