"""Any folder of DICOM files, zip archives included: every file is read.

Axial CT slices of heads without contrast medium are used (`common.dicom.selection` has the rules),
and all others are listed with a reason. There are no labels and no split: the slices are to be
predicted, unless a label file (`--pre_labels`) names them.
"""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from common.dicom.archives import ARCHIVE_SUFFIX
from common.preparation import DicomReader, list_archive, list_files, with_members
from rsna.sources.base import AbstractSource


class DicomSource(AbstractSource):
    """A tree of files, whatever they are called, or one zip archive.

    Args:
        folder: the folder, or a zip archive: its members are then named as if its folder had been
            given and held nothing else.
        with_accession: read the hash of the AccessionNumber of each file, for a label file.

    Raises:
        InputError: no such folder or archive.
    """

    name: ClassVar[str] = "dicom"

    def __init__(self, folder: Path, with_accession: bool = False) -> None:
        folder = Path(folder)
        self.with_accession = with_accession
        self.archive = folder if is_archive(folder) else None
        super().__init__(folder if self.archive is None else folder.parent)
        self.given = folder

    @property
    def reader(self) -> DicomReader:
        """Read DICOM files below the folder, and leave out slices that are not asked for."""
        return DicomReader(self.folder, sort_out=True, with_accession=self.with_accession)

    def files(self) -> pd.DataFrame:
        """Return every file below the folder; members of archives replace these."""
        if self.archive is not None:
            return list_archive(self.archive)
        return with_members(list_files(self.folder, "none"), self.folder)


def is_archive(path: Path) -> bool:
    """Return whether a path is a file named .zip, in any case."""
    return path.suffix.lower() == ARCHIVE_SUFFIX and path.is_file()
