"""A label file for any tree of DICOM files: ids of its slices or studies, and their labels."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.dicom.header import hash_of
from common.errors import InputError
from common.preparation.label_tables import label_values, read_label_table, require_match
from common.slices.folds import TEST_SPLIT, TRAIN_SPLIT
from common.slices.table import STATUS_OK
from common.words import count

logger = logging.getLogger(__name__)

# Column of the header table -> names of a column with its ids, without case, spaces and
# punctuation. Where a file has several, the first one here is used.
ID_COLUMNS = {
    "image_id": ("sopinstanceuid", "imageid", "sopuid"),
    "study_id": ("studyinstanceuid", "studyid", "studyuid"),
    "accession_hash": ("accessionnumber", "accession"),
    "patient_id": ("patientid", "patient", "pseudonym"),
}
ACCESSION = "accession_hash"
_SOURCE_NAMES = ("source", "hospital")
_NAMES = ("image_id", "study_id", "source_file")


@dataclass(frozen=True)
class LabelFile:
    """The content of a label file, a row for each id.

    Attributes:
        key: what the ids are, a key of `ID_COLUMNS`.
        labels: id (text; of an AccessionNumber the hash), the labels (float32, NaN where unknown),
            and `source` (null where unknown).
    """

    key: str
    labels: pd.DataFrame

    @classmethod
    def read(cls, path: Path, subtypes: Sequence[str], union: str) -> "LabelFile":
        """Return the content of a csv file.

        A file without a column for `union` has it from the subtypes, where they decide it.

        Raises:
            InputError: no id column or no label, an empty id, a value that is neither empty nor a
                number from 0 to 1, or an id that is listed again with something else.
        """
        table = read_label_table(path)
        names = {re.sub(r"[^a-z0-9]", "", str(name).lower()): str(name) for name in table}
        columns = [str(name) for name in table]
        # A second `any` is read as `any.1`.
        twice = [name for name in columns if name.rpartition(".")[0] in columns]
        twice += [name for name in columns if name not in names.values()]
        if twice:
            name = twice[0].rpartition(".")[0] or twice[0]
            raise InputError(f"{path}: the column {name} is there twice: remove one")
        key, column = _id_column(names, path)
        present = [name for name in (*subtypes, union) if name in names]
        if not present:
            known = ", ".join((*subtypes, union))
            raise InputError(f"{path}: no column is a label: name at least one of {known}")
        ids = table[column]
        if ids.eq("").any():
            raise InputError(f"{path}, line {ids.eq('').idxmax()}: {column} is empty")
        labels = label_values(table, [names[name] for name in present], path, soft=True)
        labels = labels.set_axis(present, axis=1).reindex(columns=[*subtypes, union])
        if union not in present:
            labels[union] = union_of(labels[list(subtypes)])
            logger.info("%s has no column %s: it is the largest of the others", path.name, union)
        below = labels[union] < labels[list(subtypes)].max(axis=1)
        if below.any():
            logger.warning(
                "%s: %s with %s below another label, the first in line %d: taken as they are",
                path.name,
                count(int(below.sum()), "row"),
                union,
                below.idxmax(),
            )
        labels.insert(0, "id", ids.map(hash_of) if key == ACCESSION else ids)
        source = next((names[name] for name in _SOURCE_NAMES if name in names), None)
        ignored = set(names.values()) - {column, source, *(names[name] for name in present)}
        if ignored:
            logger.warning(
                "%s: columns that are not used: %s", path.name, ", ".join(sorted(ignored))
            )
        labels["source"] = None if source is None else table[source].where(table[source] != "")
        unique = labels.drop_duplicates()
        if len(unique) < len(labels):
            num = len(labels) - len(unique)
            logger.info("%s repeats %s: dropped", path.name, count(num, "row"))
        again = unique["id"].duplicated()
        if again.any():
            raise InputError(
                f"{path}, line {again.idxmax()}: its {column} stands in an earlier line with "
                f"something else: remove the wrong one"
            )
        return cls(key, unique.reset_index(drop=True))

    @property
    def is_of_slices(self) -> bool:
        """Whether slices are labelled, not studies."""
        return self.key == "image_id"

    def match(self, headers: pd.DataFrame) -> "MatchedLabels":
        """Return the labels of the slices or studies of a header table, and log what has none.

        Raises:
            InputError: no id of the file is among those of the headers.
        """
        ids, what = headers[self.key], self.key.removesuffix("_id").removesuffix("_hash")
        require_match(self.labels["id"], ids, what)
        num_absent = int((~self.labels["id"].isin(ids)).sum())
        num_without = int((headers["status"].eq(STATUS_OK) & ~ids.isin(self.labels["id"])).sum())
        for number, noun, where in (
            (num_absent, "row", "of the label file without a file"),
            (num_without, "slice", "without a row in the label file"),
        ):
            if number:
                logger.warning("%s %s", count(number, noun), where)
        rows = pd.DataFrame({"id": ids, **{name: headers[name] for name in _NAMES}})
        rows = rows.dropna(subset=["id", "image_id"]).merge(self.labels, on="id")
        names = list(self.labels.columns.drop(["id", "source"]))
        sources = rows.set_index("image_id")["source"].dropna()
        if self.is_of_slices:
            return MatchedLabels(rows[["image_id", *names]], None, sources)
        return MatchedLabels(None, _of_studies(rows, names), sources)


@dataclass(frozen=True)
class LabelFiles:
    """A label file of slices and one of studies, used as one."""

    of_slices: LabelFile
    of_studies: LabelFile

    @classmethod
    def of(cls, files: Sequence[LabelFile]) -> "LabelFile | LabelFiles | None":
        """Return the files as one; InputError where they label slices twice, or studies twice."""
        if len(files) < 2:
            return files[0] if files else None
        kinds = {file.is_of_slices: file for file in files}
        if len(files) != len(kinds):
            raise InputError(
                "--pre_labels: several files of one kind: give one of slices (SOPInstanceUID) and "
                "one of studies"
            )
        return cls(kinds[True], kinds[False])

    @property
    def key(self) -> str:
        """The kinds of the ids, of both."""
        return f"{self.of_slices.key} and {self.of_studies.key}"

    def match(self, headers: pd.DataFrame) -> "MatchedLabels":
        """Return the labels of both; see `LabelFile.match`."""
        slices, studies = self.of_slices.match(headers), self.of_studies.match(headers)
        sources = pd.concat([slices.sources, studies.sources])
        sources = sources[~sources.index.duplicated()]
        return MatchedLabels(slices.of_slices, studies.of_studies, sources)


@dataclass(frozen=True)
class MatchedLabels:
    """The labels of label files by the ids of a dataset.

    Attributes:
        of_slices: image_id and labels; None where no slices are labelled.
        of_studies: study_id and labels; None where no studies are labelled.
        sources: the hospital by image_id, where the file names it.
    """

    of_slices: pd.DataFrame | None
    of_studies: pd.DataFrame | None
    sources: pd.Series

    def splits(self, headers: pd.DataFrame, splits: pd.Series) -> pd.Series:
        """Return the split by source_file, changed where files are labelled.

        Files with labelled slices are trained on (`train`); others of labelled studies are
        evaluated on (`test`).
        """
        splits = with_split(splits, headers, self.of_studies, "study_id", TEST_SPLIT)
        return with_split(splits, headers, self.of_slices, "image_id", TRAIN_SPLIT)


def with_split(
    splits: pd.Series, headers: pd.DataFrame, labels: pd.DataFrame | None, key: str, split: str
) -> pd.Series:
    """Return the split by source_file, changed for the files with a known label.

    Args:
        labels: `key`, the id, and labels; None for none.
    """
    if labels is None:
        return splits
    known = labels.loc[labels.drop(columns=key).notna().any(axis=1), key]
    files = headers.loc[headers[key].isin(known), "source_file"]
    return splits.mask(splits.index.isin(files), split)


def _id_column(names: dict[str, str], path: Path) -> tuple[str, str]:
    """Return the key of `ID_COLUMNS` and the name of the column that holds the ids."""
    for key, known in ID_COLUMNS.items():
        found = [names[name] for name in known if name in names]
        if found:
            return key, found[0]
    raise InputError(
        f"{path}: no column of ids: name one SOPInstanceUID, StudyInstanceUID, AccessionNumber or "
        f"PatientID; it has {', '.join(names.values())}"
    )


def union_of(labels: pd.DataFrame) -> pd.Series:
    """Return the largest, unknown where a label is, unless another is 1; float32."""
    largest = labels.max(axis=1)
    return largest.mask(labels.isna().any(axis=1) & (largest != 1)).astype("float32")


def _of_studies(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return study_id and labels; InputError where a study has several rows that differ."""
    studies = rows[["study_id", *names]].dropna(subset="study_id").drop_duplicates()
    again = int(studies["study_id"].duplicated().sum())
    if again:
        raise InputError(f"the label file contradicts itself in {count(again, 'study')}")
    num_shared = int((rows.groupby("id")["study_id"].nunique() > 1).sum())
    if num_shared:
        logger.warning("%s of the label file for several studies each", count(num_shared, "row"))
    return studies
