"""Slice tables for tests."""

import pandas as pd

from common.slices.table import SLICE_COLUMNS


def slice_frame(**columns: object) -> pd.DataFrame:
    """A table with the given columns; the others are empty."""
    given = pd.DataFrame(columns)
    values = {name: False if dtype == "bool" else None for name, dtype in SLICE_COLUMNS.items()}
    others = [
        pd.Series(values[name], given.index, SLICE_COLUMNS[name], name=name)
        for name in values
        if name not in given
    ]
    typed = {name: dtype for name, dtype in SLICE_COLUMNS.items() if name in given}
    return pd.concat([given.astype(typed), *others], axis=1)
