"""The threshold of a label by a rule, on studies other than those that it is scored on.

A study is called where its probability is at least the threshold. A threshold lies midway between
the last value that is called and the next below, so that the counts on the studies it was chosen on
are exactly those promised, and a later rounding of a value changes none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.scoring.metrics import Floats, require_probabilities
from common.statistics.estimates import number_patients

# Shares are compared within this, so that 0.57 of 100 is 57 and not 56.99999999999999.
_ROUNDING = 1e-12


class NoThreshold(Exception):
    """There is no threshold; the message says why."""


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Attributes:
        kind: `sensitivity`: the highest threshold with at least this sensitivity; `specificity`:
            the lowest with at least this specificity; `cost`: the one of lowest expected cost,
            the lowest of equal ones; `fixed`: the threshold itself.
        value: the share, the cost of a miss in false alarms, or the threshold.
        prevalence: of `cost`; by default that of the studies.

    Raises:
        InputError: the kind is unknown, or a value out of its range.
    """

    kind: str
    value: float
    prevalence: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in (*CHOOSERS, "fixed"):
            raise InputError(f"rule {self.kind}: not one of {', '.join((*CHOOSERS, 'fixed'))}")
        most = np.inf if self.kind == "cost" else 1.0
        if not 0 < self.value <= most or not np.isfinite(self.value):
            between = "a number above 0" if self.kind == "cost" else "above 0, at most 1"
            raise InputError(f"rule {self.kind}:{self.value:g}: must be {between}")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise InputError(f"prevalence {self.prevalence:g}: must be between 0 and 1")

    def __str__(self) -> str:
        at = "" if self.prevalence is None else f" at prevalence {self.prevalence:g}"
        return f"{self.kind}:{self.value:g}{at}"

    @classmethod
    def from_text(cls, text: str, prevalence: float | None = None) -> "Rule":
        """Return the rule that `kind:value` names, such as `sensitivity:0.95`.

        Raises:
            InputError: the text is no rule.
        """
        kind, _, value = text.partition(":")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"rule {text!r}: write kind:value, as sensitivity:0.95") from None
        return cls(kind.strip(), number, prevalence if kind.strip() == "cost" else None)


@dataclass(frozen=True)
class _Shares:
    """Sensitivity and specificity of each number of distinct values called, the highest first."""

    values: Floats
    sensitivity: Floats
    specificity: Floats
    prevalence: float


def _by_cost(shares: _Shares, rule: Rule) -> int:
    prevalence = shares.prevalence if rule.prevalence is None else rule.prevalence
    misses = rule.value * prevalence * (1 - shares.sensitivity)
    costs = misses + (1 - prevalence) * (1 - shares.specificity)
    return int(np.flatnonzero(costs <= costs.min() + _ROUNDING * max(1.0, rule.value))[-1])


CHOOSERS: dict[str, Callable[[_Shares, Rule], int]] = {
    "sensitivity": lambda s, rule: int(np.argmax(s.sensitivity >= rule.value - _ROUNDING)),
    "specificity": lambda s, rule: int(np.flatnonzero(s.specificity >= rule.value - _ROUNDING)[-1]),
    "cost": _by_cost,
}
"""A new rule is a function and a row."""


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, rule: Rule) -> float:
    """Return the threshold of labels (n,) of 0, 1 or NaN, which don't count, by probabilities (n,).

    Raises:
        NoThreshold: there is no positive or no negative study.
    """
    if rule.kind == "fixed":
        return rule.value
    y = np.asarray(labels, dtype=np.float64)
    p = require_probabilities(probabilities)[~np.isnan(y)]
    is_positive = y[~np.isnan(y)] == 1
    num_positive, num_negative = int(is_positive.sum()), int(np.sum(~is_positive))
    for number, noun in ((num_positive, "positive"), (num_negative, "negative")):
        if not number:
            raise NoThreshold(f"no {noun} study to choose a threshold by {rule}")
    values, place = np.unique(-p, return_inverse=True)
    found = np.cumsum(np.bincount(place, is_positive))
    alarms = np.cumsum(np.bincount(place, ~is_positive))
    shares = _Shares(
        -values,
        np.append(0.0, found / num_positive),
        np.append(1.0, 1 - alarms / num_negative),
        num_positive / len(p),
    )
    return _between(shares.values, CHOOSERS[rule.kind](shares, rule))


def cross_fitted_thresholds(
    labels: ArrayLike,
    probabilities: ArrayLike,
    folds: ArrayLike,
    patient_ids: ArrayLike,
    rule: Rule,
) -> tuple[dict[Any, float], NDArray[np.bool_]]:
    """Return the threshold of each fold, chosen on the other folds, and the calls (n,) by them.

    Raises:
        NoThreshold: there is none for a fold; the message names it.
        ValueError: there is one fold only, or a patient is in two.
    """
    p, y = np.asarray(probabilities), np.asarray(labels, dtype=np.float64)
    fold_of = np.asarray(folds)
    numbers, (codes, num_patients) = np.unique(fold_of), number_patients(patient_ids)
    if len(set(zip(codes.tolist(), fold_of.tolist()))) > num_patients:
        raise ValueError("a patient is in two folds: a threshold must be chosen on others")
    if len(numbers) < 2 and rule.kind != "fixed":
        raise ValueError("one fold only: there are no others to choose a threshold on")
    thresholds: dict[Any, float] = {}
    calls = np.zeros(len(p), dtype=bool)
    for fold in numbers.tolist():
        others = fold_of != fold
        try:
            thresholds[fold] = choose_threshold(y[others], p[others], rule)
        except NoThreshold as reason:
            raise NoThreshold(f"fold {fold}: {reason}") from None
        calls[~others] = p[~others] >= thresholds[fold]
    return thresholds, calls


def _between(falling: Floats, num_called: int) -> float:
    """Return a threshold that exactly the first of the distinct values reach."""
    called = falling[num_called - 1] if num_called else np.nextafter(max(1.0, falling[0]), 2.0)
    below = falling[num_called] if num_called < len(falling) else min(0.0, called)
    middle = float(below + (called - below) / 2)
    # Next to each other, two numbers have no middle.
    return middle if middle > below else float(called)
