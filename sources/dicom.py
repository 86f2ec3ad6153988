"""Any folder of DICOM files: every file below it is looked at, CT slices are used.

No labels, and no split: the slices are there to be predicted.
"""

from typing import ClassVar

import pandas as pd

from common.preparation import DicomReader, list_files
from sources.base import AbstractSource


class DicomSource(AbstractSource):
    """A tree of files, whatever they are called."""

    name: ClassVar[str] = "dicom"

    @property
    def reader(self) -> DicomReader:
        """Reads DICOM files below the folder."""
        return DicomReader(self.folder)

    def files(self) -> pd.DataFrame:
        """Returns every file below the folder."""
        return list_files(self.folder, "none")
