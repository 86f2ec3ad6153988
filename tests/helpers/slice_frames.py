"""Slice tables for tests."""

import pandas as pd

from common.slices.table import SLICE_COLUMNS


def slice_frame(**columns: object) -> pd.DataFrame:
    """A table with the given columns; the others are empty."""
    frame = pd.DataFrame(columns)
    for name, dtype in SLICE_COLUMNS.items():
        if name not in frame:
            frame[name] = False if dtype == "bool" else None
        frame[name] = frame[name].astype(dtype)
    return frame
