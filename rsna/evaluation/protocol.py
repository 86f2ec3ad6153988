"""The protocol of an external validation: what is scored and how, frozen before it is done."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from common.errors import InputError
from common.files import write_text
from common.slices.table import SliceTable
from rsna.evaluation.labelled import Labelled

# What tells slices and their pixels apart; the store has a checksum of each beside.
_OF_SLICES = (
    "image_id", "patient_id", "study_id", "series_id", "status", "position_mm", "rank",
    "rows", "columns", "hu_min", "hu_max", "hu_mean", "num_padding",
    # What the network is told of lengths, and what chooses the volume of a study.
    "spacing_row", "spacing_column", "volume_id", "frame_of_reference", "kernel", "is_sharp",
    "sharpness", "brain_fraction", "selected",
)  # fmt: skip
_HASH = "sha256"
_HEAD = "# A frozen protocol (docs/how_to/validate.md): changed by hand it is refused.\n"


def digests(table: SliceTable, labelled: Labelled) -> dict[str, Any]:
    """Return counts and hashes of what of a dataset would be scored, whatever its order."""
    frame = table.frame.iloc[labelled.frame.index].sort_values("image_id", kind="stable")
    names = list(labelled.studies.columns)
    of_slices = [] if labelled.by_study else [frame[["image_id", *names]]]
    labels = [labelled.studies.sort_index().reset_index(), *of_slices]
    return {
        "num_studies": len(labelled.studies),
        "num_slices": len(labelled.rows),
        "slices_sha256": _digest(frame[[*_OF_SLICES]]),
        "labels_sha256": _digest(*labels),
    }


def hash_of(protocol: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a protocol."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def write_protocol(path: Path, protocol: Mapping[str, Any]) -> None:
    """Write a protocol with its hash."""
    content = {_HASH: hash_of(protocol), **protocol}
    write_text(path, _HEAD + yaml.safe_dump(content, sort_keys=False))


def read_protocol(path: Path) -> dict[str, Any]:
    """Return what `write_protocol` wrote.

    Raises:
        InputError: it can't be read, or has been changed.
    """
    try:
        content = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        known = content.pop(_HASH)
        is_whole = isinstance(content["flags"], dict)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        what = f"--ev_protocol {path} is no protocol: name a new file to write"
        raise InputError(what) from error
    if known != hash_of(content) or not is_whole:
        raise InputError(
            f"--ev_protocol {path} was changed after it was written: restore it, or name a new "
            f"file to freeze another protocol"
        )
    return content


def differences(protocol: Mapping[str, Any], frozen: Mapping[str, Any]) -> list[str]:
    """Return in words where a protocol is not the frozen one."""
    now, before = _flat(protocol), _flat(frozen)
    return [
        f"{key} is {_short(now.get(key))}, there {_short(before.get(key))}"
        for key in [*before, *(now.keys() - before.keys())]
        if now.get(key) != before.get(key)
    ]


def _digest(*frames: pd.DataFrame) -> str:
    found = hashlib.sha256()
    for frame in frames:
        found.update(frame.to_csv(index=False).encode())
    return found.hexdigest()


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: value}
    parts = [_flat(item, f"{key}.{name}".strip(".")) for name, item in value.items()]
    return {name: item for part in parts for name, item in part.items()}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
