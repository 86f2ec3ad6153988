"""Ticks that people made in the pages of a review, as the label files that --pre_labels takes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import write_text
from common.preparation.label_tables import label_values, read_label_table, whole_numbers
from common.scoring.metrics import majority
from common.slices.folds import is_pseudo
from common.slices.study_labels import LABELS_OF_STUDY, read_study_labels
from common.slices.table import SliceTable
from common.tables import read_csv
from common.words import count
from rsna_task import LABELS, SUBTYPES, task_of_labels

PAGES_FILE = "pages.csv"
LABEL_FILES = {"labels_slices.csv": "SOPInstanceUID", "labels_studies.csv": "StudyInstanceUID"}
COLUMNS = ("page", "study", "reader", "save", "slice")
"""Of the csv of a page, before the labels; `common/report/templates/ticks.js` writes it."""
OF_STUDY, NOTHING = "study", "none"
"""In the column slice: a row of the study as a whole, and that nothing is changed any more."""
_PLACE = ["page", "slice"]


def keep_pages(folder: Path, pages: Sequence[pd.DataFrame]) -> None:
    """Add the ids of slices to `PAGES_FILE`: page, slice (from 1), image_id, study_id."""
    path = folder / PAGES_FILE
    before = [read_csv(path, dtype="str")] if path.is_file() else []
    if before or pages:
        kept = pd.concat([*before, *pages]).drop_duplicates(_PLACE, keep="last")
        write_text(path, kept.to_csv(index=False))


def write_labels(table: SliceTable, folder: Path, given: str) -> Iterator[str]:
    """Write the labels of a dataset with the ticks of pages in their place; yield lines to print.

    Args:
        given: csv files of its pages, and folders of such, with commas between them.

    Raises:
        InputError: a file that is none of these pages', or two readers who contradict each other.
    """
    if not (folder / PAGES_FILE).is_file():
        raise InputError(
            f"{folder}: no review (no {PAGES_FILE}): first give the same flags without --rv_ticks"
        )
    pages = read_csv(folder / PAGES_FILE, dtype="str")
    ticks = read_ticks(_paths(given), pages)
    own = table.frame[table.frame["image_id"].notna() & ~is_pseudo(table.frame)]
    known = own.drop_duplicates("image_id").set_index("image_id")[list(LABELS)]
    studies = read_study_labels(table, LABELS, (LABELS_OF_STUDY,))
    studies = known.iloc[:0] if studies is None else studies
    parts = (ticks[~ticks["is_study"]], ticks[ticks["is_study"]])
    found = zip(LABEL_FILES.items(), (known, studies), parts)
    written = []
    for (name, column), before, changes in found:
        labels, num_changed = with_ticks(before, changes)
        (folder / name).unlink(missing_ok=True)
        if len(labels):
            write_text(folder / name, labels.rename_axis(column).to_csv())
            written.append(str(folder / name))
            rows = f"{count(len(labels), 'row')}, {len(changes)} of them ticked"
            yield f"{name}: {rows}, {count(num_changed, 'label')} changed"
    if not written:
        raise InputError(f"--rv_ticks {given}: nothing is ticked, and nothing was labelled before")
    yield (
        f"prepare the DICOM files anew with them: --pre_source dicom --pre_folder <folder> "
        f"--pre_labels {','.join(written)}"
    )


def read_ticks(paths: Sequence[Path], pages: pd.DataFrame) -> pd.DataFrame:
    """Return what the last saves of all readers say, one row for each slice or study.

    Args:
        pages: ids of all that may be ticked.

    Returns:
        By the id of the slice or study: is_study, and the labels.

    Raises:
        InputError: see `write_labels`.
    """
    tables = [_read(path, pages) for path in paths]
    if any(set(table) != set(tables[0]) for table in tables):
        raise InputError(
            "--rv_ticks: files of any alone and of all labels: give one kind at a time"
        )
    ticks = pd.concat(tables, ignore_index=True)
    newest = ticks.groupby("reader")["save"].transform("max")
    ticks = ticks[ticks["save"].eq(newest) & ticks["slice"].ne(NOTHING)]
    is_study = ticks["slice"].eq(OF_STUDY)
    images = pages.set_index(_PLACE)["image_id"].reindex(pd.MultiIndex.from_frame(ticks[_PLACE]))
    studies = ticks["page"].map(pages.drop_duplicates("page").set_index("page")["study_id"])
    ticks = ticks.assign(id=studies.where(is_study, images.to_numpy()), is_study=is_study)
    names = [name for name in LABELS if name in ticks]
    ticks = ticks.drop_duplicates(["id", "is_study", *names])
    again = ticks[ticks.duplicated(["id", "is_study"], keep=False)]
    if len(again):
        first = again.iloc[0]
        files = again.loc[again["id"].eq(first["id"]), "file"].unique()
        raise InputError(
            f"--rv_ticks: {' and '.join(files)} contradict each other in study {first['study']}, "
            f"slice {first['slice']}: agree on one, and leave the other file out"
        )
    return ticks.set_index("id")[["is_study", *names]]


def with_ticks(known: pd.DataFrame, ticks: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return labels (`LABELS`) by id with those of ticks in their place, and how many changed.

    A label that is ticked as its majority says stays as it is: the share of raters is not lost. A
    tick of any alone changes the others as far as they contradict it.
    """
    ids = known.index.union(ticks.index, sort=False)
    known = known.reindex(ids).astype("float32")
    before = known.loc[ticks.index]
    hard = pd.DataFrame(majority(before), before.index, before.columns)
    wanted = ticks.reindex(columns=list(LABELS)).astype("float32")
    if set(SUBTYPES).isdisjoint(ticks):
        own, union = hard[list(SUBTYPES)].to_numpy(), wanted[["any"]].to_numpy()
        open_own = np.where((own == 0).all(axis=1, keepdims=True), np.nan, own)
        wanted[list(SUBTYPES)] = np.where(union == 1, open_own, union)
    is_same = hard.eq(wanted) | (hard.isna() & wanted.isna())
    known.loc[ticks.index] = before.where(is_same, wanted)
    return known.dropna(how="all"), int((~is_same).to_numpy().sum())


def _read(path: Path, pages: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one csv: `COLUMNS`, the labels, and `file`, its name."""
    table = read_label_table(path)
    if not set(COLUMNS) <= set(table):
        missing = ", ".join(name for name in COLUMNS if name not in table)
        raise InputError(f"{path}: not saved by a page of a review (no {missing}): leave it out")
    names = task_of_labels([str(name) for name in table if name not in COLUMNS], str(path))
    rows = table[list(COLUMNS)].join(label_values(table, names.label_names, path))
    rows["save"] = whole_numbers(table, "save", path).astype("int64")
    is_place = pd.MultiIndex.from_frame(rows[_PLACE]).isin(pd.MultiIndex.from_frame(pages[_PLACE]))
    is_whole = rows["slice"].isin([OF_STUDY, NOTHING]) & rows["page"].isin(pages["page"])
    strange = ~(is_whole | is_place)
    if strange.any():
        raise InputError(
            f"{path}, line {strange.idxmax()}: no such page or slice in this review: give the "
            f"flags that its pages were written with"
        )
    return rows.assign(file=path.name)


def _paths(given: str) -> list[Path]:
    """Return the files of --rv_ticks; of a folder those that are named as pages name them."""
    parts = [Path(part.strip()) for part in given.split(",")]
    found = [sorted(part.glob("ticks_*.csv")) if part.is_dir() else [part] for part in parts]
    for part, files in zip(parts, found):
        if not files:
            raise InputError(f"--rv_ticks {part}: no ticks_*.csv in this folder")
    return [path for files in found for path in files]
