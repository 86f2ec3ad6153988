"""The area under the ROC curve over patients: DeLong's deviations, and a score interval."""

import numpy as np
from scipy.special import ndtri

from common.scoring.metrics import Floats
from common.statistics.estimates import (
    LEAST_PATIENTS,
    Codes,
    Influence,
    Interval,
    kish_size,
    sum_by_patient,
    t_quantile,
)


def area_influence(labels: Floats, probabilities: Floats, codes: Codes) -> Influence:
    """Return the AUC (Mann-Whitney, ties count half) and DeLong's deviations, by patient.

    Labels (n,) are 0, 1 or NaN, probabilities and codes (the number of the patient) are (n,).

    Raises:
        NoInterval: there are fewer than two positive or two negative patients.
    """
    num_patients = int(codes.max()) + 1 if len(codes) else 0
    is_positive, is_negative = both = labels == 1, labels == 0
    rows = np.stack([sum_by_patient(chosen, codes, num_patients) for chosen in both])
    num_positive, num_negative = np.sum(rows > 0, axis=1).tolist()
    empty = Influence(np.nan, np.zeros_like(rows), rows, num_positive, num_negative)
    empty.require_patients(LEAST_PATIENTS)
    won = _share_below(probabilities[is_positive], probabilities[is_negative])
    lost = 1 - _share_below(probabilities[is_negative], probabilities[is_positive])
    area = float(won.mean())
    parts = [
        sum_by_patient(deviations - area, codes[chosen], num_patients) / len(deviations)
        for deviations, chosen in ((won, is_positive), (lost, is_negative))
    ]
    return Influence(area, np.stack(parts), rows, num_positive, num_negative)


def area_interval(influence: Influence, level: float) -> Interval:
    """Return a score interval of an AUC.

    It holds every area A that is no further from the estimate than the larger of two distances: t
    times DeLong's standard error over patients, and z times the error which an area A has by Hanley
    and McNeil with as many patients as weigh like those seen (Kish). The first one alone is too
    small where all positive patients seen happen to rank high.

    Sources: Obuchowski, Biometrics 1997, 567-578; Newcombe, Statistics in Medicine 2006, 559-573,
    method 5; Kish, Survey Sampling, 1965, 8.2.
    """
    rarer = min(influence.num_positive, influence.num_negative)
    distance = float(t_quantile(rarer - 1, level) * np.sqrt(influence.variance))
    sizes = kish_size(influence.rows[0]), kish_size(influence.rows[1])
    low = _lowest_area(influence.value, distance, sizes, level)
    return [low, 1 - _lowest_area(1 - influence.value, distance, sizes, level)]


def _share_below(values: Floats, others: Floats) -> Floats:
    """Return for each value the share of `others` below it, those equal to it counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    return (below + np.searchsorted(ordered, values, side="right")) / (2 * len(others))


def _lowest_area(area: float, distance: float, sizes: tuple[float, float], level: float) -> float:
    """Return the least A within `distance` of `area`, or within z times the error that A has."""
    from scipy.optimize import brentq  # slow to import, and for intervals alone

    num_positive, num_negative = sizes
    others = (num_positive + num_negative) / 2 - 1
    z = float(ndtri((1 + level) / 2))

    def excess(a: float) -> float:
        alike = 1 + others * ((1 - a) / (2 - a) + a / (1 + a))
        variance = a * (1 - a) * alike / (num_positive * num_negative)
        return (area - a) ** 2 - max(distance**2, z**2 * variance)

    # At 1 the model has no variance, so that nothing would be left to look for.
    return float(brentq(excess, 0.0, min(area, 1 - 1e-9))) if excess(0.0) > 0 else 0.0
