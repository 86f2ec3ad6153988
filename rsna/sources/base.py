"""Base of all sources: a folder, its files, how to read them, their labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from common.errors import InputError
from common.preparation import SliceReader
from rsna_task import LABELS


class AbstractSource(ABC):
    """Where the files of a dataset come from.

    A subclass defines its files (`files`) and how they are read (`reader`); one with labels
    overrides `labels` or `study_labels`.

    Args:
        folder: the folder of the original files.

    Raises:
        InputError: no such folder.
    """

    name: ClassVar[str]
    label_names: Sequence[str] = LABELS
    keeps_ambiguous: bool = False

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"--pre_folder {folder}: no such folder")

    @property
    @abstractmethod
    def reader(self) -> SliceReader:
        """The reader of the files, in any process."""

    @abstractmethod
    def files(self) -> pd.DataFrame:
        """Return the files, one row each, with `common.preparation.FILE_COLUMNS`."""

    def labels(self) -> pd.DataFrame | None:
        """Return image_id and the labels of slices (0, 1 or NaN), each id once; None: none."""
        return None

    def study_labels(self) -> pd.DataFrame | None:
        """Return study_id and labels of studies, where a source labels those; None: none."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Return further facts about the source, for the manifest."""
        return {}


def ends_in(*suffixes: str) -> Callable[[str], bool]:
    """Return whether a name has one of the endings, given in lower case; its own case is free."""
    return lambda name: name.lower().endswith(suffixes)
