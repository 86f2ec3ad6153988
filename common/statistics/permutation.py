"""Tests of many hypotheses at once whose false alarms have a known rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.scoring.metrics import Floats
from common.statistics.estimates import number_patients, sum_by_patient

_CHUNK = 100


@dataclass(frozen=True)
class Drift:
    """How two samples differ, column by column.

    Attributes:
        p_value: that no column differs: at or below 0.05 in one of 20 samples that are alike.
        p_values: (d,) of each column, corrected for their number (max-T); NaN where a sample has no
            known value.
        statistics: (d,) differences of mean ranks by their standard errors; above 0 where the new
            rows are larger.
    """

    p_value: float
    p_values: Floats
    statistics: Floats


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values (d,) corrected for their number, by Holm's step-down method.

    Source: Holm, Scandinavian Journal of Statistics 1979, 65-70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def permutation_test(
    reference: ArrayLike,
    new: ArrayLike,
    *,
    reference_patients: ArrayLike | None = None,
    new_patients: ArrayLike | None = None,
    num_permutations: int = 999,
    seed: int,
) -> Drift:
    """Return whether rows of a new sample differ from those of a reference, in any column.

    Rows of a patient are averaged first, as only patients can change places. The statistic of a
    column is the difference of mean ranks; that of all is the largest absolute one (Westfall and
    Young, Resampling-Based Multiple Testing, 1993). It is exact: its p-value is the share of the
    permutations, the sample itself among them, that have one as large.

    Args:
        reference: (n, d), NaN where unknown.
        new: (m, d).
        reference_patients, new_patients: (n,) and (m,); None where each row is a patient.
    """
    from scipy.stats import rankdata  # slow to import, and for tests alone

    samples = [_by_patient(reference, reference_patients), _by_patient(new, new_patients)]
    num_new, values = len(samples[1]), np.concatenate(samples)
    known = ~np.isnan(values)
    ranks = np.nan_to_num(rankdata(values, axis=0, nan_policy="omit"))
    counts = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks = np.where(known, ranks - ranks.sum(axis=0) / counts, 0.0)
        spread = np.sqrt(np.sum(ranks**2, axis=0) / (counts - 1))

    def statistics(is_new: Floats) -> Floats:
        """Return (b, d) of b samples (b, n + m)."""
        num = is_new @ known.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Ranks add up to 0, so that the mean of the others follows from the sum of the new.
            difference = (is_new @ ranks) * (1 / num + 1 / (counts - num))
            return np.asarray(difference / (spread * np.sqrt(1 / num + 1 / (counts - num))))

    rng = np.random.default_rng(seed)
    own = np.zeros((1, len(values)))
    own[0, len(values) - num_new :] = 1
    observed = statistics(own)[0]
    size = np.nan_to_num(np.abs(observed), nan=-np.inf)
    exceeding, largest_exceeding = np.zeros(len(size)), 0
    for start in range(0, num_permutations, _CHUNK):
        number = min(_CHUNK, num_permutations - start)
        drawn = rng.permuted(np.repeat(own, number, axis=0), axis=1)
        largest = np.nan_to_num(np.abs(statistics(drawn)), nan=-np.inf).max(axis=1)
        # Equal ones are equal, whatever order their sums are rounded in.
        exceeding += np.sum(largest[:, None] >= size * (1 - 1e-12), axis=0)
        largest_exceeding += int(np.sum(largest >= size.max() * (1 - 1e-12)))
    p_values = np.where(np.isnan(observed), np.nan, (1 + exceeding) / (1 + num_permutations))
    return Drift((1 + largest_exceeding) / (1 + num_permutations), p_values, observed)


def _by_patient(rows: ArrayLike, patient_ids: ArrayLike | None) -> Floats:
    """Return the means (patients, d) of what is known."""
    values = np.asarray(rows, dtype=np.float64)
    if patient_ids is None:
        return values
    codes, number = number_patients(patient_ids)
    known = ~np.isnan(values)
    sums = [sum_by_patient(column, codes, number) for column in np.where(known, values, 0.0).T]
    counts = [sum_by_patient(column, codes, number) for column in known.T]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=1) / np.stack(counts, axis=1)
