"""A dataset folder of random slices, small enough to train on in a second."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, SLICES_FILE, STORE_FOLDER
from common.tables import write_parquet
from rsna_task import LABELS, SUBTYPES


def make_tiny_dataset(
    folder: Path, num_patients: int = 6, num_slices: int = 4, size: int = 24, num_folds: int = 2
) -> Path:
    """Write slices.parquet, folds.csv and the store; bright squares are hemorrhage."""
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(num_patients):
        image_hu = rng.normal(30, 5, (num_slices, size, size)).round().astype(np.int16)
        labels = rng.random((num_slices, len(SUBTYPES))) < 0.3
        for index, row_labels in enumerate(labels):
            for column in np.flatnonzero(row_labels):
                image_hu[index, 4 * column : 4 * column + 4, 8:16] = 70
        name = f"series{patient}.b2nd"
        write_series(folder / STORE_FOLDER / name, image_hu)
        for index in range(num_slices):
            row = {
                **dict.fromkeys(SLICE_COLUMNS),
                "image_id": f"ID_{patient}_{index}",
                "patient_id": f"patient{patient}",
                "study_id": f"study{patient}",
                "series_id": f"series{patient}",
                "split": "train",
                "source_file": f"{patient}/{index}.dcm",
                "status": "ok",
                "position_mm": 5.0 * index,
                "rank": index,
                "num_slices": num_slices,
                "store_file": name,
                "store_index": index,
                "rows": size,
                "columns": size,
                "keep_for_training": True,
            }
            row |= {label: float(x) for label, x in zip(SUBTYPES, labels[index])}
            rows.append(row | {"any": float(labels[index].any())})
    frame = pd.DataFrame(rows).astype({**SLICE_COLUMNS, **dict.fromkeys(LABELS, "float32")})
    write_parquet(folder / SLICES_FILE, frame)
    fold = frame["patient_id"].str.removeprefix("patient").astype(int) % num_folds
    frame[["image_id", "patient_id"]].assign(fold=fold).to_csv(folder / "folds.csv", index=False)
    return folder
