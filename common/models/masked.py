"""Layers over sequences of different lengths in one batch: padded steps change nothing.

A batch is (sequences, steps, channels) with `lengths` (sequences,), int64, best on the host: a
sequence is its first `length` steps. Whatever stands in the others neither reaches a step of a
sequence nor counts in a statistic: each sequence gets what it gets alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# Wavelengths of the rotation of queries and keys, in mm: the shortest is more than twice the usual
# 5 mm between slices, or neighbours would look like the slice itself; the longest is more than
# twice the height of a head.
SHORTEST_MM = 12.0
LONGEST_MM = 400.0


def step_mask(lengths: Tensor, num_steps: int, device: torch.device | None = None) -> Tensor:
    """Return bool (sequences, steps): True where a step belongs to its sequence.

    Args:
        device: where the mask is needed, if not where the lengths are.
    """
    mask = torch.arange(num_steps, device=lengths.device) < lengths[:, None]
    return mask.to(device or lengths.device, non_blocking=True)


def masked_batch_norm(norm: nn.Module, values: Tensor, mask: Tensor) -> Tensor:
    """Return normalised `values` (sequences, steps, channels, ...).

    Padded steps are in no statistic and are zero. A batch of one value per channel has no variance:
    it is normalised by the running statistics.

    Args:
        norm: an `nn.BatchNorm1d`, or an `nn.BatchNorm2d` where each step is a map.
        mask: bool (sequences, steps), the steps that count.
    """
    steps, was_training = values[mask], norm.training
    if steps[:, 0].numel() < 2:
        norm.eval()
    normalised: Tensor = norm(steps)
    norm.train(was_training)
    result = torch.zeros_like(values, dtype=normalised.dtype)
    result[mask] = normalised
    return result


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1
) -> nn.Conv1d:
    """Return an `nn.Conv1d` with as many steps out as in; `kernel_size` is odd."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv1d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation)


def masked_convolution(layer: nn.Module, values: Tensor, mask: Tensor) -> Tensor:
    """Return (sequences, steps, channels out) of `values` (sequences, steps, channels in).

    Beyond either end of a sequence there are zeros.
    """
    kept = values.masked_fill(~mask[..., None], 0.0)
    return layer(kept.transpose(1, 2)).transpose(1, 2)


class BidirectionalRNN(nn.Module):
    """GRU or LSTM in both directions, each from the true end of its sequence.

    Args:
        kind: gru or lstm.
        hidden: units of each direction; (sequences, steps, 2 * hidden) come out.
    """

    def __init__(self, kind: str, in_channels: int, hidden: int, num_layers: int = 1) -> None:
        super().__init__()
        rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.rnn = rnn(in_channels, hidden, num_layers, batch_first=True, bidirectional=True)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the states of both directions, zero at padded steps."""
        if torch.jit.is_tracing():  # for an engine, which sees one sequence at a time, unpadded
            return self.rnn(values)[0]
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=values.shape[1]
        )
        return states


class RotaryAttention(nn.Module):
    """Self-attention in which queries and keys are turned by their position in mm.

    A score depends on the distance of two steps in mm (rotary embedding, Su et al. 2021, with the
    position in place of the number of the token), so slices of 1 mm and of 5 mm are not confused.

    Args:
        dim: channels, a multiple of 4 * num_heads.
    """

    frequencies: Tensor

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)
        num_pairs = dim // num_heads // 2
        exponents = torch.linspace(0, 1, num_pairs, dtype=torch.float64)
        waves_mm = SHORTEST_MM * (LONGEST_MM / SHORTEST_MM) ** exponents
        self.register_buffer("frequencies", (2 * math.pi / waves_mm).float(), persistent=False)

    def forward(self, values: Tensor, position_mm: Tensor, mask: Tensor) -> Tensor:
        """Return (sequences, steps, dim); keys where `mask` is False are not attended to."""
        shape = (*values.shape[:2], 3, self.num_heads, -1)
        queries, keys, contents = self.to_qkv(values).view(shape).permute(2, 0, 3, 1, 4)
        angles = position_mm.float()[:, None, :, None] * self.frequencies
        attended = scaled_dot_product_attention(
            _turned(queries, angles),
            _turned(keys, angles),
            contents,
            attn_mask=mask[:, None, None, :],
        )
        return self.to_out(attended.transpose(1, 2).flatten(2))


def _turned(vectors: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (first half, second half) of `vectors` by `angles`."""
    first, second = vectors.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.to(vectors.dtype)
