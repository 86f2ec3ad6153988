"""Data and numbers of other packages: tests/saved/asah.csv and statistics.json."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

SAVED = Path(__file__).resolve().parents[2] / "saved"
ASAH = pd.read_csv(SAVED / "asah.csv")
REFERENCE = json.loads((SAVED / "statistics.json").read_text())

LABELS = ASAH["outcome"].to_numpy(float)
PROBABILITIES = ((ASAH["s100b"] + 0.05) / (ASAH["s100b"] + 0.4)).to_numpy(float)
EACH = np.arange(len(ASAH))
PAIRS = EACH // 2


def studies(seed: int, num_patients: int = 40, ties: int = 2):
    """Labels with a NaN or two, probabilities with ties, and patients of one to four studies."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rng.integers(1, 5, num_patients))
    tendency = rng.random(num_patients)[patients]
    labels = (rng.random(len(patients)) < tendency).astype(float)
    p = np.clip(np.round(0.5 * tendency + 0.5 * rng.random(len(labels)), ties), 0.01, 0.99)
    order = rng.permutation(len(labels))
    labels, p, patients = labels[order], p[order], patients[order]
    labels[[3, 8]] = np.nan
    return labels, p, patients
