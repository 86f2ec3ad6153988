"""The operations of `common.transforms.physics` in torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.transforms import catalog
from common.transforms.catalog import Node
from common.windows import AIR_HU


class TorchOperations:
    """`Operations` on a device; noise has the strength and spectrum of the CPU's, other pixels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def array(self, values: np.ndarray) -> Tensor:
        kept = values if values.dtype == np.int64 else values.astype(np.float32)
        return torch.from_numpy(kept).to(self._device, non_blocking=True)

    def blurred(self, image: Tensor, taps: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Add weighted rows and columns one by one: a convolution may be rounded to TF32."""
        for axis, weights in zip((1, 2), taps, strict=True):
            radius, length = len(weights) // 2, image.shape[axis]
            pad = (0, 0, radius, radius) if axis == 1 else (radius, radius)
            wide = functional.pad(image, pad, mode="reflect")
            image = wide.narrow(axis, 0, length) * float(weights[0])
            for place, weight in enumerate(weights[1:].tolist(), start=1):
                image.add_(wide.narrow(axis, place, length), alpha=weight)
        return image

    def noise(self, image: Tensor, amplitude: np.ndarray, seed: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(seed)
        white = torch.empty(image.shape, device=self._device).normal_(generator=generator)
        return torch.fft.irfft2(torch.fft.rfft2(white) * self.array(amplitude), s=image.shape[1:])


def scanned(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    """Return images (batch, slices, height, width), HU, each changed by what was drawn for it."""
    transform = catalog.SCANNER_CLASSES[catalog.name_of(leaf)]
    library = TorchOperations(images.device)
    for index in np.flatnonzero(row[:, 0]).tolist():
        numbers = dict(zip(transform.numbers, row[index, 1:].tolist(), strict=True))
        images[index] = transform.changed(images[index], numbers, library).clamp_(min=AIR_HU)
    return images
