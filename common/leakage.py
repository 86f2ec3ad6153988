"""Checks that nothing is scored on what it was fitted on."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from common.errors import InputError


def require_fitted_elsewhere(fitted_ids: ArrayLike, scored_ids: ArrayLike) -> None:
    """Raises InputError where calibrators or weights would be scored on what they were fitted on.

    Args:
        fitted_ids: patients (or digests of studies) of the rows that were fitted on.
        scored_ids: those of the rows to score; missing ones are like no other.
    """
    fitted, scored = (pd.Index(np.asarray(ids, dtype=object)).dropna() for ids in
                      (fitted_ids, scored_ids))  # fmt: skip
    num_shared = len(fitted.unique().intersection(scored.unique()))
    if num_shared:
        raise InputError(
            f"{num_shared} patients or studies that weights or calibrators were fitted on would "
            f"be scored on: make the folds by patient, or score on other data"
        )
