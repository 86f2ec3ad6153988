"""Poolings from a feature map to features."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class GeneralizedMean(nn.Module):
    """The generalized mean over a feature map, with one learnt exponent for all channels.

    (batch, channels, rows, columns) to (batch, channels): mean(max(x, eps)^p)^(1/p), Radenovic et
    al. 2018, equation 3. An exponent of 1 is the average of what is positive, a large one nears the
    maximum. Computed in float32 whatever comes in.

    Args:
        exponent: p at the start; 3 as in the paper.
        eps: what smaller values count as.
    """

    def __init__(self, exponent: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([exponent]))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """Return the features, of the type of `maps`."""
        with torch.autocast(maps.device.type, enabled=False):
            powers = maps.float().clamp(min=self.eps).pow(self.exponent)
            return powers.mean((2, 3)).pow(1 / self.exponent).to(maps.dtype)


class Average(nn.Module):
    """The average over a feature map: (batch, channels)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Maximum(nn.Module):
    """The maximum over a feature map: (batch, channels)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.amax((2, 3))


class Concatenation(nn.Module):
    """Average and maximum over a feature map, beside each other: (batch, 2 channels)."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


# Of (batch, channels, rows, columns).
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": Average,
    "max": Maximum,
    "concat": Concatenation,
    "gem": GeneralizedMean,
}
OWN_POOLING = "own"
