"""Networks that give each image a probability per label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.networks.losses import weighted_bce_sum, weighted_focal_sum
from common.networks.network import AbstractNetwork
from common.networks.state import FitSettings, StepOutput


class ImageClassifierNetwork(AbstractNetwork):
    """Multi-label classification with binary cross-entropy or focal loss, weighted per label.

    The loss of a validation is what training minimises, smoothing left out; metrics come beside it
    under their own names. Where a model gives logits (batch, draws, labels) while training, as with
    multi-sample dropout, the loss is the mean of those of the draws.

    A batch is what `ImageClassificationDataset` makes: `image`, `labels` with NaN where unknown,
    and `index`.

    Args:
        label_smoothing: training labels y become y (1 - s) + s / 2.
        focal_gamma: gamma of the focal loss; None for cross-entropy.
        sample_ids: names of the training samples by index, for messages.
        with_features: predictions hold the pooled `features` (batch, dim) too; for models that are
            an `ImageModel`.
        batch_transform: makes the images of batches that hold `draws`, on the device, of `image`
            and `draws`; see `common.transforms.device.DeviceTransform`.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        label_weights: Sequence[float],
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
        sample_ids: Sequence[str] = (),
        batch_transform: Callable[[Tensor, np.ndarray], Tensor] | None = None,
        with_features: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, settings, **options)
        self.label_weights = torch.tensor(label_weights, device=self.device)
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.sample_ids = sample_ids
        self.batch_transform = batch_transform
        self.with_features = with_features

    def to_device(self, batch: Any) -> Any:
        """Move a batch to the device, and make its images there if the loader has not."""
        batch = super().to_device(batch)
        if isinstance(batch, dict) and "draws" in batch:
            if self.batch_transform is None:
                raise TypeError("batches with draws need a batch_transform")
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                batch["image"] = self.batch_transform(batch["image"], batch.pop("draws"))
        return batch

    def training_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """Return the weighted loss of the smoothed labels."""
        return self._loss(batch, self.label_smoothing)

    def validation_step(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """Return the weighted loss of the true labels, with `logits`, `labels` and `index`."""
        return self._loss(batch, 0.0)

    def prediction_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `logits` (batch, labels) and `index` (batch,)."""
        if not self.with_features:
            return {"logits": self.forward(batch["image"]), "index": batch["index"]}
        model: Any = self.model
        features = model.forward_features(batch["image"])
        logits = model.forward_head(features)
        return {"logits": logits, "features": features, "index": batch["index"]}

    def batch_ids(self, batch: Mapping[str, Tensor]) -> list[str]:
        return [self.sample_ids[i] for i in batch["index"].tolist()] if len(self.sample_ids) else []

    def loss_weights(self) -> Tensor:
        """Return the weight of each label in the loss of the next iteration, (labels,)."""
        return self.label_weights

    def _loss(self, batch: Mapping[str, Tensor], smoothing: float) -> StepOutput:
        logits, labels = self.forward(batch["image"]), batch["labels"]
        return self._loss_of(logits, labels, batch["index"], smoothing)

    def _loss_of(
        self, logits: Tensor, labels: Tensor, index: Tensor, smoothing: float
    ) -> StepOutput:
        """Return the loss of logits (samples, labels) of the samples `index`."""
        smoothed = labels * (1 - smoothing) + smoothing / 2
        num_draws = 1
        if logits.ndim == 3:
            num_draws = logits.shape[1]
            smoothed = smoothed.repeat_interleave(num_draws, dim=0)
            logits = logits.flatten(0, 1)
        weights = self.loss_weights()
        if self.focal_gamma is None:
            loss_sum, num_terms = weighted_bce_sum(logits, smoothed, weights)
        else:
            loss_sum, num_terms = weighted_focal_sum(logits, smoothed, weights, self.focal_gamma)
        logits = logits.detach().unflatten(0, (-1, num_draws)).mean(1)
        outputs = {"logits": logits, "labels": labels, "index": index}
        return StepOutput(loss_sum / num_draws, num_terms / num_draws, outputs)
