"""Which way each metric is better: one table for everything that compares scores."""

from typing import Literal

from common.errors import InputError

Direction = Literal["min", "max"]

# By the name before the first dot: `auc.subdural` is an `auc`.
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
    """Returns whether a smaller (`min`) or a greater (`max`) value of a metric is better.

    Raises:
        InputError: the table does not have the metric.
    """
    family = metric.split(".")[0]
    if family not in DIRECTIONS:
        raise InputError(
            f"metric {metric}: which way it is better is not known; known are "
            f"{', '.join(DIRECTIONS)}, with .<label> or .mean behind those that have classes"
        )
    return DIRECTIONS[family]


def badness(metric: str, value: float) -> float:
    """Returns `value` so that smaller is better, whatever the direction of the metric."""
    return value if direction_of(metric) == "min" else -value


def improves(metric: str, value: float, best: float | None, least: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `least`; anything is better than None."""
    return best is None or badness(metric, best) - badness(metric, value) > least
