"""Groups of studies, each compared with all other studies, corrected for their number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr

from common.scoring.metrics import Floats
from common.statistics.areas import area_influence, area_interval
from common.statistics.decisions import Studies
from common.statistics.estimates import (
    LEVEL,
    Difference,
    Estimate,
    Interval,
    NoInterval,
    number_patients,
)
from common.statistics.permutation import holm
from common.statistics.rates import Rate, rate, weighted_sum, wilson_interval
from common.statistics.scores import score

LEAST_STUDIES = 10
MOST_GROUPS = 12
OTHERS, UNKNOWN = "others", "unknown"
# Higher is better for each. Losses are not compared, as they depend on the share of positives.
COMPARED = ("auc", "sensitivity", "specificity")
_SCORES = ("log_loss", "calibration_in_the_large", "calibration_slope")
# Nearer to 0 an area of 1 has no limits that could be found; there a p-value is 1.
_SMALLEST_Z, _LARGEST_Z = 0.05, 7.0


@dataclass(frozen=True)
class Grouping:
    """One way to part studies.

    Attributes:
        groups: by name (s,) 1 in the group, 0 not, NaN left out of its comparison.
        of_positives: true where only positive studies have a group: it is compared with the other
            positive ones, each beside all negative ones.
    """

    groups: Mapping[str, Floats]
    of_positives: bool = False


@dataclass(frozen=True)
class Group:
    """The scores of a group.

    Attributes:
        num_studies, num_positive, num_patients: of the group, with the negative studies of all
            where only positive ones have a group.
        estimates: by the names of scores and rates.
        differences: by those of COMPARED, from all other studies.
    """

    num_studies: int
    num_positive: int
    num_patients: int
    estimates: dict[str, Estimate]
    differences: dict[str, Difference] = field(default_factory=dict)


def part(values: pd.Series, counted: ArrayLike | None = None) -> dict[str, Floats]:
    """Return the groups of `Grouping` for values (s,), in the order of their categories, if any.

    Values of fewer than LEAST_STUDIES studies, and those beyond the MOST_GROUPS most frequent, are
    `others`; missing values are `unknown`.

    Args:
        counted: (s,) bool, the studies that count; by default all.
    """
    of = np.ones(len(values), dtype=bool) if counted is None else np.asarray(counted, dtype=bool)
    numbers = values[of].value_counts()
    kept = numbers[numbers >= LEAST_STUDIES].head(MOST_GROUPS).index
    if isinstance(values.dtype, pd.CategoricalDtype):
        kept = pd.Index([name for name in values.cat.categories if name in kept])
    is_known = values.notna().to_numpy(dtype=bool)
    masks = {str(name): values.eq(name).fillna(False).to_numpy(dtype=bool) for name in kept}
    merged = is_known & ~values.isin(kept).to_numpy(dtype=bool)
    masks[OTHERS] = merged | masks.get(OTHERS, np.zeros(len(values), dtype=bool))
    # A header may say so itself.
    masks[UNKNOWN] = ~is_known | masks.get(UNKNOWN, np.zeros(len(values), dtype=bool))
    return {name: (mask & of) * 1.0 for name, mask in masks.items() if (mask & of).any()}


def compare_groups(
    studies: Studies, groupings: Mapping[str, Grouping]
) -> dict[str, dict[str, Group]]:
    """Return every group by the names of its grouping and its own.

    Intervals are each at LEVEL; those of differences are by MOVER, which takes group and others for
    independent and so is cautious where they share patients, or negative studies. A p-value is 1
    minus the level of the interval that ends at 0. Holm's correction is for all of them together.
    """
    is_negative = studies.labels == 0
    found: dict[str, dict[str, Group]] = {}
    for title, grouping in groupings.items():
        found[title] = {}
        for name, member in grouping.groups.items():
            inside, outside = member == 1, member == 0
            if grouping.of_positives:
                inside, outside = inside | is_negative, (outside & ~is_negative) | is_negative
            own, others = studies.of(inside), studies.of(outside)
            found[title][name] = _group(own, others, grouping.of_positives)
    return _corrected(found)


def worst_group(found: Mapping[str, Mapping[str, Group]]) -> tuple[str, str, str] | None:
    """Return grouping, group and value of the surest difference for the worse; None without any.

    Merged rests and what is unknown are no group that could be named.
    """
    worse = [
        (difference.p_value, place)
        for place, difference in _compared(found).items()
        if place[1] not in (OTHERS, UNKNOWN) and (difference.value or 0.0) < 0
    ]
    return min(worse)[1] if worse else None


def num_compared(found: Mapping[str, Mapping[str, Group]]) -> int:
    """Return how many p-values there are."""
    return len(_compared(found))


def _compared(
    found: Mapping[str, Mapping[str, Group]],
) -> dict[tuple[str, str, str], Difference]:
    """Return the differences with a p-value by grouping, group and value."""
    return {
        (title, name, value): difference
        for title, groups in found.items()
        for name, group in groups.items()
        for value, difference in group.differences.items()
        if difference.p_value is not None
    }


@dataclass(frozen=True)
class _Value:
    """An estimate, and its limits at any level where it has an interval."""

    estimate: Estimate
    limits: Callable[[float], Interval] = field(repr=False)

    def at(self, level: float) -> Estimate:
        """Return the estimate with limits at a level."""
        if self.estimate.low is None:
            return self.estimate
        low, high = self.limits(level)
        return Estimate(self.estimate.value, low, high)


def _group(own: Studies, others: Studies, of_positives: bool) -> Group:
    values, of_others = _values(own), _values(others)
    if of_positives:
        values.pop("specificity", None)
    estimates = {name: value.estimate for name, value in values.items()}
    if not of_positives:
        of = (own.labels, own.probabilities, own.patient_ids)
        estimates |= {name: score(name, *of) for name in _SCORES}
    return Group(
        len(own.labels),
        int(own.labels.sum()),
        len(set(own.patient_ids.tolist())),
        estimates,
        {name: _difference(value, of_others[name]) for name, value in values.items()},
    )


def _values(studies: Studies) -> dict[str, _Value]:
    """Return the values of COMPARED, without rates where there are no calls."""
    found, whole = {"auc": _area(studies)}, studies.counted
    if whole.calls is None:
        return found
    for name, value, noun in (("sensitivity", 1, "positive"), ("specificity", 0, "negative")):
        of = ~np.isnan(whole.calls) & (whole.labels == value)
        share = rate(whole.calls[of] == value, whole.patient_ids[of], noun=f"{noun} study")
        found[name] = _Value(share, partial(_wilson, share))
    return found


def _area(studies: Studies) -> _Value:
    codes, _ = number_patients(studies.patient_ids)
    try:
        influence = area_influence(studies.labels, studies.probabilities, codes)
    except NoInterval as reason:
        return _Value(Estimate(None, reason=str(reason)), lambda level: [])
    limits = partial(area_interval, influence)
    low, high = limits(LEVEL)
    return _Value(Estimate(influence.value, low, high), limits)


def _wilson(share: Rate, level: float) -> Interval:
    assert share.value is not None
    return wilson_interval(share.value, share.num_effective, level)


def _difference(own: _Value, others: _Value) -> Difference:
    def at(level: float) -> Estimate:
        return weighted_sum(((1.0, own.at(level)), (-1.0, others.at(level))))

    found = at(LEVEL)
    if found.value is None:
        return Difference(None, reason=found.reason)
    return Difference(found.value, found.low, found.high, None, _p_value(at, found.value))


def _p_value(at: Callable[[float], Estimate], value: float) -> float:
    """Return 1 minus the level at which the interval of a difference ends at 0."""

    def distance(z: float) -> float:
        _, low, high = at(float(2 * ndtr(z) - 1)).limits()
        return low if value > 0 else -high

    if distance(_SMALLEST_Z) <= 0:
        return 1.0
    z = (
        _LARGEST_Z
        if distance(_LARGEST_Z) > 0
        else brentq(distance, _SMALLEST_Z, _LARGEST_Z, xtol=1e-6)
    )
    return float(2 * ndtr(-z))


def _corrected(found: dict[str, dict[str, Group]]) -> dict[str, dict[str, Group]]:
    compared = _compared(found)
    adjusted = holm([difference.p_value or 0.0 for difference in compared.values()])
    for (title, name, value), p_value in zip(compared, adjusted.tolist()):
        own = found[title][name].differences
        own[value] = replace(own[value], adjusted_p_value=p_value)
    return found
