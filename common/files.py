"""Files that are either whole or absent: written to a temporary name, then moved into place."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it there when the block succeeds.

    The data are on disk before the name changes, and a failed block leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; move it there when the block succeeds.

    What was there is removed after that; a failed block leaves it as it was.
    """
    make_folder(folder.parent)
    hidden = f".{folder.name}.{uuid.uuid4().hex[:8]}"
    temporary, old = folder.with_name(f"{hidden}.tmp"), folder.with_name(f"{hidden}.old")
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing; InputError where nothing can be written to it."""
    reason = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if not os.access(folder, os.W_OK):
            reason = "read-only"
    if reason is not None:
        raise InputError(f"{folder} can't be written to ({reason}): choose another folder")


@contextlib.contextmanager
def held(path: Path, refusal: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder inside the block; a killed process leaves no lock.

    Args:
        path: a folder that is there, or a file, which is made where it is missing.
        refusal: the message where another process holds it.
        shared: let others share it, and only read; the path is there.

    Raises:
        InputError: another process holds it, or the file system has no locks.
    """
    flags = os.O_RDONLY if shared or path.is_dir() else os.O_RDWR | os.O_CREAT
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(refusal) from error
        except OSError as error:
            raise InputError(
                f"{path} can't be locked ({error.strerror}): choose a folder elsewhere"
            ) from error
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names of the files in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`; NaN and infinity become null."""
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def parse_yaml(text: str) -> Any:
    """Return what YAML holds, as plain types; the parser in C, where there is one, is faster."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return `value` with every non-finite number, however deep, replaced by None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
