"""A 3D network over a series resampled to equal distances along z."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from common.errors import InputError
from common.models.base import SeriesModel, start_bias
from common.models.masked import masked_batch_norm, step_mask

# Blocks of each of the four stages.
BLOCKS = {"volume-resnet10": (1, 1, 1, 1), "volume-resnet18": (2, 2, 2, 2)}
# Most planes of a grid, whatever positions the slices of a series have.
MAX_PLANES = 256


class VolumeModel(SeriesModel):
    """A residual network of 3D convolutions whose strides are in the plane only.

    Slices are resampled along z to planes at equal distances, and the features of planes, pooled
    over rows and columns, are interpolated back to the positions of the slices. What lies beyond
    either end of a series is zero before each convolution and counts in no statistic: a series gets
    what it gets alone.

    Inputs are a dict: `images` (series, steps, channels, rows, columns), `position_mm` (series,
    steps) and `lengths` (series,); outputs `logits` (series, steps, labels) and `features` (series,
    steps, dim).

    Args:
        name: one of `BLOCKS`.
        width: channels of the first stage; each further stage has twice as many.
        spacing_mm: distance of planes.

    Attributes:
        mean, std: normalisation of windows in [0, 1].
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def __init__(
        self,
        name: str,
        num_labels: int,
        in_chans: int = 3,
        width: int = 32,
        spacing_mm: float = 5.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(
            name=name,
            num_labels=num_labels,
            in_chans=in_chans,
            width=width,
            spacing_mm=spacing_mm,
            drop_rate=drop_rate,
        )
        if name not in BLOCKS:
            raise InputError(f"--net_model {name}: no such network; there are {', '.join(BLOCKS)}")
        self.stem = nn.Conv3d(in_chans, width, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage, num_blocks in enumerate(BLOCKS[name]):
            for number in range(num_blocks):
                stride = 2 if number == 0 else 1
                blocks.append(VolumeBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(channels, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """A vector per slice, interpolated among those of planes, (series, steps, dim)."""
        images, lengths = inputs["images"], inputs["lengths"]
        to_planes, to_slices, num_planes = resampling(
            inputs["position_mm"], lengths, self.specification["spacing_mm"]
        )
        steps = step_mask(lengths, images.shape[1], images.device)
        kept = images.masked_fill(~steps[:, :, None, None, None], 0.0)
        planes = torch.einsum("bpt,btchw->bcphw", to_planes.to(kept.dtype), kept)
        mask = step_mask(num_planes, planes.shape[2])
        values = relu(plane_norm(self.stem_norm, self.stem(planes), mask))
        for block in self.blocks:
            values = block(values, mask)
        pooled = values.mean(dim=(3, 4)).transpose(1, 2)
        return torch.bmm(to_slices.to(pooled.dtype), pooled)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(features))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.forward_features(inputs)
        return {"logits": self.forward_head(features), "features": features}

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        start_bias(self.classifier, prevalence)


def plane_norm(norm: nn.BatchNorm2d, values: Tensor, mask: Tensor) -> Tensor:
    """Return normalised `values` (series, channels, planes, rows, columns).

    Planes beyond a series, where `mask` (series, planes) is False, are in no statistic and are
    zero.
    """
    return masked_batch_norm(norm, values.transpose(1, 2), mask).transpose(1, 2)


class VolumeBlock(nn.Module):
    """Two convolutions of 3 x 3 x 3 and a way around them.

    Args:
        stride: of the first convolution, in the plane.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        strides = (1, stride, stride)
        self.conv1 = nn.Conv3d(in_channels, channels, 3, strides, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)
        changes = stride != 1 or in_channels != channels
        self.around: nn.Module | None = None
        if changes:
            self.around = nn.Conv3d(in_channels, channels, 1, strides, bias=False)
            self.around_norm = nn.BatchNorm2d(channels)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return values that are zero beyond each series, as those given must be."""
        inner = relu(plane_norm(self.norm1, self.conv1(values), mask))
        inner = plane_norm(self.norm2, self.conv2(inner), mask)
        if self.around is not None:
            values = plane_norm(self.around_norm, self.around(values), mask)
        return relu(values + inner)


def resampling(
    position_mm: Tensor, lengths: Tensor, spacing_mm: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how slices become planes at equal distances, and planes slices again.

    A plane is the linear interpolation between the slices on either side of it, or, where slices
    are less than half a spacing apart, their mean weighted by a triangle of two spacings.

    Args:
        position_mm: (series, steps), rising, falling or in any order.
        spacing_mm: distance of planes.

    Returns:
        Weights (series, planes, steps) and (series, steps, planes), zero at padded steps and
        planes, and the number of planes of each series, int64 (series,).
    """
    positions = position_mm.detach().double().cpu()
    weights = [
        _series_weights(row[:length], spacing_mm)
        for row, length in zip(positions, lengths.tolist(), strict=True)
    ]
    num_planes = torch.tensor([len(to_planes) for to_planes, _ in weights])
    num_steps, most = positions.shape[1], int(num_planes.max())
    forth = positions.new_zeros((len(weights), most, num_steps))
    back = positions.new_zeros((len(weights), num_steps, most))
    for number, (to_planes, to_slices) in enumerate(weights):
        planes, length = to_planes.shape
        forth[number, :planes, :length] = to_planes
        back[number, :length, :planes] = to_slices
    device = position_mm.device
    return forth.float().to(device), back.float().to(device), num_planes.to(device)


def _series_weights(position_mm: Tensor, spacing_mm: float) -> tuple[Tensor, Tensor]:
    first, last = position_mm.min(), position_mm.max()
    extent = float(last - first)
    spacing = max(spacing_mm, extent / (MAX_PLANES - 1))
    # A series that ends on a plane, but for rounding, has no further one.
    num_planes = int(-(-(extent - 1e-3) // spacing)) + 1 if extent > 1e-3 else 1
    planes = (first + spacing * torch.arange(num_planes, dtype=torch.float64)).clamp(max=last)
    to_planes, gaps = _linear(planes, position_mm)
    hats = (1 - (planes[:, None] - position_mm).abs() / spacing).clamp(min=0)
    means = hats / hats.sum(dim=1, keepdim=True).clamp(min=1e-6)
    to_planes = torch.where(gaps[:, None] < spacing / 2, means, to_planes)
    return to_planes, _linear(position_mm, planes)[0]


def _linear(wanted: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (wanted, known) of the linear interpolation among known positions.

    With them come the distances (wanted,) of the two known ones on either side.
    """
    weights = wanted.new_zeros((len(wanted), len(known)))
    if len(known) == 1:
        return weights + 1, wanted.new_full((len(wanted),), torch.inf)
    ordered, order = known.sort(stable=True)
    after = torch.searchsorted(ordered, wanted).clamp(1, len(known) - 1)
    gap = (ordered[after] - ordered[after - 1]).clamp(min=1e-6)
    share = ((wanted - ordered[after - 1]) / gap).clamp(0, 1)
    places = torch.arange(len(wanted))
    weights[places, order[after - 1]] = 1 - share
    weights[places, order[after]] = share
    return weights, gap
