"""A prepared dataset, opened to be looked at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.preparation.manifest import MANIFEST_FILE
from common.scoring.metrics import majority
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.table import STUDIES_FILE, SliceTable
from common.tables import read_parquet


@dataclass(frozen=True)
class ExploredDataset:
    """The tables of a dataset folder.

    Attributes:
        name: of the dataset folder.
        source: kind of the data it was made from; empty where the manifest does not tell.
        studies: content of studies.parquet; empty where there is none.
        folds: content of folds.csv, or None.
        overall: the one of them that is the union of the others, or None.
    """

    name: str
    source: str
    table: SliceTable
    studies: pd.DataFrame
    folds: pd.DataFrame | None
    label_names: Sequence[str]
    overall: str | None = None

    @classmethod
    def load(
        cls, folder: Path, label_names: Sequence[str], overall: str | None = None
    ) -> "ExploredDataset":
        """Return the dataset of a prepared folder; InputError where there is none.

        Labels that the dataset does not have are unknown everywhere; those that are shares of
        raters count by their majority.
        """
        folder = Path(folder)
        table = SliceTable.load(folder)
        studies = _read_studies(folder / STUDIES_FILE)
        for frame in (table.frame, studies):
            for name in label_names:
                if name not in frame:
                    frame[name] = pd.Series(float("nan"), index=frame.index, dtype="float32")
                frame[name] = majority(frame[name].astype("float32")).astype("float32")
        has_folds = (folder / FOLDS_FILE).is_file()
        return cls(
            name=folder.resolve().name,
            source=_source_of(folder / MANIFEST_FILE),
            table=table,
            studies=studies,
            folds=read_folds(folder / FOLDS_FILE) if has_folds else None,
            label_names=tuple(label_names),
            overall=overall,
        )

    @property
    def frame(self) -> pd.DataFrame:
        """The slices, one row each, with those that have no pixels."""
        return self.table.frame

    @property
    def subtypes(self) -> Sequence[str]:
        return [name for name in self.label_names if name != self.overall]


def _read_studies(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame({"study_id": [], "patient_id": [], "label_source": []}, dtype="str")
    return read_parquet(path, "run preprocessing.py again")


def _source_of(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("source", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} can't be read ({error}): run preprocessing.py again") from error
