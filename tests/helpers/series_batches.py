"""Random series of images, alone and padded."""

from typing import Any

import numpy as np
import torch


def random_series(lengths: list[int], size: int = 32, seed: int = 0) -> list[dict[str, Any]]:
    """Inputs of single series (no padding), float32; slices are about 5 mm apart."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32))

    return [
        {
            "images": draw(n, 3, size, size),
            "metadata": draw(n, 5),
            "position_mm": torch.from_numpy(
                rng.uniform(4, 6, size=(1, n)).cumsum(1).astype(np.float32)
            ),
            "lengths": torch.tensor([n]),
        }
        for n in lengths
    ]


def padded_series(series: list[dict[str, Any]], filling: float = 7.5) -> dict[str, Any]:
    """One batch of all, longer than needed; padded steps hold `filling`, which must not matter."""
    longest = max(int(s["lengths"]) for s in series) + 2
    batch: dict[str, Any] = {"lengths": torch.cat([s["lengths"] for s in series])}
    for name in ("images", "metadata", "position_mm"):
        shape = series[0][name].shape[2:]
        batch[name] = torch.full((len(series), longest, *shape), filling)
        for row, single in zip(batch[name], series):
            row[: single[name].shape[1]] = single[name][0]
    return batch


def assert_padding_changes_nothing(model: torch.nn.Module) -> None:
    """Each series gets alone what it gets in a padded batch, to 1e-5."""
    series = random_series([5, 1, 3])
    model.eval()
    with torch.no_grad():
        together = model(padded_series(series))["logits"]
        for number, single in enumerate(series):
            alone = model(single)["logits"][0]
            torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-5, rtol=0)
