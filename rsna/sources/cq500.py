"""CQ500: 491 head CTs as DICOM, with three readers' findings for each scan.

Chilamkurthy et al., Lancet 2018 (qure.ai). One folder per patient beside `reads.csv`, as in
`CQ500CT0 CQ500CT0/Unknown Study/CT PLAIN THIN/CT000000.dcm`; what is above the patient's folder
(`qct01/`, `CQ500-CT-0/`) and blanks turned to underscores do not matter. `reads.csv` names a scan
`CQ500-CT-0` and has a column per reader and finding, such as `R1:ICH`. A patient has one scan.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from common.dicom import RejectedFile, SliceHeader
from common.dicom.kernels import is_sharp
from common.errors import InputError
from common.preparation import DicomReader, list_files, with_members
from common.preparation.label_tables import label_values, read_label_table
from common.words import count
from rsna.sources.base import AbstractSource, ends_in
from rsna_task import LABELS, SUBTYPES

logger = logging.getLogger(__name__)

READS_FILE = "reads.csv"
READERS = ("R1", "R2", "R3")
FINDINGS = {
    "epidural": "EDH",
    "intraparenchymal": "IPH",
    "intraventricular": "IVH",
    "subarachnoid": "SAH",
    "subdural": "SDH",
    "any": "ICH",
}
"""The column of `reads.csv` that holds each label, after the reader."""

_PATIENT = re.compile(r"CQ500[-_ ]?CT[-_ ]?(\d+)(?!\d)", re.IGNORECASE)

# Words in the name of a series that is not plain axial brain CT, and the status it gets. From a
# list of the 78 names in CQ500; names without such a word (`CT 5mm`) are plain.
_UNWANTED_NAMES = (
    ("not_head", r"\bhrct\b|chest|thorax|abdomen|neck|spine"),
    (
        "contrast",
        r"(?<!pre )(?<!non )(?<!without )contrast|\bpost\b(?! fossa)|\bcect\b|\bc\b|mmc\b"
        r"|\d ?cc\b|\biv\b|angio|\bcta\b",
    ),
    ("not_axial", r"\bcor(onal)?\b|\bsag(ittal)?\b"),
    ("derived", r"mpr\b|\b3d\b|\bmip\b"),
)
_AXIAL_BEYOND = np.sqrt(0.5)  # the least part of the normal that points to the head


class Cq500Source(AbstractSource):
    """The CQ500 folder: scans for external validation, labelled as a whole.

    `Cq500Reader` selects series. Where several of a scan are left (thin and thick), all are stored,
    and `common.slices.series` selects the one that represents the scan.
    """

    name: ClassVar[str] = "cq500"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not (self.folder / READS_FILE).is_file():
            raise InputError(f"--pre_folder {folder}: no {READS_FILE} there, the labels of CQ500")
        self._reads: pd.DataFrame | None = None

    @property
    def reader(self) -> "Cq500Reader":
        return Cq500Reader(self.folder)

    def files(self) -> pd.DataFrame:
        """Return all files but tables; log scans without files, and files without reads."""
        is_table = ends_in(".csv")
        # External validation: nothing is trained on scans that have no labels of slices.
        files = with_members(
            list_files(self.folder, "test", wanted=lambda name: not is_table(name)),
            self.folder,
        )
        named = files["source_file"].map(patient_in_path)
        found, read = set(named.dropna()), set(self.study_labels()["study_id"])
        unread = int((~named.isin(read) & named.notna()).sum())
        for number, noun, what in (
            (len(read - found), "scan", f"in {READS_FILE} without a file"),
            (len(found - read), "patient", f"with {unread} files not in {READS_FILE}: no labels"),
            (int(named.isna().sum()), "file", "in no folder of one CQ500 patient"),
            (_num_repeated(files["source_file"]), "patient", "with more than one folder"),
        ):
            if number:
                logger.warning("%s %s", count(number, noun), what)
        return files

    def study_labels(self) -> pd.DataFrame:
        """Return study_id and the labels that two of three readers agree on; raise InputError."""
        if self._reads is None:
            self._reads = read_majority(self.folder / READS_FILE)
        return self._reads

    def parameters(self) -> dict[str, Any]:
        return {"labels": f"majority of {', '.join(READERS)}"}


@dataclass(frozen=True)
class Cq500Reader(DicomReader):
    """Reads CQ500's files: patient and scan are named as in `reads.csv`, after the folder.

    Series whose name tells of contrast medium, of another part of the body, of a reformat or of a
    sharp kernel are rejected, and so are slices more than 45 degrees from axial.
    """

    version: str = "cq500 2"

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        headers = super().read_headers(source_file)
        patient = patient_in_path(source_file)
        if patient is None:
            raise RejectedFile("no_id", "no folder above it names one CQ500 patient")
        check_series_name(PurePosixPath(source_file).parent.name)
        for header in headers:
            if header.normal is not None and header.normal[2] < _AXIAL_BEYOND:
                raise RejectedFile("not_axial", "the slice is more than 45 degrees from axial")
        return [replace(header, patient_id=patient, study_id=patient) for header in headers]

    def read_ids(self, source_file: str) -> dict[str, str]:
        """Return the ids that can still be read, patient and scan after the folder alone."""
        ids = super().read_ids(source_file)
        patient = patient_in_path(source_file)
        for name in ("patient_id", "study_id"):
            ids.pop(name, None)
        return ids if patient is None else ids | {"patient_id": patient, "study_id": patient}


def patient_in_path(source_file: str) -> str | None:
    """Return the patient as `reads.csv` names it; None where the folders name none, or two."""
    numbers = {int(number) for number in _PATIENT.findall(str(PurePosixPath(source_file).parent))}
    return f"CQ500-CT-{numbers.pop()}" if len(numbers) == 1 else None


def check_series_name(name: str) -> None:
    """Raise RejectedFile where the name of a series shows that it is not plain axial brain CT."""
    words = re.sub(r"[\s_-]+", " ", name).lower()
    for status, pattern in _UNWANTED_NAMES:
        match = re.search(pattern, words)
        if match:
            raise RejectedFile(status, f'the name of the series has "{match.group().strip()}"')
    if is_sharp("", name):
        raise RejectedFile("sharp_kernel", "the name of the series is that of a sharp kernel")


def read_majority(path: Path) -> pd.DataFrame:
    """Return study_id and the labels of each scan in `reads.csv`: the majority of three readers.

    A label is NaN where reads are missing and the others do not decide it.

    Raises:
        InputError: missing columns, values other than 0 and 1, invalid names, or a scan that is
            listed twice with different reads.
    """
    table = read_label_table(path)
    columns = {label: [f"{reader}:{FINDINGS[label]}" for reader in READERS] for label in LABELS}
    wanted = ["name", *(name for names in columns.values() for name in names)]
    missing = [name for name in wanted if name not in table]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    names = table["name"].str.extract(_PATIENT.pattern, flags=re.IGNORECASE)[0]
    if names.isna().any():
        line = names.isna().idxmax()
        raise InputError(f"{path}: the name in line {line} is not one such as CQ500-CT-0")
    reads = label_values(table, wanted[1:], path)
    reads.insert(0, "study_id", "CQ500-CT-" + names.astype("int64").astype("str"))
    num_rows = len(reads)
    reads = reads.drop_duplicates()
    if len(reads) < num_rows:
        logger.warning("%s repeats %s: dropped", path.name, count(num_rows - len(reads), "scan"))
    if reads["study_id"].duplicated().any():
        again = int(reads["study_id"].duplicated().sum())
        raise InputError(f"{path} lists {count(again, 'scan')} twice with different reads")
    labels = _majority(reads, columns)
    unlike = int((labels[list(SUBTYPES)].max(axis=1) > labels["any"]).sum())
    if unlike:
        logger.warning(
            "%s: %s with a subtype, but no ICH, by majority", path.name, count(unlike, "scan")
        )
    return labels.reset_index(drop=True)


def _majority(reads: pd.DataFrame, columns: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return study_id and a label per entry of `columns`, float32."""
    labels = reads[["study_id"]].copy()
    for label, names in columns.items():
        yes, no = reads[names].eq(1).sum(axis=1), reads[names].eq(0).sum(axis=1)
        most = len(READERS) / 2
        labels[label] = np.select([yes > most, no > most], [1.0, 0.0], np.nan).astype("float32")
    return labels


def _num_repeated(source_files: pd.Series) -> int:
    """Return how many patients have their files below more than one folder of their own."""
    folders: dict[str, set[str]] = {}
    for parent in {str(PurePosixPath(name).parent) for name in source_files}:
        patient = patient_in_path(f"{parent}/x")
        if patient is not None:
            last = [match.end() for match in _PATIENT.finditer(parent)][-1]
            folders.setdefault(patient, set()).add(parent[:last])
    return sum(len(found) > 1 for found in folders.values())
