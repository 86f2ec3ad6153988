"""What tests of study networks share: tables whose labels need neighbours."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.features.slice_outputs import FeaturesInMemory, Scaling, SliceOutputs
from common.slices.table import SLICE_COLUMNS, SliceTable

LABELS = ("one", "two")


def make_table(folder: Path, lengths: list[int], labels: np.ndarray) -> SliceTable:
    """A table without pixels: one series per patient, slices 5 mm apart, two labels."""
    patients = np.repeat(np.arange(len(lengths)), lengths)
    places = np.concatenate([np.arange(n) for n in lengths])
    frame = pd.DataFrame(
        {
            **dict.fromkeys(SLICE_COLUMNS),
            "image_id": [f"i{p}_{k}" for p, k in zip(patients, places)],
            "patient_id": [f"p{p}" for p in patients],
            "study_id": [f"st{p}" for p in patients],
            "series_id": [f"se{p}" for p in patients],
            "split": "train",
            "status": "ok",
            "position_mm": 5.0 * places,
            "rank": places,
            "store_file": [f"s{p}.b2nd" for p in patients],
            "store_index": places,
            "keep_for_training": True,
        }
    ).astype(SLICE_COLUMNS)
    for column, name in enumerate(LABELS):
        frame[name] = labels[:, column]
    return SliceTable(frame, folder)


def neighbour_task(
    folder: Path, num_studies: int, seed: int, is_shuffled: bool = False
) -> tuple[SliceTable, SliceOutputs]:
    """Slices whose blood looks like a mimic that has no neighbours.

    A run of two or more bright slices is blood, a lone one is a mimic; the slice network's logits
    tell bright from dark and no more. Shuffled: the same slices in random order within a study.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(12, 20, num_studies).tolist()
    bright, label = [], []
    for n in lengths:
        b, y = np.zeros(n), np.zeros(n)
        place = int(rng.integers(0, 3))
        while place < n - 2:
            size = int(rng.choice([1, 3]))
            b[place : place + size] = 1
            y[place : place + size] = size > 1
            place += size + int(rng.integers(1, 4))
        order = rng.permutation(n) if is_shuffled else np.arange(n)
        bright.append(b[order])
        label.append(y[order])
    b, y = np.concatenate(bright), np.concatenate(label)
    table = make_table(folder, lengths, np.stack([y, y], axis=1))
    logits = (4 * b - 2 + rng.normal(0, 0.3, len(b))).astype(np.float32)
    patient = np.repeat(np.arange(num_studies), lengths)
    features = rng.normal(size=(len(b), 6)) + np.outer(b, np.ones(6))
    scaling = {fold: Scaling(np.zeros(6, np.float32), np.ones(6, np.float32)) for fold in range(2)}
    outputs = SliceOutputs(
        "0001",
        np.stack([logits, logits], axis=1),
        patient % 2,
        FeaturesInMemory(features.astype(np.float16)),
        np.arange(len(b)),
        scaling,
    )
    return table, outputs
