"""Tables on disk: parquet written in one step; parquet and csv read with one clear error.

Apart from `common.files`, which every command imports: pandas takes half of the time of `--help`.
"""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.files import replacing


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` to `path` as parquet, without its index."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_parquet(path: Path, advice: str, **options: Any) -> pd.DataFrame:
    """Return a parquet file as `pandas.read_parquet` reads it with `options`.

    Raises:
        InputError: the file can't be read; it ends with the advice.
    """
    try:
        return pd.read_parquet(path, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}): {advice}") from error


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Return a csv file of the user's as `pandas.read_csv` reads it with `options`.

    Raises:
        InputError: the file can't be read, or is no csv.
    """
    try:
        with warnings.catch_warnings():
            # Rows longer than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, index_col=False, **options)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not in UTF-8: save it as csv in UTF-8"
        elif isinstance(error, pd.errors.ParserWarning):
            reason = "a row has more values than the header; a comma at its end makes one, too"
        raise InputError(f"{path}: not a readable csv file ({reason})") from error
