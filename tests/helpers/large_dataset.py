"""A slice table of the size of a real archive, whose pixels are one small store file."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, SLICES_FILE, STORE_FOLDER, STUDIES_FILE
from common.tables import write_parquet
from rsna_task import LABELS, SUBTYPES

SERIES_LENGTH = 34


def make_large_dataset(folder: Path, num_rows: int, num_shown: int = 40) -> Path:
    """Write slices.parquet, studies.parquet and folds.csv, and `num_shown` series of pixels."""
    rng = np.random.default_rng(0)
    series, rank = np.divmod(np.arange(num_rows), SERIES_LENGTH)
    num_series = int(series[-1]) + 1
    of_series = np.array([f"{number:08d}.b2nd" for number in range(num_series)])
    names = pd.Series(np.arange(num_rows)).astype("str")
    lengths = np.bincount(series)[series]
    tilts = np.where(rng.random(num_series) < 0.3, rng.normal(10, 4, num_series), 0.0)
    labels = (rng.random((num_rows, len(SUBTYPES))) < 0.05).astype(np.float32)
    frame = pd.DataFrame(
        {
            **{name: pd.Series(dtype=kind) for name, kind in SLICE_COLUMNS.items()},
            "image_id": "ID_" + names,
            "patient_id": pd.Series(series // 2).map("secret patient {}".format),
            "study_id": pd.Series(series).map("secret study {}".format),
            "series_id": pd.Series(series).map("secret series {}".format),
            "split": np.where(series % 7 == 0, "test", "train"),
            "source_file": "folder/secret_" + names + ".dcm",
            "status": "ok",
            "reason": np.where(rng.random(num_rows) < 0.3, "wrapped values were unwrapped", None),
            "position_mm": 5.0 * rank,
            "rank": rank,
            "num_slices": lengths,
            "store_file": of_series[series],
            "store_index": rank,
            "rows": 512,
            "columns": 512,
            "spacing_row": rng.normal(0.48, 0.03, num_series)[series],
            "spacing_column": 0.48,
            "tilt_deg": tilts[series],
            "bits_stored": np.where(series % 2, 12, 16),
            "pixel_representation": np.where(series % 2, 0, 1),
            "rescale_slope": 1.0,
            "rescale_intercept": -1024.0,
            "window_center": rng.choice([30.0, 36.0, 40.0], num_rows),
            "window_width": 80.0,
            "hu_min": -1024,
            "hu_max": rng.integers(1000, 3000, num_rows),
            "hu_mean": rng.normal(-500, 80, num_rows).round(3),
            "brain_fraction": rng.random(num_rows).round(6),
            "num_padding": 0,
            "keep_for_training": True,
            "label_source": "slices",
        }
    )
    frame[list(SUBTYPES)] = labels
    frame["any"] = labels.max(axis=1)
    bad = rng.random(num_rows) < 0.001
    frame.loc[bad, "status"] = "truncated"
    frame.loc[bad, "reason"] = names[bad].map("{} of 524288 bytes of pixel data".format)
    frame.loc[bad, ["store_file", "store_index"]] = None
    frame = frame.astype({**SLICE_COLUMNS, **dict.fromkeys(LABELS, "float32")})
    write_parquet(folder / SLICES_FILE, frame)
    studies = frame.groupby("study_id")[list(LABELS)].max().reset_index()
    patients = frame.groupby("study_id")["patient_id"].first().to_numpy()
    write_parquet(folder / STUDIES_FILE, studies.assign(patient_id=patients, label_source="slices"))
    train = frame[frame["split"] == "train"]
    folds = train[["image_id", "patient_id"]].assign(fold=(series // 2 % 5)[train.index])
    folds.to_csv(folder / "folds.csv", index=False)
    image_hu = rng.integers(-50, 90, (SERIES_LENGTH, 24, 24)).astype(np.int16)
    for name in of_series[:num_shown]:
        write_series(folder / STORE_FOLDER / name, image_hu)
    return folder
