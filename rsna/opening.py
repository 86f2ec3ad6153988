"""Open a predictor of the task, in torch or in the engine that the flags ask for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.predictors.base import AbstractPredictor
from common.predictors.engine import Precision
from common.predictors.loading import load_predictor
from config import Config

if TYPE_CHECKING:
    import torch


def open_predictor(folder: Path, engine: Precision | None = None) -> AbstractPredictor:
    """Return the predictor in a folder, ready to predict on the CPU; see `load_predictor`."""
    return load_predictor(folder, _build_model, engine)


def device_of(config: Config) -> "torch.device | str":
    """Return where networks run: --device, or the CPU for an engine, which needs no torch."""
    if config.engine.precision is not None:
        return "cpu"
    from rsna.build import find_device  # torch takes seconds

    return find_device(config)


def _build_model(specification: dict[str, Any]) -> Any:
    from rsna_model import build_model  # torch and timm take seconds

    return build_model(specification)
