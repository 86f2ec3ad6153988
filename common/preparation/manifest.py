"""The manifest of a dataset folder: source, parameters and counts."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.files import file_sha256, write_json
from common.preparation.headers import INDEX_FOLDER, forget_headers, read_shards
from common.preparation.source import Source
from common.slices.folds import FOLDS_FILE
from common.slices.pixel_steps import MANIFEST_FILE, NO_STEPS, PixelSteps, steps_of
from common.slices.table import SLICES_FILE, STATUS_OK, STUDIES_FILE

__all__ = ["MANIFEST_FILE", "TABLES", "check_same_source", "write_manifest"]

TABLES = (SLICES_FILE, STUDIES_FILE, FOLDS_FILE)
"""Tables whose hash the manifest holds; the store has a checksum per slice in its files."""


def check_same_source(
    dataset_folder: Path, source: Source, files: pd.DataFrame, steps: PixelSteps = NO_STEPS
) -> None:
    """Raise InputError where the dataset folder was made from other data, or with other steps.

    The data may have moved, and may have grown: a third of the files read before must be there.
    Another folder can have files of the same names, sizes and times, so its headers are read
    again.
    """
    path = dataset_folder / MANIFEST_FILE
    if not path.is_file():
        return
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        made_from, folder = manifest["source"], manifest["folder"]
        made_with = steps_of(manifest.get("parameters", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read: delete {dataset_folder} and run again") from error
    advice = f"choose another --data_dataset (or --pr_output), or delete {dataset_folder}"
    if made_from != source.name:
        raise InputError(
            f"{dataset_folder} was made from source {made_from}, not {source.name}: {advice}"
        )
    if made_with != steps:
        raise InputError(
            f"{dataset_folder} was made with {made_with.flags()}, not {steps.flags()}: {advice}"
        )
    index_folder = dataset_folder / INDEX_FOLDER
    known = read_shards(index_folder)["source_file"].drop_duplicates()
    if 3 * known.isin(files["source_file"]).sum() < len(known):
        raise InputError(
            f"{dataset_folder} was made from {len(known)} files of which few are in "
            f"{source.folder}: {advice}"
        )
    if folder != str(source.folder.resolve()):
        forget_headers(index_folder)


def write_manifest(
    dataset_folder: Path,
    source: Source,
    parameters: dict[str, Any],
    versions: dict[str, str],
    counts: dict[str, Any] | None,
) -> None:
    """Write the manifest, with the hashes of the tables.

    While the dataset is being made, `counts` is None and there are no hashes.
    """
    write_json(
        dataset_folder / MANIFEST_FILE,
        {
            "source": source.name,
            "folder": str(source.folder.resolve()),
            "complete": counts is not None,
            "parameters": source.parameters() | parameters,
            "versions": versions,
            "counts": counts or {},
            "sha256": {} if counts is None else table_hashes(dataset_folder),
        },
    )


def table_hashes(dataset_folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each table that the dataset folder has, by its name."""
    return {
        name: file_sha256(dataset_folder / name)
        for name in TABLES
        if (dataset_folder / name).is_file()
    }


def table_counts(slices: pd.DataFrame) -> dict[str, Any]:
    """Return the counts of the manifest that follow from the slice table."""
    by_status = {str(k): int(v) for k, v in slices["status"].value_counts().items()}
    return {
        "num_files": int(slices["source_file"].nunique()),
        "status": {STATUS_OK: 0} | by_status,
        "num_series": int(slices["store_file"].nunique()),
        "num_padding": int(slices["num_padding"].sum()),
    }


def read_manifest(dataset_folder: Path) -> dict[str, Any]:
    """Return the content of the manifest.

    Raises:
        InputError: it is missing, can't be read, or is not what `write_manifest` writes.
    """
    path = dataset_folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        parts = [manifest[name] for name in ("parameters", "counts")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read: run preprocessing.py again") from error
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{path} can't be read: run preprocessing.py again")
    return dict(manifest)
