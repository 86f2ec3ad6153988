"""Objects as files whose bytes follow from what they hold and one time."""

import contextlib
import io
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from common.files import held, make_folder, write_bytes

SUFFIX = ".dcm"
NAME_LENGTH = 16
"""Hexadecimal digits that name the folder of a study."""
_WORK, _LEFT = ".deliver", f".{'[0-9a-f]' * NAME_LENGTH}.{'?' * 8}.*"
_PAIRS = ("InstanceCreation", "Series", "Content")


def write_objects(folder: Path, objects: Mapping[str, Dataset], start: datetime) -> None:
    """Write objects as `<name>.dcm`, each whole on disk before the next.

    Args:
        start: the one time in them that is not of the source.
    """
    for name, made in objects.items():
        stamp(made, start)
        stream = io.BytesIO()
        made.save_as(stream, enforce_file_format=True)
        write_bytes(folder / f"{name}{SUFFIX}", stream.getvalue())


def stamp(made: Dataset, start: datetime) -> None:
    """Give an object, and what contributed to it, one time."""
    date, time = start.strftime("%Y%m%d"), start.strftime("%H%M%S")
    for prefix in _PAIRS:
        if prefix != "Content" or "ContentDate" in made:
            setattr(made, f"{prefix}Date", date)
            setattr(made, f"{prefix}Time", time)
    if "DateOfSecondaryCapture" in made:
        made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = date, time
    for item in made.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = date + time


@contextlib.contextmanager
def working_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder in `output` for the work, and keep other processes out of `output`.

    What a killed process left there is removed.

    Raises:
        InputError: another process writes there, or nothing can be written.
    """
    make_folder(output)
    with held(output, f"{output}: another process delivers there: wait for it"):
        work = output / _WORK
        for left in (work, *output.glob(_LEFT)):  # `replacing_folder` names the latter
            shutil.rmtree(left, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
