"""A slice network whose slices make up logits of their series: multiple-instance learning.

A series is a bag of slices of which the label is known as a whole. The network gives each slice
logits of its own, and the pool makes those of the series of them, so that a label of the series
teaches the slices.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.models.joint import SliceEncoderModel, spread
from common.models.masked import step_mask

POOLS = ("max", "lse", "attention")
# Of log-sum-exp: Pinheiro and Collobert 2015, From image-level to pixel-level labeling with
# convolutional networks, equation 3.
LSE_SHARPNESS = 5.0
# Hidden units of the attention: Ilse, Tomczak and Welling 2018, Attention-based deep multiple
# instance learning.
ATTENTION_DIM = 128


class SlicePool(nn.Module):
    """Logits of slices to logits of their series, label by label, in float32.

    max: the largest. lse: log(mean(exp(r z))) / r, between the mean and the largest. attention: the
    mean of the logits weighted by gated attention on the features (Ilse et al. 2018, equation 9),
    with weights of its own for each label; for a linear classifier that is the classifier of the
    weighted mean of the features. It starts as the plain mean.
    """

    def __init__(self, pooling: str, dim: int, num_labels: int) -> None:
        super().__init__()
        assert pooling in POOLS, pooling
        self.pooling = pooling
        if pooling == "attention":
            self.content = nn.Linear(dim, ATTENTION_DIM)
            self.gate = nn.Linear(dim, ATTENTION_DIM)
            self.scores = nn.Linear(ATTENTION_DIM, num_labels, bias=False)
            nn.init.zeros_(self.scores.weight)

    def forward(self, features: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
        """Return (series, labels).

        Args:
            features: (series, slices, dim).
            logits: (series, slices, labels).
            mask: bool (series, slices): true slices, at least one of each series.
        """
        with torch.autocast(logits.device.type, enabled=False):
            z, is_slice = logits.float(), mask[..., None]
            if self.pooling == "max":
                return z.masked_fill(~is_slice, -torch.inf).amax(dim=1)
            if self.pooling == "lse":
                scaled = (LSE_SHARPNESS * z).masked_fill(~is_slice, -torch.inf)
                num_slices = is_slice.sum(dim=1).to(z.dtype)
                return (scaled.logsumexp(dim=1) - num_slices.log()) / LSE_SHARPNESS
            h = features.float()
            scores = self.scores(self.content(h).tanh() * self.gate(h).sigmoid())
            weights = scores.masked_fill(~is_slice, -torch.inf).softmax(dim=1)
            return (weights * z).sum(dim=1)


class BagModel(SliceEncoderModel):
    """Images of whole series to logits of each slice, by the encoder alone, and of the series.

    Inputs are a dict: `images` (series, slices, channels, rows, columns) and `lengths` (series,);
    outputs `logits` (series, slices, labels), `features` (series, slices, dim) and `series_logits`
    (series, labels). A slice's outputs depend on the slice alone.

    Args:
        pooling: one of `POOLS`.
        options: see the base.
    """

    output_names: ClassVar = ("logits", "series_logits")

    def __init__(self, name: str, encoder: Mapping[str, Any], pooling: str, **options: Any) -> None:
        super().__init__(name, encoder, pooling=pooling, **options)
        classifier = self.encoder.classifier
        self.pool = SlicePool(pooling, classifier.in_features, classifier.out_features)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.encoder.forward_head(features)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images, lengths = inputs["images"], inputs["lengths"]
        mask = step_mask(lengths, images.shape[1], images.device)
        features, logits = (spread(values, mask) for values in self._encode(images[mask]))
        of_series = self.pool(features, logits, mask)
        return {"logits": logits, "features": features, "series_logits": of_series}
