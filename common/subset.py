"""A fixed subset of studies to validate on."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def draw_studies(
    study_ids: ArrayLike, labels: ArrayLike, num_studies: int, seed: int
) -> NDArray[np.bool_]:
    """Returns which rows belong to the subset: whole studies, drawn from the seed.

    First each label gets a positive study, the rarest label first, if any study has one; then
    studies with and without a positive are drawn in their shares of the whole. The result depends
    on the rows, not on their order.

    Args:
        study_ids: (n,).
        labels: (n, k) 0, 1 or NaN where unknown, which counts as absent.
        num_studies: size of the subset; all rows are in it where there are no more studies.
        seed: of the draw.
    """
    names: NDArray[np.str_] = np.asarray(study_ids).astype(str)
    studies, codes = np.unique(names, return_inverse=True)
    if len(studies) <= num_studies:
        return np.ones(len(names), dtype=bool)
    y = np.nan_to_num(np.asarray(labels, dtype=np.float64), nan=0.0)
    positive = np.zeros((len(studies), y.shape[1]), dtype=bool)
    np.logical_or.at(positive, codes, y == 1)
    order = np.random.default_rng(seed).permutation(len(studies))
    chosen: list[int] = []
    counts = positive.sum(axis=0)
    for column in np.argsort(counts, kind="stable"):
        if len(chosen) < num_studies and counts[column] and not positive[chosen, column].any():
            chosen.append(next(int(study) for study in order if positive[study, column]))
    has_any = [bool(row.any()) for row in positive]
    wanted = round(num_studies * float(np.mean(has_any)))
    for side, size in ((True, wanted), (False, num_studies - wanted)):
        left = [int(s) for s in order if has_any[s] == side and int(s) not in chosen]
        missing = size - sum(has_any[s] == side for s in chosen)
        chosen += left[: max(0, min(missing, num_studies - len(chosen)))]
    left = [int(study) for study in order if int(study) not in chosen]
    chosen += left[: num_studies - len(chosen)]
    return np.isin(codes, chosen)
