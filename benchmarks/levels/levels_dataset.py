"""Writes the studies of `benchmarks.levels.levels` as a prepared dataset folder."""

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.levels.levels import SLICE_MM, SPACING_MM, LevelsStudy, generate_levels_study
from common.errors import InputError
from common.files import write_json, write_text
from common.preparation.fold_making import make_folds
from common.preparation.manifest import MANIFEST_FILE, table_hashes
from common.preparation.tables import LABELS_OF_SLICES, studies_of_slices
from common.slices.folds import FOLDS_FILE, TRAIN_SPLIT
from common.slices.store import write_series
from common.slices.table import (
    SLICE_COLUMNS,
    SLICES_FILE,
    STATUS_OK,
    STORE_FOLDER,
    STUDIES_FILE,
)
from common.tables import write_parquet
from rsna_task import LABELS, SUBTYPES

logger = logging.getLogger(__name__)

# Raise it when the same parameters make other images, so that old folders are recognised.
GENERATOR_VERSION = 1


@dataclass(frozen=True)
class LevelsParameters:
    """Parameters of the dataset."""

    num_patients: int = 300
    num_folds: int = 3
    seed: int = 4667


def write_levels_dataset(
    folder: Path, parameters: LevelsParameters | None = None, n_jobs: int = 1
) -> None:
    """Write slices.parquet, studies.parquet, folds.csv, the store and manifest.json.

    A finished folder of the same parameters is kept as it is.

    Args:
        n_jobs: number of processes; the data do not depend on it.

    Raises:
        InputError: the folder holds a dataset of other parameters, or something else.
    """
    parameters = parameters or LevelsParameters()
    if _is_finished(folder, parameters):
        logger.info("the dataset in %s is kept as it is", folder)
        return
    (folder / STORE_FOLDER).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tqdm(total=parameters.num_patients, desc="studies", unit="study") as bar:
        for own in _each_patient(folder, parameters, n_jobs):
            rows += own
            bar.update()
    types = {**SLICE_COLUMNS, **dict.fromkeys(LABELS, "float32")}
    frame = pd.DataFrame(rows)[list(types)].astype(types)
    write_parquet(folder / SLICES_FILE, frame)
    write_parquet(folder / STUDIES_FILE, studies_of_slices(frame, LABELS).reset_index())
    folds = make_folds(frame, LABELS, parameters.num_folds, parameters.seed)
    write_text(folder / FOLDS_FILE, folds.to_csv(index=False, lineterminator="\n"))
    manifest = {
        "source": "levels",
        "folder": "",
        "complete": True,
        "parameters": _described(parameters),
        "versions": {},
        "counts": {"num_files": len(frame), "status": {STATUS_OK: len(frame)}},
        "sha256": table_hashes(folder),
    }
    write_json(folder / MANIFEST_FILE, manifest)


def _is_finished(folder: Path, parameters: LevelsParameters) -> bool:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if (folder / SLICES_FILE).is_file() and not (folder / STORE_FOLDER).is_dir():
            raise InputError(f"{folder} holds something else: name another folder")
        return False
    found = json.loads(path.read_text(encoding="utf-8"))["parameters"]
    if found != _described(parameters):
        raise InputError(
            f"{folder} was made with other parameters or by another version: name a new folder or "
            f"delete this one"
        )
    return True


def _described(parameters: LevelsParameters) -> dict[str, Any]:
    return {"generator_version": GENERATOR_VERSION, **asdict(parameters)}


def _each_patient(
    folder: Path, parameters: LevelsParameters, n_jobs: int
) -> Iterator[list[dict[str, Any]]]:
    patients = range(parameters.num_patients)
    write = partial(_write_patient, folder, parameters.seed)
    if n_jobs <= 1:
        yield from map(write, patients)
        return
    # Spawned, not forked: the caller may hold threads or open Blosc2 files.
    with ProcessPoolExecutor(n_jobs, get_context("spawn")) as pool:
        yield from pool.map(write, patients, chunksize=8)


def _write_patient(folder: Path, seed: int, patient: int) -> list[dict[str, Any]]:
    study = generate_levels_study(patient, seed)
    series = _name("series", seed, patient)
    store_file = f"{series}.b2nd"
    write_series(folder / STORE_FOLDER / store_file, study.image_hu)
    return [_row(study, index, seed, patient, store_file) for index in range(len(study.image_hu))]


def _row(
    study: LevelsStudy, index: int, seed: int, patient: int, store_file: str
) -> dict[str, Any]:
    image_hu, labels = study.image_hu[index], study.labels[index]
    return {
        **dict.fromkeys(SLICE_COLUMNS),
        "image_id": _name("image", seed, patient, index),
        "patient_id": _name("patient", seed, patient),
        "study_id": _name("study", seed, patient),
        "series_id": _name("series", seed, patient),
        "split": TRAIN_SPLIT,
        "source_file": f"made/{patient:05d}/{index:03d}",
        "status": STATUS_OK,
        "position_mm": SLICE_MM * index,
        "rank": index,
        "num_slices": len(study.image_hu),
        "store_file": store_file,
        "store_index": index,
        "rows": image_hu.shape[0],
        "columns": image_hu.shape[1],
        "spacing_row": SPACING_MM,
        "spacing_column": SPACING_MM,
        "tilt_deg": 0.0,
        "hu_min": int(image_hu.min()),
        "hu_max": int(image_hu.max()),
        "hu_mean": float(image_hu.mean()),
        "brain_fraction": float(np.mean((image_hu >= 0) & (image_hu <= 80))),
        "num_padding": 0,
        "keep_for_training": True,
        "label_source": LABELS_OF_SLICES,
        **{name: float(value) for name, value in zip(SUBTYPES, labels)},
        "any": float(labels.any()),
    }


def _name(kind: str, *numbers: int) -> str:
    """Return an id that sorts neither by patient nor by place."""
    text = "-".join([kind, *map(str, numbers)])
    return f"ID_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
