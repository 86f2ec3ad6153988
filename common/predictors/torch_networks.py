"""Networks of predictors in torch: opened from their weights, and run over a dataset."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from common.checkpoint import load_weights_file
from common.datasets.loading import make_loader
from common.errors import InputError
from common.features.slice_outputs import Scaling
from common.models.study import build_series_model
from common.networks.classifier import ImageClassifierNetwork
from common.networks.sequence import SequenceClassifierNetwork, SeriesImageNetwork
from common.networks.state import FitSettings
from common.precision import keep_freed_memory
from common.predictors.base import BuildModel, PredictOptions, checked_weights

# By what the network sees.
_RUN_BY: dict[str, type[ImageClassifierNetwork]] = {
    "slices": ImageClassifierNetwork,
    "series": SeriesImageNetwork,
    "outputs": SequenceClassifierNetwork,
}


class TorchNetworks:
    """Opens networks in evaluation mode on the CPU; see `common.predictors.base.Networks`.

    Args:
        build_model: makes a network, with any weights, from the `model` dict of predictor.json.
    """

    def __init__(self, build_model: BuildModel) -> None:
        self.build_model = build_model

    def slice_network(self, folder: Path, content: dict[str, Any]) -> nn.Module:
        network, path = self.build_model(content["model"]), checked_weights(folder, content)
        try:
            network.load_state_dict(load_weights_file(path))
        except (RuntimeError, InputError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path} does not hold the weights of this network: {error}"
            ) from error
        return network.eval()

    def sequence_network(
        self, folder: Path, content: dict[str, Any]
    ) -> tuple[nn.Module, list[Scaling | None]]:
        state = load_weights_file(checked_weights(folder, content))
        network = build_series_model(content["model"])
        network.load_state_dict(state["network"])
        scalings = [
            s and Scaling(s["mean"].numpy(), s["spread"].numpy()) for s in state["scalings"]
        ]
        return network.eval(), scalings


def run_network(
    network: nn.Module, sees: str, dataset: Any, batch_size: int, options: PredictOptions
) -> dict[str, NDArray[Any]]:
    """Return the outputs of a network for all samples, by name (`EvaluatedNetwork.predict`).

    Args:
        sees: `slices`, `series` (of images) or `outputs` (of slice networks); slices are
            channels-last.
    """
    keep_freed_memory()
    settings = FitSettings(
        iteration_num=0,
        channels_last=sees == "slices",
        device=torch.device(options.device),
        amp_dtype=options.amp_dtype,
        compile=options.compile,
    )
    runner = _RUN_BY[sees](network, settings, (), with_features=options.with_features)
    loader = make_loader(dataset, batch_size, options.num_workers)
    # Closed, since a frame of a traceback would keep the loader's processes.
    with contextlib.closing(_counted(loader, options)) as batches:
        return runner.predict(cast(DataLoader, batches))


def _counted(loader: DataLoader, options: PredictOptions) -> Generator[dict[str, Any], None, None]:
    """Yield the batches, and report the number of slices of each."""
    for batch in loader:
        yield batch
        if options.on_batch is not None:
            options.on_batch(int((batch["index"] >= 0).sum()))
