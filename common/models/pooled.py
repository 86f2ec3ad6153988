"""A recurrent network over features whose series logits are attention pools, one per label.

The sequence network of i-pan/ct-head-hemorrhage-detection (2026), to run its published weights. It
is made by an importer and not trained here: no loss of ours reaches the logits of a series.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.models.base import SeriesModel
from common.models.masked import BidirectionalRNN, step_mask

# Series baselines are logits of probabilities cut to this.
_FLOOR = 1e-6


class AttentionPool(nn.Module):
    """The mean of the slices' vectors for each label, by attention of its own, and its logit."""

    def __init__(self, dim: int, num_labels: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, num_labels)
        )
        self.classifier_weight = nn.Parameter(torch.zeros(num_labels, dim))
        self.classifier_bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return (series, labels) of values (series, slices, dim); `mask` marks true slices."""
        scores = self.attention(values).masked_fill(~mask[..., None], -torch.inf)
        pooled = torch.einsum("bsl,bsd->bld", scores.softmax(dim=1), values)
        return (pooled * self.classifier_weight).sum(dim=-1) + self.classifier_bias


class PooledModel(SeriesModel):
    """Features through a projection and GRUs in both directions; blended with the slice network.

    A slice's logit is (1 - a) * that of the slice network + a * that of the GRUs, label by label.
    A series' logit is the same, with other a, of the largest slice probability and of the pool. Of
    a series with more than `most_slices` the GRUs see that many, evenly spaced; the others have
    what the GRUs give the nearest one, the earlier of two that are as near.

    Args:
        feature_dim: of the slice network.
        hidden: units of each direction of a GRU.
        num_layers: GRUs on top of each other.
        pool_hidden: hidden units of the pool's attention.
        most_slices: that the GRUs see at once.
        slice_shares, series_shares: a of each label.
    """

    output_names: ClassVar = ("logits", "series_logits")
    feature_dtype: ClassVar = np.float32
    slice_shares: Tensor
    series_shares: Tensor

    def __init__(
        self,
        *,
        name: str,
        num_labels: int,
        feature_dim: int,
        hidden: int,
        num_layers: int,
        pool_hidden: int,
        most_slices: int,
        slice_shares: list[float],
        series_shares: list[float],
    ) -> None:
        super().__init__(
            name=name,
            num_labels=num_labels,
            feature_dim=feature_dim,
            hidden=hidden,
            num_layers=num_layers,
            pool_hidden=pool_hidden,
            most_slices=most_slices,
            slice_shares=slice_shares,
            series_shares=series_shares,
        )
        self.input_norm = nn.LayerNorm(feature_dim)
        self.projection = nn.Linear(feature_dim, feature_dim)
        self.projection_norm = nn.LayerNorm(feature_dim)
        self.sequence = BidirectionalRNN("gru", feature_dim + 1, hidden, num_layers)
        self.slice_head = nn.Linear(2 * hidden, num_labels)
        self.pool = AttentionPool(2 * hidden, num_labels, pool_hidden)
        self.register_buffer("slice_shares", torch.tensor(slice_shares), persistent=False)
        self.register_buffer("series_shares", torch.tensor(series_shares), persistent=False)

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `logits` (series, slices, labels) and `series_logits` (series, labels)."""
        lengths, own = inputs["lengths"], inputs["logits"]
        seen, seen_lengths, nearest = self._seen(lengths, own.shape[1])
        states = self._states(inputs, seen, seen_lengths)
        context = self.forward_head(states)
        nearest = nearest.to(context.device)
        context = context.gather(1, nearest[..., None].expand(-1, -1, context.shape[2]))
        logits = torch.lerp(own, context, self.slice_shares)
        is_slice = step_mask(lengths, own.shape[1], own.device)[..., None]
        largest = own.masked_fill(~is_slice, -torch.inf).amax(dim=1).sigmoid()
        baseline = largest.clamp(_FLOOR, 1 - _FLOOR).logit()
        is_seen = step_mask(seen_lengths, states.shape[1], states.device)
        pooled = self.pool(states, is_seen)
        return {"logits": logits, "series_logits": baseline.lerp(pooled, self.series_shares)}

    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the states of the GRUs at the slices that they see, (series, seen, 2 * hidden)."""
        seen, seen_lengths, _ = self._seen(inputs["lengths"], inputs["logits"].shape[1])
        return self._states(inputs, seen, seen_lengths)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.slice_head(features)

    def _states(self, inputs: Mapping[str, Any], seen: Tensor, seen_lengths: Tensor) -> Tensor:
        (features,), lengths = inputs["features"], inputs["lengths"]
        lengths, seen = lengths.to(features.device), seen.to(features.device)
        features = features.gather(1, seen[..., None].expand(-1, -1, features.shape[2]))
        projected = self.projection(self.input_norm(features))
        projected = self.projection_norm(nn.functional.gelu(projected))
        position = seen / (lengths[:, None] - 1).clamp(min=1)
        values = torch.cat([projected, position[..., None].to(projected.dtype)], dim=-1)
        return self.sequence(values, seen_lengths)

    def _seen(self, lengths: Tensor, num_slices: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return which slices the GRUs see, how many, and the nearest of them to each slice.

        int64 (series, seen), (series,) and, as places among the seen ones, (series, slices).
        """
        most = min(self.specification["most_slices"], num_slices)
        seen = torch.zeros(len(lengths), most, dtype=torch.int64)
        nearest = torch.zeros(len(lengths), num_slices, dtype=torch.int64)
        counts = lengths.cpu().clamp(max=most)
        for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            # Half-way values go to the even number, as in numpy.
            chosen = torch.linspace(0, length - 1, count, dtype=torch.float64).round().long()
            seen[row, :count] = chosen
            distances = (torch.arange(length)[:, None] - chosen).abs()
            nearest[row, :length] = distances.argmin(dim=1)
        device = lengths.device
        return seen.to(device), counts.to(device), nearest.to(device)
