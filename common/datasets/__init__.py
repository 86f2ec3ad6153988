"""Datasets whose samples depend on (seed, epoch, sample) alone, and their samplers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.datasets.base import AbstractDataset
from common.datasets.classification import ImageClassificationDataset

if TYPE_CHECKING:
    from common.datasets.loading import make_loader
    from common.datasets.samplers import EpochSampler, LengthSampler, batches_per_epoch
    from common.datasets.weighted_samplers import (
        BalancedSampler,
        GroupSampler,
        PositiveRangeSampler,
        middle_weights,
    )

__all__ = [
    "AbstractDataset",
    "BalancedSampler",
    "EpochSampler",
    "GroupSampler",
    "ImageClassificationDataset",
    "LengthSampler",
    "PositiveRangeSampler",
    "batches_per_epoch",
    "make_loader",
    "middle_weights",
]


def __getattr__(name: str) -> Any:
    """Import on first use what needs torch, which takes seconds: an engine predicts without."""
    if name in __all__:
        for module in ("loading", "samplers", "weighted_samplers"):
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
