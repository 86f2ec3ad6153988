"""Augmentation pipelines: read from JSON, checked, and applied to samples in HU."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.transforms.sample import SampleTransform, load_transform

__all__ = ["SampleTransform", "load_transform"]


def __getattr__(name: str) -> Any:
    """Import on first use: `sample` takes 2.4 s (albumentations, torch), which no --help needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from common.transforms import sample

    return getattr(sample, name)
