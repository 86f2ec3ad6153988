"""Networks that give each image a probability per label."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses import weighted_bce_sum
from common.networks.network import AbstractNetwork
from common.networks.state import FitSettings, StepOutput


class ImageClassifierNetwork(AbstractNetwork):
    """Multi-label classification with binary cross-entropy, weighted per label.

    A batch is what `ImageClassificationDataset` makes: `image`, `labels` with NaN where unknown,
    and `index`.

    Args:
        label_weights: weight of each label in the loss.
        label_smoothing: training labels y become y (1 - s) + s / 2.
        sample_ids: names of the training samples by index, for messages.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        label_weights: Sequence[float],
        label_smoothing: float = 0.0,
        sample_ids: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(model, settings, **options)
        self.label_weights = torch.tensor(label_weights, device=self.device)
        self.label_smoothing = label_smoothing
        self.sample_ids = sample_ids

    def training_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """The weighted loss of the smoothed labels."""
        return self._loss(batch, self.label_smoothing)

    def validation_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """The weighted loss of the true labels; outputs are `logits`, `labels` and `index`."""
        return self._loss(batch, 0.0)

    def prediction_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs are `logits` (batch, labels) and `index` (batch,)."""
        return {"logits": self.forward(batch["image"]), "index": batch["index"]}

    def batch_ids(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The names of the samples, where they were given."""
        return [self.sample_ids[i] for i in batch["index"].tolist()] if len(self.sample_ids) else []

    def _loss(self, batch: Mapping[str, Tensor], smoothing: float) -> StepOutput:
        logits, labels = self.forward(batch["image"]), batch["labels"]
        smoothed = labels * (1 - smoothing) + smoothing / 2
        loss_sum, num_terms = weighted_bce_sum(logits, smoothed, self.label_weights)
        outputs = {"logits": logits.detach(), "labels": labels, "index": batch["index"]}
        return StepOutput(loss_sum, num_terms, outputs)
