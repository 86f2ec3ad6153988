"""The sequence model of the competition's first place, both stages in one network.

SeuTao, RSNA2019 first place, SequenceModel/main.py: the sizes are those of its code where `dim` is
128. Changed: padded steps are masked everywhere, the z-gap keeps its sign, and there is a skip from
the logits, as in all sequence models here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.models.base import start_bias
from common.models.masked import (
    BidirectionalRNN,
    convolution,
    masked_batch_norm,
    masked_convolution,
    step_mask,
)
from common.models.sequence import NUM_METADATA, SequenceModel

# (kernel, dilation) of the convolutions over slices, and their channels in units of `dim`.
_CONVOLUTIONS = ((5, 1, 4), (3, 2, 2), (3, 4, 2), (3, 2, 2))


class _Reduction(nn.Module):
    def __init__(self, num_in: int, num_out: int, dropout: nn.Module) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Linear(num_in, num_out, bias=False)
        self.norm = nn.BatchNorm1d(num_out)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        dropped = self.dropout(values.transpose(1, 2)).transpose(1, 2)
        return torch.relu(masked_batch_norm(self.norm, self.linear(dropped), mask))


class TwoStageModel(SequenceModel):
    """Features to a BiGRU, then dilated convolutions over slices and a second BiGRU.

    The second stage sees probabilities of the first stage and of the slice networks, differences
    of networks and z-gaps. The first stage's logits have a loss of their own (`auxiliary`). Without
    features the first stage sees logits and metadata.

    Args:
        options: see `SequenceModel`; `hidden` is of both BiGRUs, `num_layers` too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.specification
        dim, hidden, layers = chosen["dim"], chosen["hidden"], chosen["num_layers"]
        num_labels, num_networks = chosen["num_labels"], chosen["num_networks"]
        dims = chosen["feature_dims"] or [num_labels * num_networks + NUM_METADATA]
        drop = nn.Dropout1d(chosen["feature_drop"] if chosen["feature_dims"] else 0.0)
        self.wide = nn.ModuleList(_Reduction(size, 4 * dim, drop) for size in dims)
        self.narrow = nn.ModuleList(_Reduction(4 * dim, dim, self.dropout) for _ in dims)
        joined = dim * len(dims)
        self.first_linear = nn.Linear(joined, num_labels)
        self.first_rnn = BidirectionalRNN("gru", joined, hidden, layers)
        self.first_out = nn.Linear(2 * hidden, num_labels)

        # Per label: mean, differences in a circle where there are several, each network's
        # probability, the z-gap, the first stage's probability.
        num_channels = 1 + num_networks + (num_networks if num_networks > 1 else 0) + 2
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for kernel, dilation, width in _CONVOLUTIONS:
            self.convolutions.append(convolution(num_channels, width * dim, kernel, dilation))
            self.norms.append(nn.BatchNorm1d(width * dim))
            num_channels = width * dim
        self.last_conv = convolution(num_channels, 1, 3)
        self.second_rnn = BidirectionalRNN("gru", num_channels * num_labels, hidden, layers)
        self.second_out = nn.Linear(2 * hidden, num_labels)
        for layer in (self.last_conv, self.second_out):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Logits of both stages; see `common.models.sequence`."""
        first = self.first_logits(inputs)
        features = self.forward_features({**inputs, "first_logits": first})
        added = self._head(features, inputs["lengths"])
        return {"logits": self.skip(inputs["logits"]) + added, "auxiliary": first}

    def first_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return logits of the first stage, (series, slices, labels)."""
        lengths, own = inputs["lengths"], inputs["logits"]
        mask = step_mask(lengths, own.shape[1], own.device)
        sources = list(inputs["features"]) if self.specification["feature_dims"] else []
        sources = sources or [torch.cat([inputs["logits"], self._metadata(inputs)], dim=-1)]
        parts = [
            narrow(wide(source, mask), mask)
            for wide, narrow, source in zip(self.wide, self.narrow, sources, strict=True)
        ]
        values = self.dropout(torch.cat(parts, dim=-1))
        return self.first_linear(values) + self.first_out(self.first_rnn(values, lengths))

    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        """Channels of each label after the convolutions, (studies, steps, labels * channels)."""
        first = inputs.get("first_logits")
        channels = self._channels(inputs, self.first_logits(inputs) if first is None else first)
        num_studies, num_steps, num_labels, _ = channels.shape
        mask = step_mask(inputs["lengths"], num_steps, channels.device)
        # Labels share the convolutions: each is a sequence of its own.
        label_mask = mask.repeat_interleave(num_labels, dim=0)
        values = channels.transpose(1, 2).flatten(0, 1)
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            convolved = masked_convolution(layer, values, label_mask)
            values = torch.relu(masked_batch_norm(norm, convolved, label_mask))
        values = values.unflatten(0, (num_studies, num_labels)).transpose(1, 2)
        return values.flatten(2)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits as if no step were padded."""
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        return self._head(features, lengths)

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        start_bias(self.first_linear, prevalence)
        nn.init.zeros_(self.first_out.bias)

    def _head(self, features: Tensor, lengths: Tensor) -> Tensor:
        num_labels = self.specification["num_labels"]
        by_label = features.unflatten(2, (num_labels, -1)).transpose(1, 2).flatten(0, 1)
        mask = step_mask(lengths, features.shape[1], features.device)
        mask = mask.repeat_interleave(num_labels, dim=0)
        convolved = masked_convolution(self.last_conv, by_label, mask)
        convolved = convolved.unflatten(0, (-1, num_labels))
        recurrent = self.second_out(self.second_rnn(features, lengths))
        return convolved.squeeze(-1).transpose(1, 2) + recurrent

    def _metadata(self, inputs: Mapping[str, Any]) -> Tensor:
        metadata: Tensor = inputs["metadata"]
        return metadata if self.specification["metadata"] else torch.zeros_like(metadata)

    def _channels(self, inputs: Mapping[str, Any], first: Tensor) -> Tensor:
        """Return (series, slices, labels, channels)."""
        num_labels, num_networks = (self.specification[n] for n in ("num_labels", "num_networks"))
        by_network = inputs["logits"].unflatten(2, (num_networks, num_labels)).sigmoid()
        parts = [by_network.mean(dim=2, keepdim=True), by_network]
        if num_networks > 1:
            parts.append(by_network - by_network.roll(-1, dims=2))
        gap = self._metadata(inputs)[:, :, None, :1].expand(-1, -1, 1, num_labels)
        return torch.cat([*parts, gap, first.sigmoid()[:, :, None]], dim=2).transpose(2, 3)
