"""The manifest of a dataset folder: where it came from, with what it was made, what was counted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.files import write_json
from common.pixel_steps import MANIFEST_FILE, NO_STEPS, PixelSteps, steps_of
from common.preparation.headers import INDEX_FOLDER, forget_headers, read_shards
from common.preparation.source import Source

__all__ = ["MANIFEST_FILE", "check_same_source", "write_manifest"]


def check_same_source(
    dataset_folder: Path, source: Source, files: pd.DataFrame, steps: PixelSteps = NO_STEPS
) -> None:
    """Raises InputError where the dataset folder was made from other data, or with other steps.

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
    """Writes the manifest; `counts` is None while the dataset is being made."""
    write_json(
        dataset_folder / MANIFEST_FILE,
        {
            "source": source.name,
            "folder": str(source.folder.resolve()),
            "complete": counts is not None,
            "parameters": source.parameters() | parameters,
            "versions": versions,
            "counts": counts or {},
        },
    )
