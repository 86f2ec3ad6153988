"""Label tables of users: csv files whose cells stay text, so that no id changes when it is read."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.tables import read_csv
from common.words import count

logger = logging.getLogger(__name__)

_READS = (0.0, 1.0)


def read_label_table(path: Path) -> pd.DataFrame:
    """Return a csv file with every cell as stripped text, numbered by the lines of the file.

    Rows without any value are skipped, and counted in the log.

    Raises:
        InputError: the file can't be read, is no csv with commas, or holds no row.
    """
    header = read_csv(path, nrows=0, dtype="str", encoding="utf-8-sig").columns
    if len(header) == 1 and {";", "\t"} & set(header[0]):
        raise InputError(
            f"{path}: commas have to separate its columns: save it as csv with commas, and with "
            f"points in numbers"
        )
    table = read_csv(
        path, dtype="str", keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
    ).fillna("")
    table.columns = table.columns.str.strip()
    table = table.apply(lambda column: column.str.strip())
    table.index += 2  # line 1 has the names of the columns
    is_blank = (table == "").all(axis=1)
    if is_blank.any():
        logger.warning("%s: %s skipped", path.name, count(int(is_blank.sum()), "blank row"))
    if is_blank.all():
        raise InputError(f"{path}: there is no row in it")
    return table[~is_blank]


def label_values(
    table: pd.DataFrame, columns: Sequence[str], path: Path, soft: bool = False
) -> pd.DataFrame:
    """Return columns of a label table as float32: 0, 1, or NaN where a cell is empty.

    Args:
        soft: take any number from 0 to 1, the share of raters that see it.

    Raises:
        InputError: another value; the message names its line.
    """
    found = {}
    for name in columns:
        values = pd.to_numeric(table[name].where(table[name] != ""), errors="coerce")
        allowed = values.between(0, 1) if soft else values.isin(_READS)
        wrong = table.loc[~allowed & (table[name] != ""), name]
        if len(wrong):
            rule = "a number from 0 to 1" if soft else "0, 1"
            raise InputError(
                f"{path}, line {wrong.index[0]}: {name} is {wrong.iloc[0]!r}, but a label is "
                f"{rule} or empty"
            )
        found[name] = values.astype("float32")
    return pd.DataFrame(found, index=table.index)


def whole_numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """Return a column of numbers as text without a decimal point: `12` for 12 and for 12.0.

    Raises:
        InputError: a cell is no whole number; the message names its line.
    """
    numbers = table[column].str.extract(r"^(\d+)(?:\.0*)?$", expand=False)
    if numbers.isna().any():
        raise InputError(
            f"{path}, line {numbers.isna().idxmax()}: {column} is not a whole number: correct it"
        )
    return numbers


def require_labels(
    headers: pd.DataFrame, labels: pd.DataFrame | None, study_labels: pd.DataFrame | None
) -> None:
    """Raise InputError where images or studies are labelled, and none of them has a file."""
    if labels is not None:
        require_match(labels["image_id"], headers["image_id"], "image")
    if study_labels is not None:
        require_match(study_labels["study_id"], headers["study_id"], "study")


def require_match(labelled: pd.Series, found: pd.Series, what: str) -> None:
    """Raise InputError where no labelled id is among those of the files, though both have some.

    Args:
        labelled, found: the ids; missing ones match nothing.
        what: they name, such as `image`.
    """
    known = found.dropna()
    if len(labelled) and len(known) and not labelled.isin(known).any():
        raise InputError(
            f"no label matches a file: none of {count(labelled.nunique(), f'labelled {what}')} is "
            f"among the {known.nunique()} of the files: use the label table of these files, with "
            f"the ids as they are in the files"
        )
