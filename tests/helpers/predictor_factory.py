"""A prepared dataset small enough for tests, and a network that has little to learn on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from common.files import write_json
from common.predictors.slices import SlicePredictor
from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, STORE_FOLDER, SliceTable
from common.tables import write_parquet
from common.transforms import SampleTransform
from rsna_task import LABEL_WEIGHTS, LABELS

SIZE = 40


def make_dataset(folder: Path, num_patients: int = 5, num_slices: int = 6) -> SliceTable:
    """Write a dataset of one study per patient; the last slice of patient 0 is not readable.

    A slice with blood is brighter. Patient 1 has a second, shorter series in the same study.
    """
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for patient in range(num_patients):
        for series in range(2 if patient == 1 else 1):
            records += _series(folder, rng, patient, series, num_slices - 3 * series)
    records[num_slices - 1] |= {
        "status": "truncated",
        "reason": "pixel data end early",
        "store_index": None,
        "rank": None,
        "store_file": None,
    }
    frame = pd.DataFrame(records)
    for name, dtype in SLICE_COLUMNS.items():
        if name not in frame:
            frame[name] = True if dtype == "bool" else None
        frame[name] = frame[name].astype(dtype)
    frame = frame[[*SLICE_COLUMNS, *LABELS]]
    write_parquet(folder / "slices.parquet", frame)
    write_json(folder / "manifest.json", {"num_by_status": {"ok": len(frame) - 1, "truncated": 1}})
    return SliceTable.load(folder)


def _series(
    folder: Path, rng: np.random.Generator, patient: int, series: int, num_slices: int
) -> list[dict[str, Any]]:
    name = f"p{patient}r{series}"
    image_hu = rng.normal(30, 4, (num_slices, SIZE, SIZE))
    image_hu[:, :4] = -1024
    labels = (rng.random((num_slices, len(LABELS))) < 0.3).astype(float)
    labels[:, -1] = labels[:, :-1].max(axis=1)
    image_hu[labels[:, -1] == 1, 15:25, 15:25] += 35
    write_series(folder / STORE_FOLDER / f"{name}.b2nd", image_hu.astype(np.int16))
    return [
        {
            "image_id": f"ID_{name}_{index}",
            "patient_id": f"secret-patient-{patient}",
            "study_id": f"study{patient}",
            "series_id": name,
            "split": "train",
            "source_file": f"{name}/{index}.dcm",
            "status": "ok",
            "position_mm": 5.0 * index,
            "rank": index,
            "num_slices": num_slices,
            "store_file": f"{name}.b2nd",
            "store_index": index,
            "rows": SIZE,
            "columns": SIZE,
            "label_source": "slices",
            **dict(zip(LABELS, labels[index], strict=True)),
        }
        for index in range(num_slices)
    ]


def small_transform(*first: dict[str, Any]) -> SampleTransform:
    """Any geometric transforms, then 32 pixels and the three windows."""
    resize = {"__class_fullname__": "Resize", "height": 32, "width": 32, "p": 1.0}
    nodes = [*first, resize]
    content = {"__class_fullname__": "Compose", "p": 1.0, "transforms": nodes}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": content})


def rotating_transform() -> SampleTransform:
    """A random view."""
    return small_transform(
        {"__class_fullname__": "Rotate", "limit": [-60, 60], "border_mode": 0, "fill": -1024}
    )


def build_network(model: dict[str, Any]) -> nn.Module:
    """A network of one convolution, with random weights."""
    torch.manual_seed(model.get("seed", 0))
    return nn.Sequential(
        nn.Conv2d(model["in_chans"], 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, model["num_classes"]),
    )


def make_predictor(**changes: Any) -> SlicePredictor:
    """A predictor around `build_network`."""
    model = {"name": "tiny", "num_classes": len(LABELS), "in_chans": 3}
    options: dict[str, Any] = {
        "network": build_network({**model, "seed": 5}),
        "model": model,
        "label_names": LABELS,
        "label_weights": LABEL_WEIGHTS,
        "transform": small_transform(),
        "tta_transform": rotating_transform(),
        "prior": np.linspace(0.1, 0.35, len(LABELS)),
        "training": {"experiment_id": "0001", "data_dataset": "tiny", "data_fold": 0},
    }
    return SlicePredictor(**{**options, **changes})
