"""Windows and intensity transforms on the CPU, in place, one channel after the other.

Draws are those of albumentations. Its own transforms take the channels of a pixel together
and make a new image each; a network takes one channel after the other, and so do these.
"""

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from common.albumentations import windowed_channels
from common.transforms import catalog
from common.transforms.catalog import Node
from common.transforms.draw import HeaderWindow, Recorder


class ChannelStages:
    """A window node and transforms of `plan.INTENSITY`.

    Args:
        nodes: of a pipeline, the window first.
    """

    def __init__(self, nodes: Sequence[Node], where: str) -> None:
        self._recorder = Recorder(nodes, where)

    def __call__(
        self,
        image_hu: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        header_window: HeaderWindow = None,
    ) -> np.ndarray:
        """Return float32 (channels, height, width) in [0, 1]; see `HostStages`."""
        record = self._recorder.draw(image_hu.shape, generator, py, header_window)
        window, *rest = self._recorder.leaves
        widths, centers = record[0]["widths"], record[0]["centers"]
        channels = windowed_channels(image_hu, widths, centers, window.min_max_normalize)
        for position, leaf in enumerate(rest, start=1):
            if position in record:
                _TRANSFORMS[type(leaf).__name__](channels, leaf, record[position])
        return channels


def _fill_holes(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    fill = np.broadcast_to(np.asarray(leaf.fill, np.float32), (len(channels),))
    for left, top, right, bottom in drawn["holes"]:
        channels[:, top:bottom, left:right] = fill[:, None, None]


def _add_noise(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    """Add normal noise: of each plane, two stretches of a table, from places drawn by the seed.

    There is one noise for each of the 65,536 seeds, as in albumentations. Drawing every number anew
    takes almost three times as long.
    """
    size = channels[0].size
    table = _normal_numbers(1 << max(21, (8 * size - 1).bit_length()))
    last, draw = len(table) // 2 - size, random.Random(drawn["seed"]).randint
    pairs = [(draw(0, last), draw(-last - size, -size)) for _ in channels]
    if not leaf.per_channel:
        pairs = pairs[:1] * len(channels)
    strength = drawn["std"] / math.sqrt(2)
    for channel, (first, second) in zip(channels, pairs):
        for start, shift in ((first, drawn["mean"]), (len(table) + second, 0)):
            noise = table[start : start + size].reshape(channel.shape)
            cv2.addWeighted(noise, strength, channel, 1, shift, dst=channel)
        np.clip(channel, 0, 1, out=channel)


@functools.lru_cache(maxsize=2)
def _normal_numbers(length: int) -> np.ndarray:
    """Return `length` numbers of the standard normal distribution, the same ones ever, float32."""
    return np.random.default_rng(0).standard_normal(length, np.float32)


def _adjust_contrast(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    # The draw is for an image whose mean is 1.
    mean = 1.0 if leaf.brightness_by_max else channels.mean(dtype=np.float64)
    channels *= np.float32(drawn["alpha"])
    channels += np.float32(drawn["beta"] * mean)
    np.clip(channels, 0, 1, out=channels)


def _adjust_gamma(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    np.power(channels, np.float32(drawn["gamma"]), out=channels)


_TRANSFORMS: dict[str, Callable[[np.ndarray, Any, dict[str, Any]], None]] = {
    "CoarseDropout": _fill_holes,
    "GaussNoise": _add_noise,
    "RandomBrightnessContrast": _adjust_contrast,
    "RandomGamma": _adjust_gamma,
}
assert catalog.INTENSITY.issuperset(_TRANSFORMS)
