"""Datasets whose samples depend on (seed, epoch, sample) alone, and their samplers."""

from common.datasets.base import AbstractDataset
from common.datasets.classification import ImageClassificationDataset
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler

__all__ = ["AbstractDataset", "EpochSampler", "ImageClassificationDataset", "make_loader"]
