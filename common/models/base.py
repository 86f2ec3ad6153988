"""The base of all models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError


class AbstractModel(nn.Module, ABC):
    """A module that knows how it was made, in two parts: features, and a head on them.

    A model sees images (`ImageModel`) or whole series (`SeriesModel`).

    Args:
        specification: arguments that make the same architecture again; plain types only. They are
            kept as the attribute of that name.
    """

    def __init__(self, **specification: Any) -> None:
        super().__init__()
        self.specification = specification

    @abstractmethod
    def forward_head(self, features: Tensor) -> Tensor:
        """Logits, (..., labels), of features (..., dim)."""

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        """Start from the prevalence of each label, for models that can; others stay as they are."""

    def parameter_depths(self) -> dict[str, int]:
        """Return the layer of each parameter by its name: 0 for the first, the head above all.

        Raises:
            InputError: the network does not number its layers.
        """
        name = self.specification.get("name", type(self).__name__)
        raise InputError(
            f"--optim_layer_decay: {name} does not say which layer comes after which: leave the "
            f"flag out, or choose another --net_model"
        )


class ImageModel(AbstractModel):
    """A model of single images."""

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Pooled features, (batch, dim), before dropout and the last layer."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's outputs, such as logits (batch, labels), for (batch, channels, ...)."""
        return self.forward_head(self.forward_features(images))


class SeriesModel(AbstractModel):
    """A model of whole series: a dict of inputs to a dict of outputs, `logits` among them.

    Attributes:
        output_names: outputs that are predictions: `logits` of slices, `series_logits` of series.
        feature_dtype: of the features of slice networks that it was trained on.
    """

    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    feature_dtype: ClassVar[type[np.floating]] = np.float16  # as the feature store rounds them

    @abstractmethod
    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        """A vector per slice, (series, steps, dim)."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Outputs by name: `logits` (series, steps, labels), and what else the model has."""


def start_bias(layer: nn.Linear, prevalence: Sequence[float]) -> None:
    """Set the bias of a last layer to the log-odds of `prevalence`: training starts at the prior.

    A prevalence of 0 or 1 is taken as one in a thousand, or all but one.
    """
    share = torch.as_tensor(prevalence, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        layer.bias.copy_(torch.logit(share))
