"""Random batches for sequence networks, alone and padded."""

from typing import Any

import numpy as np
import torch


def random_sequences(lengths: list[int], feature_dims: list[int], num_logits: int, seed: int = 0):
    """A list of inputs of single studies (no padding), float32."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32))

    return [
        {
            "features": [draw(n, dim) for dim in feature_dims],
            "logits": draw(n, num_logits),
            "metadata": draw(n, 5),
            "position_mm": torch.from_numpy(rng.normal(size=(1, n)).cumsum(1).astype(np.float32)),
            "lengths": torch.tensor([n]),
        }
        for n in lengths
    ]


def padded(sequences: list[dict[str, Any]], extra: int = 0, filling: float = 7.5) -> dict[str, Any]:
    """One batch of all; padded steps hold `filling`, which must not matter."""
    longest = max(int(s["lengths"]) for s in sequences) + extra

    def stack(values: list[torch.Tensor]) -> torch.Tensor:
        result = torch.full((len(values), longest, *values[0].shape[2:]), filling)
        for row, value in zip(result, values):
            row[: value.shape[1]] = value[0]
        return result

    batch: dict[str, Any] = {
        name: stack([s[name] for s in sequences]) for name in ("logits", "metadata", "position_mm")
    }
    batch["features"] = [stack(list(v)) for v in zip(*(s["features"] for s in sequences))]
    batch["lengths"] = torch.cat([s["lengths"] for s in sequences])
    return batch
