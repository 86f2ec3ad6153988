"""Networks of series with a slice encoder: their base, and one with a transformer on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import InputError
from common.models.base import SeriesModel
from common.models.masked import step_mask
from common.models.sequence import TransformerModel
from common.models.timm_factory import TimmClassifier

# Slices that go through an encoder at once where nothing is trained.
MOST_AT_ONCE = 64


class SliceEncoderModel(SeriesModel):
    """The base of networks that see the images of series by a slice network, their encoder.

    Padded steps never reach the encoder, so that they are in no batch-norm statistic.

    Args:
        encoder: arguments of `TimmClassifier`; its classifier gives the logits of slices.
        frozen: the encoder stays as it is, its batch-norm statistics included.
        chunk: slices that go through the encoder at once; 0: all of a batch. In training batch norm
            sees one chunk at a time. A last chunk of one slice joins the one before; a batch of one
            slice is normalised by the running statistics, as it may have no variance.
        checkpointing: keep few activations of the encoder and compute them again for the gradient.
        pretrained: start the encoder from ImageNet weights; no part of the specification.
        own: arguments of the subclass, for the specification.
    """

    def __init__(
        self,
        name: str,
        encoder: Mapping[str, Any],
        frozen: bool = False,
        chunk: int = 0,
        checkpointing: bool = False,
        pretrained: bool = False,
        **own: Any,
    ) -> None:
        super().__init__(
            name=name,
            encoder=dict(encoder),
            **own,
            frozen=frozen,
            chunk=chunk,
            checkpointing=checkpointing,
        )
        self.encoder = TimmClassifier(**encoder, pretrained=pretrained)
        # Of an encoder of the hub or a folder: what makes it again without these.
        resolved = {name: self.encoder.specification.get(name) for name in ("name", "config")}
        self.specification["encoder"] |= {n: value for n, value in resolved.items() if value}
        self.specification["name"] = f"{name.partition('-')[0]}-{resolved['name']}"
        self.mean, self.std = self.encoder.mean, self.encoder.std
        if checkpointing:
            _checkpoint(self.encoder, name)
        if frozen:
            self.encoder.requires_grad_(False)
            self.encoder.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.specification["frozen"]:
            self.encoder.eval()
        return self

    def forward_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.forward(inputs)["features"]

    def parameter_depths(self) -> dict[str, int]:
        """Return the layers as the encoder numbers them, with all else on top of them."""
        depths = {
            f"encoder.{name}": depth for name, depth in self.encoder.parameter_depths().items()
        }
        head = max(depths.values()) + 1
        return {name: depths.get(name, head) for name, _ in self.named_parameters()}

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        """Set the bias of the encoder's logits, from which the network starts."""
        self.encoder.start_from_prevalence(prevalence)

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (n, dim) and logits (n, labels) of slices, chunk by chunk."""
        chunk = self.specification["chunk"]
        if not self.training:  # a thin series may have hundreds
            chunk = min(chunk or MOST_AT_ONCE, MOST_AT_ONCE)
        chunks = images.split(_chunk_sizes(len(images), chunk))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.specification["frozen"]):
            features = [self._features_of(chunk) for chunk in chunks]
            joined = torch.cat(features)
            return joined, self.encoder.forward_head(joined)

    def _features_of(self, images: Tensor) -> Tensor:
        """Return the features of a chunk; those of a single slice by the running statistics."""
        norms = [m for m in self.encoder.modules() if isinstance(m, _BatchNorm) and m.training]
        norms = norms if len(images) == 1 != self.specification["chunk"] else []
        for norm in norms:
            norm.eval()
        features = self.encoder.forward_features(images)
        for norm in norms:
            norm.train()
        return features


class JointModel(SliceEncoderModel):
    """Images of whole series to logits of each slice, by an encoder and a transformer.

    The transformer sees the encoder's features and logits of each slice, and starts as
    nothing: an untrained one adds zero to the encoder's logits.

    Inputs are a dict: `images` (series, steps, channels, rows, columns), `metadata` (series, steps,
    5), `position_mm` (series, steps), `lengths` (series,); outputs `logits` (series, steps, labels)
    and `features` (series, steps, dim).

    Args:
        encoder: as of the base; the transformer adds to its logits.
        sequence: arguments of `TransformerModel` beside those that follow from the encoder.
        options: see the base.
    """

    def __init__(
        self, name: str, encoder: Mapping[str, Any], sequence: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(name, encoder, sequence=dict(sequence), **options)
        dim = self.encoder.classifier.in_features
        num_labels = self.encoder.classifier.out_features
        self.feature_norm = nn.LayerNorm(dim)
        self.sequence = TransformerModel(
            **{"name": "study-transformer", **sequence}, num_labels=num_labels, feature_dims=[dim]
        )

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits that the sequence adds to the encoder's, (series, slices, labels)."""
        return self.sequence.forward_head(features)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images, lengths = inputs["images"], inputs["lengths"]
        mask = step_mask(lengths, images.shape[1], images.device)
        features, logits = self._encode(images[mask])
        encoded = {
            "features": [spread(self.feature_norm(features), mask)],
            "logits": spread(logits, mask),
            "metadata": inputs["metadata"],
            "position_mm": inputs["position_mm"],
            "lengths": lengths,
        }
        seen = self.sequence.forward_features(encoded)
        added = self.sequence.forward_head(seen)
        return {"logits": self.sequence.skip(encoded["logits"]) + added, "features": seen}


def _chunk_sizes(num_slices: int, chunk: int) -> list[int]:
    """Return sizes of chunks of so many slices (0: all); a last one alone joins those before."""
    if not chunk or num_slices <= chunk:
        return [num_slices]
    sizes = [chunk] * (num_slices // chunk)
    left = num_slices % chunk
    if left == 1:
        sizes[-1] += 1
    elif left:
        sizes.append(left)
    return sizes


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Return values (n, channels) of the steps in `mask` as (series, steps, channels), else 0."""
    steps = values.new_zeros((*mask.shape, values.shape[-1]))
    steps[mask] = values
    return steps


def _checkpoint(encoder: TimmClassifier, name: str) -> None:
    try:
        encoder.backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError) as error:
        raise InputError(
            f"--net_encoder_checkpoint 1: the backbone of {name} can't compute activations again: "
            f"leave the flag out"
        ) from error
