"""Resizing that averages over the area of each pixel, as OpenCV's INTER_AREA, for a batch."""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class BoxStep:
    """Boxes of the images of a batch, each resized to one size.

    Areas are averaged where a box is no smaller than that along either axis, and pixels
    interpolated where it is no larger. A box that is larger along one axis and smaller along the
    other is interpolated too, between the pixels that an area begins and ends in: OpenCV's
    INTER_AREA does so.

    Attributes:
        boxes: int64 (batch, 4): left, top, width, height.
        size: (height, width) of what comes out.
    """

    boxes: np.ndarray
    size: tuple[int, int]

    def on_host(self, image: np.ndarray) -> np.ndarray:
        """Return float32 (height, width[, slices]) of the one image that is the batch."""
        left, top, width, height = self.boxes[0]
        image = image[top : top + height, left : left + width]
        if image.shape[:2] == self.size:
            return image
        averages = height > self.size[0] or width > self.size[1]
        method = cv2.INTER_AREA if averages else cv2.INTER_LINEAR
        resized = cv2.resize(np.ascontiguousarray(image), self.size[::-1], interpolation=method)
        return resized.reshape(*self.size, *image.shape[2:])

    def on_device(self, images: "Tensor") -> "Tensor":
        """Return float32 (batch, slices, *size) of float32 images (batch, slices, rows, columns).

        Weighted rows and columns are added one by one: a matrix product may be rounded to TF32.
        """
        import torch  # which takes seconds, and the CPU does not need

        for axis in (2, 3):
            index, weight = self._taps(axis - 2)
            shape = (-1, 1, index.shape[1], 1) if axis == 2 else (-1, 1, 1, index.shape[1])
            total: Tensor | None = None
            for tap in range(index.shape[2]):
                places = torch.from_numpy(index[:, :, tap].copy())
                weights = torch.from_numpy(weight[:, :, tap].astype(np.float32))
                factor = weights.to(images.device, non_blocking=True).view(shape)
                if len(index) == 1:
                    part = images.index_select(axis, places[0].to(images.device))
                else:
                    size = [*images.shape]
                    size[axis] = index.shape[1]
                    wanted = places.to(images.device).view(shape).expand(size)
                    part = images.gather(axis, wanted)
                total = part * factor if total is None else total.addcmul_(part, factor)
            assert total is not None
            images = total
        return images

    def _taps(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indices and weights (batch or 1, length, taps) along rows (0) or columns (1)."""
        boxes = self.boxes[:1] if (self.boxes == self.boxes[0]).all() else self.boxes
        both = []
        for left, top, width, height in boxes.tolist():
            shrinks = height > self.size[0] or width > self.size[1]
            grows = height < self.size[0] or width < self.size[1]
            first, length = ((top, height), (left, width))[axis]
            index, weight = _taps_of(length, self.size[axis], shrinks, grows)
            both.append((first + index, weight))
        num_taps = max(index.shape[1] for index, _ in both)
        pad = [(0, 0), (0, num_taps)]
        indices = [np.pad(index, pad, mode="edge")[:, :num_taps] for index, _ in both]
        weights = [np.pad(weight, pad)[:, :num_taps] for _, weight in both]
        return np.stack(indices), np.stack(weights)


@functools.lru_cache(maxsize=4096)
def _taps_of(length: int, wanted: int, shrinks: bool, grows: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of `length` that make each of `wanted`, and weights (wanted, taps).

    Args:
        shrinks, grows: whether the image does so along some axis.
    """
    scale = length / wanted
    place = np.arange(wanted)[:, None]
    if shrinks and grows:
        # Rounded as OpenCV does (resize.cpp, `area_mode`): a place may lie on an edge.
        inverse = wanted / length
        low = np.floor(place * (1 / inverse)).astype(np.int64)
        part = ((place + 1) - (low + 1) * inverse).clip(0).astype(np.float32)
        part -= np.floor(part)
        index, weight = low + np.arange(2), np.concatenate([1 - part, part], axis=1)
    elif shrinks and scale > 1:
        start, stop = place * scale, (place + 1) * scale
        index = np.floor(start + 1e-9).astype(np.int64) + np.arange(math.ceil(scale) + 1)
        weight = (np.minimum(stop, index + 1) - np.maximum(start, index)).clip(0) / scale
    else:
        centre = (place + 0.5) * scale - 0.5
        low = np.floor(centre).astype(np.int64)
        index = low + np.arange(2)
        weight = 1 - np.abs(centre - index)
    return index.clip(0, length - 1), weight
