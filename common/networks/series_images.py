"""Networks that see the images of whole series and give each slice a probability per label."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.networks.sequence import SequenceClassifierNetwork

INPUTS = ("images", "metadata", "position_mm", "lengths")


class SeriesImageNetwork(SequenceClassifierNetwork):
    """Multi-label classification of the slices of series whose images are seen together.

    A batch is made by `SeriesImageDataset`; see the base for the terms of the loss.
    """

    def prediction_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `logits`, `index` and, if asked for, `features` of slices."""
        is_slice = batch["index"] >= 0
        outputs = self._forward(batch)
        found = {"logits": outputs["logits"][is_slice], "index": batch["index"][is_slice]}
        if self.with_features:
            found["features"] = outputs["features"][is_slice]
        return found

    def _forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.forward({name: batch[name] for name in INPUTS})
