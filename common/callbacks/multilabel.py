"""Metrics of several labels, added to what a validation reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import expit

from common.networks.hooks import Callback, FittedNetwork
from common.scoring.directions import REPORTED
from common.scoring.metrics import (
    DEFAULT_THRESHOLD,
    auc,
    confusion,
    confusion_rates,
    log_loss,
    majority,
)

RANK_METRICS: dict[str, Callable[..., float | None]] = {"auc": auc, "log_loss": log_loss}


class MultiLabelMetrics(Callback):
    """Adds precision, recall, F1, AUC and log loss of each label, and their means, in float64.

    The names are `<metric>.<label>` and `<metric>.mean`. What is undefined is None: precision
    where nothing is called, recall and F1 without a positive, AUC with one class only. A mean is
    over the labels where the metric is defined, None where there is none. Values that the network
    has computed itself stay.

    The outputs of a validation must hold `logits` and `labels`, both (samples, labels), the labels
    0, 1 or NaN, or shares of raters, which count by their majority.

    Args:
        threshold: least probability at which a label counts as predicted.
    """

    def __init__(self, label_names: Sequence[str], threshold: float = DEFAULT_THRESHOLD) -> None:
        self.label_names = tuple(label_names)
        self.threshold = threshold

    def on_outputs(
        self,
        network: FittedNetwork,
        outputs: Mapping[str, np.ndarray],
        metrics: dict[str, float | None],
    ) -> None:
        labels, logits = majority(outputs["labels"]), outputs["logits"].astype(np.float64)
        probabilities = expit(logits)
        for column, label in enumerate(self.label_names):
            y, p = labels[:, column], probabilities[:, column]
            for name, function in RANK_METRICS.items():
                if f"{name}.{label}" not in metrics:
                    metrics[f"{name}.{label}"] = function(y, p)
            rates = call_rates(y, p, self.threshold)
            metrics |= {f"{name}.{label}": value for name, value in rates.items()}
        for name in REPORTED:
            values = [metrics[f"{name}.{label}"] for label in self.label_names]
            defined = [value for value in values if value is not None]
            metrics[f"{name}.mean"] = float(np.mean(defined)) if defined else None


def call_rates(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, float | None]:
    """Return precision, recall and F1 of one label; F1 = 2 TP / (2 TP + FP + FN)."""
    counts = confusion(labels, probabilities, threshold)
    rates = confusion_rates(counts)
    hits = 2 * counts["true_positive"]
    errors = counts["false_positive"] + counts["false_negative"]
    has_positive = rates["recall"] is not None
    return {
        "precision": rates["precision"],
        "recall": rates["recall"],
        "f1": hits / (hits + errors) if has_positive else None,
    }
