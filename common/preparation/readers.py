"""Readers of the files of a source: header first, pixels later, in any process."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from common.dicom import DecodedImage, RejectedFile, SliceHeader, elements, read_headers, read_hu
from common.dicom.archives import MemberStream, explain_not_dicom, open_source_file
from common.dicom.part10 import open_dicom

__all__ = ["DecodedImage", "DicomReader", "RejectedFile", "SliceReader"]


_IDS = {
    "image_id": "SOPInstanceUID",
    "patient_id": "PatientID",
    "study_id": "StudyInstanceUID",
    "series_id": "SeriesInstanceUID",
}


class SliceReader(Protocol):
    """Reads files by their names relative to a folder; it is pickled into other processes."""

    @property
    def version(self) -> str:
        """Version of the pixels: when it changes, stored pixels are made again."""
        ...

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        """Return one header per slice of the file, without pixels; raise RejectedFile."""
        ...

    def read_ids(self, source_file: str) -> dict[str, str]:
        """Return the ids of a rejected file, None where unknown."""
        ...

    def read_pixels(self, source_file: str) -> DecodedImage:
        """Return the pixels of all slices of the file; raise RejectedFile."""
        ...


@dataclass(frozen=True)
class DicomReader:
    """Reads DICOM files below a folder, and in zip archives there (`a.zip!/b.dcm`).

    Args:
        folder: that names of files are relative to.
        sort_out: leave out slices that are not axial, not of a head or with contrast medium
            (`common.dicom.selection`).
        with_accession: read the hash of the AccessionNumber, too.
    """

    folder: Path
    sort_out: bool = False
    with_accession: bool = False

    @property
    def version(self) -> str:
        """Differ where other slices of a file are left out, too, or more of a header is read."""
        options = {"sorted out": self.sort_out, "accession": self.with_accession}
        return ", ".join(["dicom 3", *(name for name, is_on in options.items() if is_on)])

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        with open_source_file(self.folder, source_file) as file:
            try:
                return read_headers(
                    file, sort_out=self.sort_out, with_accession=self.with_accession
                )
            except RejectedFile as rejected:
                if rejected.status != "not_dicom":
                    raise
                explained = explain_not_dicom(self.folder, source_file, _start(file))
                raise explained or rejected from None

    def read_ids(self, source_file: str) -> dict[str, str]:
        """Return the ids that can still be read; a file with too few pixels has them all."""
        try:
            with open_source_file(self.folder, source_file) as file, open_dicom(file) as opened:
                found = {name: elements.text(opened.dataset, k) for name, k in _IDS.items()}
        except Exception:
            # The file is rejected already, for a reason of its own.
            return {}
        return {name: value for name, value in found.items() if value}

    def read_pixels(self, source_file: str) -> DecodedImage:
        with open_source_file(self.folder, source_file) as file:
            if isinstance(file, MemberStream):
                file.check()
            decoded = read_hu(file, with_headers=False)
        repaired = "wrapped 12-bit values were unwrapped" if decoded.num_repaired else ""
        note = "; ".join(filter(None, (decoded.note, repaired)))
        return replace(decoded, note=note)


def _start(file: Path | BinaryIO) -> bytes:
    """Return the first bytes of a file that could be read before."""
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            return opened.read(8)
    file.seek(0)
    return file.read(8)
