"""Slice tables for tests."""

import functools

import pandas as pd

from common.slices.table import SLICE_COLUMNS


def slice_frame(**columns: object) -> pd.DataFrame:
    """A table with the given columns; the others are empty."""
    given = pd.DataFrame(columns)
    typed = {name: kind for name, kind in SLICE_COLUMNS.items() if name in given}
    typed = {name: kind for name, kind in typed.items() if given[name].dtype != kind}
    others = _empty_row().drop(columns=list(given), errors="ignore")
    others = others.iloc[[0] * len(given)].set_axis(given.index)
    return pd.concat([given.astype(typed), others], axis=1)


@functools.cache
def _empty_row() -> pd.DataFrame:
    """A row without values: setting the types of its columns is slow."""
    values = {name: False if kind == "bool" else None for name, kind in SLICE_COLUMNS.items()}
    return pd.DataFrame({n: pd.Series(values[n], [0], SLICE_COLUMNS[n]) for n in values})
