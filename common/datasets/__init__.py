"""Datasets whose samples depend on (seed, epoch, sample) alone, and their samplers."""

from common.datasets.base import AbstractDataset
from common.datasets.classification import ImageClassificationDataset
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
