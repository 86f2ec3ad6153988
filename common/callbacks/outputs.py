"""Keep the outputs of the latest validations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.files import replacing
from common.networks.hooks import Callback, FittedNetwork


class LatestOutputs(Callback):
    """Holds the outputs of the latest validation of the whole, and the iteration it was at.

    Attributes:
        outputs: arrays by name, such as `logits`, `labels` and `index`; empty before.
        iteration: -1 before.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}
        self.iteration = -1
        self._seen: dict[str, Any] = {}

    def on_outputs(
        self,
        network: FittedNetwork,
        outputs: Mapping[str, np.ndarray],
        metrics: dict[str, float | None],
    ) -> None:
        """Keep the outputs; those of the weights that are predicted with come last."""
        self._seen = dict(outputs)

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        self.outputs, self.iteration = self._seen, network.state.iteration


class OutputSaver(LatestOutputs):
    """Writes the raw outputs of each validation of the whole fold, and keeps the newest few.

    A file is `iteration_<n>.npz` with one array per output, such as `logits`, `labels` and
    `index`, the row in the validation data. No id of a patient or an image is in it.
    """

    def __init__(self, folder: Path, num_kept: int) -> None:
        super().__init__()
        self.folder = folder
        self.num_kept = num_kept

    def on_fit_begin(self, network: FittedNetwork) -> None:
        """Remove files later than the checkpoint that a resumed run starts from."""
        for iteration, path in self._files():
            if iteration > network.state.iteration:
                path.unlink()

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        super().on_metrics(network, metrics)
        path = self.folder / f"iteration_{network.state.iteration:07d}.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **self.outputs)
        for _, old in self._files()[: -self.num_kept]:
            old.unlink()

    def _files(self) -> list[tuple[int, Path]]:
        paths = self.folder.glob("iteration_[0-9]*.npz")
        return sorted((int(path.stem.removeprefix("iteration_")), path) for path in paths)
