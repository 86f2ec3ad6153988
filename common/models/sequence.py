"""Networks over the slices of a series: outputs of slice networks for each, and its neighbours.

Inputs are a dict (see `common.datasets.sequence`), padded at the end along the slices:

| name | content |
|---|---|
| features | one tensor per slice network, (series, slices, its dim), standardised; none is fine |
| logits | (series, slices, networks * labels) |
| metadata | (series, slices, 5): gaps, position, rank and number of slices, scaled |
| position_mm | (series, slices) from the middle of the series |
| lengths | (series,) |

Outputs are a dict: `logits` (series, slices, labels), and `auxiliary` logits where a network has
them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.models.base import SeriesModel
from common.models.masked import BidirectionalRNN, RotaryAttention, step_mask

NUM_METADATA = 5


class SliceEncoder(nn.Module):
    """All inputs of a slice as one vector.

    Features of each slice network pass through a projection of their own: their dimensions differ,
    and those of different networks mean different things. Dropout of features takes the same ones
    from all slices of a series.

    Args:
        feature_dims: of each slice network; empty for none.
        num_logits: of all slice networks together.
        feature_drop: share of the features that training leaves out.
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        num_logits: int,
        dim: int,
        feature_drop: float,
        metadata: bool,
    ) -> None:
        super().__init__()
        self.metadata = metadata
        self.feature_drop = nn.Dropout1d(feature_drop)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(size, dim), nn.LayerNorm(dim), nn.GELU())
            for size in feature_dims
        )
        num_inputs = dim * len(feature_dims) + num_logits + NUM_METADATA * metadata
        self.joint = nn.Sequential(nn.Linear(num_inputs, dim), nn.LayerNorm(dim), nn.GELU())

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return (series, slices, dim)."""
        parts = [
            projection(self.feature_drop(features.transpose(1, 2)).transpose(1, 2))
            for projection, features in zip(self.projections, inputs["features"])
        ]
        parts.append(inputs["logits"])
        if self.metadata:
            parts.append(inputs["metadata"])
        return self.joint(torch.cat(parts, dim=-1))


class SequenceModel(SeriesModel):
    """The base: subclasses say how the vectors of the slices are seen together.

    A linear skip from the slice networks' logits to the output starts as their mean, and the part
    that the sequence adds starts at zero: an untrained network returns that mean.

    Args:
        name: of the subclass; see `build_sequence_model`.
        feature_dims: features of each slice network; empty where none are used.
        dim: channels of a slice between layers.
        hidden: units of each direction of a recurrent layer.
        metadata: use gaps, rank, position and number of slices.
    """

    def __init__(
        self,
        name: str,
        num_labels: int,
        feature_dims: Sequence[int] = (),
        num_networks: int = 1,
        dim: int = 128,
        hidden: int = 96,
        num_layers: int = 2,
        num_heads: int = 4,
        drop_rate: float = 0.0,
        feature_drop: float = 0.0,
        metadata: bool = True,
    ) -> None:
        super().__init__(
            name=name,
            num_labels=num_labels,
            feature_dims=list(feature_dims),
            num_networks=num_networks,
            dim=dim,
            hidden=hidden,
            num_layers=num_layers,
            num_heads=num_heads,
            drop_rate=drop_rate,
            feature_drop=feature_drop,
            metadata=metadata,
        )
        self.dropout = nn.Dropout(drop_rate)
        self.skip = nn.Linear(num_networks * num_labels, num_labels)
        with torch.no_grad():
            self.skip.weight.copy_(torch.eye(num_labels).repeat(1, num_networks) / num_networks)
            self.skip.bias.zero_()

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Logits of each slice; see the module for inputs and outputs."""
        added = self.forward_head(self.forward_features(inputs))
        return {"logits": self.skip(inputs["logits"]) + added}

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())


class _EncodedModel(SequenceModel):
    """Vectors of slices, then layers that add to them, then a linear layer that starts at zero."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.specification
        dim, num_labels = chosen["dim"], chosen["num_labels"]
        num_logits = num_labels * chosen["num_networks"]
        self.encoder = SliceEncoder(
            chosen["feature_dims"], num_logits, dim, chosen["feature_drop"], chosen["metadata"]
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(features)))


class LinearModel(SequenceModel):
    """A linear layer on the features of each slice alone, added to the slice networks' logits.

    Args:
        name: study-linear.
        options: see `SequenceModel`; there are features.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.specification
        self.feature_drop = nn.Dropout1d(chosen["feature_drop"])
        self.head = nn.Linear(sum(chosen["feature_dims"]), chosen["num_labels"])
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        features = torch.cat(list(inputs["features"]), dim=-1)
        return self.feature_drop(features.transpose(1, 2)).transpose(1, 2)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(features))


class RecurrentModel(_EncodedModel):
    """GRUs or LSTMs in both directions, each layer added to what it was given.

    Args:
        name: study-bigru or study-lstm.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.specification
        dim, hidden = chosen["dim"], chosen["hidden"]
        kind = "lstm" if chosen["name"] == "study-lstm" else "gru"
        layers = range(chosen["num_layers"])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in layers)
        self.rnns = nn.ModuleList(BidirectionalRNN(kind, dim, hidden) for _ in layers)
        self.outs = nn.ModuleList(nn.Linear(2 * hidden, dim) for _ in layers)

    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        values = self.encoder(inputs)
        for norm, rnn, out in zip(self.norms, self.rnns, self.outs, strict=True):
            values = values + out(self.dropout(rnn(norm(values), inputs["lengths"])))
        return values


class TransformerModel(_EncodedModel):
    """Attention among the slices of a series by their distance in mm.

    Args:
        options: see `SequenceModel`; `dim` is a multiple of 4 * num_heads.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        dim, num_heads = self.specification["dim"], self.specification["num_heads"]
        layers = range(self.specification["num_layers"])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in layers)
        self.attentions = nn.ModuleList(RotaryAttention(dim, num_heads) for _ in layers)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            )
            for _ in layers
        )

    def forward_features(self, inputs: Mapping[str, Any]) -> Tensor:
        values, position_mm = self.encoder(inputs), inputs["position_mm"]
        mask = step_mask(inputs["lengths"], values.shape[1], values.device)
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            values = values + self.dropout(attention(norm(values), position_mm, mask))
            values = values + self.dropout(mlp(values))
        return values
