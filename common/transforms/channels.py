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
from scipy.special import ndtri

from common.albumentations import Memory, windowed_channels
from common.transforms import catalog
from common.transforms.catalog import Node
from common.transforms.draw import HeaderWindow, Recorder

# As many as there are 16-bit numbers: noise beyond 4.3 standard deviations does not occur.
NUM_QUANTILES = 2**16
NOISE_ROWS = 128


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
        memory: Memory = None,
    ) -> np.ndarray:
        """Return float32 (channels, height, width) in [0, 1]; see `HostStages`."""
        record = self._recorder.draw(image_hu.shape, generator, py, header_window)
        window, *rest = self._recorder.leaves
        widths, centers = record[0]["widths"], record[0]["centers"]
        channels = windowed_channels(image_hu, widths, centers, window.min_max_normalize, memory)
        for position, leaf in enumerate(rest, start=1):
            if position in record:
                _TRANSFORMS[type(leaf).__name__](channels, leaf, record[position])
        return channels


def _fill_holes(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    fill = np.broadcast_to(np.asarray(leaf.fill, np.float32), (len(channels),))
    for left, top, right, bottom in drawn["holes"]:
        channels[:, top:bottom, left:right] = fill[:, None, None]


def _add_noise(channels: np.ndarray, leaf: Any, drawn: dict[str, Any]) -> None:
    """Add the noise of albumentations' GaussNoise in a third of the time."""
    height, width = channels.shape[1:]
    num_planes = len(channels) if leaf.per_channel else 1
    generator = np.random.SFC64(drawn["seed"])
    noise_of = _normal_quantiles() * np.float32(drawn["std"]) + np.float32(drawn["mean"])
    # Blocks that fit a cache; of a multiple of four numbers, which are drawn at a time.
    for top in range(0, height, NOISE_ROWS):
        block = channels[:, top : top + NOISE_ROWS]
        size = block.shape[1] * width * num_planes
        # OpenCV looks 16-bit numbers up without making wide integers of them.
        index = generator.random_raw(math.ceil(size / 4)).view(np.uint16)[:size]
        planes = cv2.split(index.reshape(-1, width, num_planes))
        noises = [cv2.LUT(plane, noise_of) for plane in planes]
        for channel, noise in zip(block, noises if leaf.per_channel else noises * len(block)):
            channel += noise
            np.clip(channel, 0, 1, out=channel)


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """Return evenly spaced quantiles of the standard normal distribution, float32, variance 1."""
    values = ndtri((np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES)
    return (values / values.std()).astype(np.float32)


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
