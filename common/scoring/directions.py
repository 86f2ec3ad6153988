"""The names of metrics, and whether a smaller or a greater value is better.

It imports no numpy and no pandas: every `--help` lists these names.
"""

import math
from collections.abc import Sequence
from typing import Literal

from common.errors import InputError

Direction = Literal["min", "max"]

# By the name before the first dot: `auc.subdural` is an `auc`, and so is `study_auc.subdural`.
OF_STUDIES = "study_"
DIRECTIONS: dict[str, Direction] = {
    "loss": "min",
    "weighted_log_loss": "min",
    "log_loss": "min",
    "ece": "min",
    "auc": "max",
    "average_precision": "max",
    "precision": "max",
    "recall": "max",
    "f1": "max",
    "accuracy": "max",
    "specificity": "max",
}


def direction_of(metric: str) -> Direction:
    """Return whether a smaller (`min`) or a greater (`max`) value of a metric is better.

    Raises:
        InputError: the table does not have the metric.
    """
    family = metric.split(".")[0].removeprefix(OF_STUDIES)
    if family not in DIRECTIONS:
        raise InputError(
            f"metric {metric}: which way it is better is not known; known are "
            f"{', '.join(DIRECTIONS)}, with .<label> or .mean behind those that have classes"
        )
    return DIRECTIONS[family]


# Metrics that `common.callbacks.MultiLabelMetrics` adds for each label and for their mean.
REPORTED = ("auc", "log_loss", "precision", "recall", "f1")


def reported_names(label_names: Sequence[str]) -> list[str]:
    """Return the names under which a validation reports each label, and means over the labels."""
    return [f"{family}.{label}" for family in REPORTED for label in (*label_names, "mean")]


def badness(metric: str, value: float) -> float:
    """Return `value` so that smaller is better, whatever the direction of the metric.

    Raises:
        ValueError: the value is NaN, which is neither better nor worse than any other.
    """
    if math.isnan(value):
        raise ValueError(f"metric {metric} is NaN: it can't be compared")
    return value if direction_of(metric) == "min" else -value


def improves(metric: str, value: float, best: float | None, least: float = 0.0) -> bool:
    """Return whether `value` beats `best` by more than `least`; any value beats None."""
    bad = badness(metric, value)
    return best is None or badness(metric, best) - bad > least
