"""The network of the task: the metric's loss, and the metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit
from torch import Tensor, nn

from common.networks import FitSettings, ImageClassifierNetwork
from common.scoring.directions import OF_STUDIES
from common.scoring.metrics import auc, log_loss, majority, weighted_log_loss
from rsna_task import CHALLENGE, METRIC, Task

# Weight of `any` in the loss by fifths of the training, where that is asked for: that of the 2019
# framework. The metric's is 2.
ANY_WEIGHTS = (2.6, 2.4, 2.2, 2.0, 1.0)


def study_metrics(outputs: Mapping[str, np.ndarray], task: Task) -> dict[str, float | None]:
    """Return log loss and AUC of studies, as `study_<name>`, from the outputs of a network of bags.

    Args:
        outputs: per slice the `sample`, and its `series_logits` and `series_labels`.
    """
    first = np.unique(outputs["sample"], return_index=True)[1]
    labels = majority(outputs["series_labels"][first])
    p = expit(outputs["series_logits"][first].astype(np.float64))
    metrics = {f"{OF_STUDIES}{METRIC}": weighted_log_loss(labels, p, task.label_weights)}
    for column, name in enumerate(task.label_names):
        metrics[f"{OF_STUDIES}auc.{name}"] = auc(labels[:, column], p[:, column])
    return metrics


class RSNANetwork(ImageClassifierNetwork):
    """The labels of a task, trained and validated with its weights.

    Args:
        task: the six labels of the challenge, or `any` alone.
        any_weight_schedule: the weight of `any` in the loss follows `ANY_WEIGHTS` in its place.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        task: Task = CHALLENGE,
        any_weight_schedule: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, settings, task.label_weights, **options)
        self.task = task
        self.any_weight_schedule = any_weight_schedule

    def loss_weights(self) -> Tensor:
        """Return the weights of the task, but for `any` where it has a schedule."""
        if not self.any_weight_schedule:
            return self.label_weights
        fifth = len(ANY_WEIGHTS) * self.state.iteration // self.settings.iteration_num
        weights = self.label_weights.clone()
        weights[self.task.label_names.index("any")] = ANY_WEIGHTS[min(fifth, len(ANY_WEIGHTS) - 1)]
        return weights

    def compute_metrics(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Return the challenge's weighted log loss over all slices; log loss and AUC per label.

        Labels that are shares of raters count by their majority.
        """
        labels = majority(outputs["labels"])
        probabilities = expit(outputs["logits"].astype(np.float64))
        metrics = {METRIC: weighted_log_loss(labels, probabilities, self.task.label_weights)}
        for column, name in enumerate(self.task.label_names):
            metrics[f"log_loss.{name}"] = log_loss(labels[:, column], probabilities[:, column])
            metrics[f"auc.{name}"] = auc(labels[:, column], probabilities[:, column])
        return metrics
