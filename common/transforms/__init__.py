"""Augmentation pipelines: read from JSON, checked, and applied to samples in HU."""

from common.transforms.sample import SampleTransform, load_transform

__all__ = ["SampleTransform", "load_transform"]
