"""The device side of a transform: a batch of slices in HU becomes a batch of images, in torch.

The loader hands over int16 HU with a row of drawn numbers for each sample (`HostTransform`), and
`DeviceTransform` does the rest where the network runs. Noise is drawn on the device from the seed
of the sample: it has the strength that albumentations drew, but not its pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.transforms import catalog, sizes
from common.transforms.area_resize import BoxStep
from common.transforms.catalog import Node, name_of
from common.transforms.draw import HeaderWindow, Recorder, random_state
from common.transforms.host import HostStages
from common.transforms.matrices import averages_areas
from common.transforms.physics import Spacing, known_spacing_mm
from common.transforms.physics_device import scanned
from common.transforms.pipeline import Pipeline
from common.transforms.plan import Layout, plan_device
from common.transforms.warp import AxisStep, MatrixStep, Step, coordinates, simplified
from common.windows import AIR_HU


class HostTransform:
    """The part of a pipeline that the loader runs where the rest runs on a device."""

    def __init__(self, pipeline: Pipeline, where: str) -> None:
        self._arguments = (pipeline, where)
        plan = plan_device(pipeline)
        self._stages = HostStages(pipeline, where, len(plan.host)) if plan.host else None
        self._is_in_mm = pipeline.is_in_mm
        self._recorder = Recorder((*plan.geometry, *plan.rest), where)
        self._layout = Layout(plan, pipeline)

    def __call__(
        self,
        image_hu: np.ndarray,
        seed: int,
        header_window: HeaderWindow = None,
        spacing_mm: Spacing = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return an image and the row of its draws, float64.

        The image is (slices, height, width) as it came, or float32 (slices or channels, height,
        width) where some of the pipeline runs here.

        Args:
            image_hu: (slices, height, width), int16 HU.
        """
        generator, py = random_state(seed)
        py.random()  # Compose draws whether it runs at all
        image, known = image_hu, None
        if self._is_in_mm:
            known = known_spacing_mm(spacing_mm, image_hu.shape[1:])
        if self._stages is not None:
            image = image_hu[0] if len(image_hu) == 1 else np.moveaxis(image_hu, 0, 2)
            image = np.ascontiguousarray(image, np.float32)
            image, known = self._stages(image, generator, py, header_window, known)
        shape = image.shape[1:] if len(image) == 1 else (*image.shape[1:], len(image))
        record = self._recorder.draw(shape, generator, py, header_window, known)
        return image, self._layout.row(record, shape[:2], seed)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return HostTransform, self._arguments


class DeviceTransform:
    """Makes the images of a batch from the outputs of `HostTransform`.

    Raises:
        ValueError: the size of the images depends on what goes in.
    """

    def __init__(self, pipeline: Pipeline, channels_last: bool = False) -> None:
        size = sizes.output_size(pipeline.geometry)
        if size is None:
            raise ValueError("a device makes batches of one image size only: add a Resize")
        self.plan = plan_device(pipeline)
        self.num_windows = catalog.num_windows(pipeline.window)
        self._layout = Layout(self.plan, pipeline)
        self._size = size
        self._box_inputs = _sizes_before_boxes(pipeline, len(self.plan.host))
        self._normalization = pipeline.normalization
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def describe(self) -> str:
        """Return which transforms run on the CPU and which on the device, in one line."""
        device = [name_of(node) for node in (*self.plan.geometry, *self.plan.rest)]
        if self._normalization is not None:
            device.append(catalog.NORMALIZE)
        host = ", ".join(map(name_of, self.plan.host)) or "none"
        return f"on the CPU: {host}; on the device: {', '.join(device) or 'none'}"

    @torch.no_grad()
    def __call__(self, images: Tensor, rows: np.ndarray) -> Tensor:
        """Return float32 (batch, channels, height, width), as `SampleTransform` makes them.

        Args:
            images: (batch, slices, rows, columns) of the loader, on the device; smaller images are
                padded to the right and below.
            rows: float64 (batch, numbers), on the CPU.
        """
        with torch.autocast(images.device.type, enabled=False):
            images = self._moved(images.to(torch.float32, copy=True), rows)
            for leaf, place in self._layout.rest:
                # A seed for each sample and each transform that draws on the device.
                seeds = [int(seed) * 1_000_003 + place.start for seed in rows[:, 0]]
                images = _TRANSFORMS[name_of(leaf)](images, leaf, rows[:, place], seeds)
            return self._normalized(images).contiguous(memory_format=self._format)

    def _moved(self, images: Tensor, rows: np.ndarray) -> Tensor:
        swapped = np.flatnonzero(self._layout.are_swapped(rows))
        if len(swapped) and images.shape[1] > 1:
            images[swapped] = images[swapped].flip(1)
        run: list[Step] = []
        inputs = iter(self._box_inputs)
        for step in self._layout.steps(rows):
            if not isinstance(step, BoxStep):
                run.append(step)
                continue
            size = next(inputs)
            if run:
                assert size is not None
                images = warp(images, run, size)
            images, run = step.on_device(images), []
        return warp(images, run, self._size) if run else images

    def _normalized(self, images: Tensor) -> Tensor:
        if self._normalization is None:
            return images
        repeats = images.shape[1] // len(self._normalization.mean)
        mean, std = (
            _on(np.array(values * repeats)[None, :, None, None], images)
            for values in self._normalization
        )
        return images.sub_(mean).div_(std)


def _sizes_before_boxes(pipeline: Pipeline, start: int) -> list[tuple[int, int] | None]:
    return [
        sizes.output_size(pipeline.geometry[:position])
        for position, node in enumerate(pipeline.geometry)
        if position >= start and averages_areas(node)
    ]


def _on(values: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(images.device, non_blocking=True)


def warp(images: Tensor, steps: Sequence[Step], size: tuple[int, int]) -> Tensor:
    """Return float32 (batch, slices, *size), resampled once.

    Args:
        images: float32 (batch, slices, rows, columns).
        steps: in the order that the transforms run.
    """
    chain = simplified(steps, size)
    if not chain and tuple(images.shape[2:]) == size:
        return images
    x, y, coverage = coordinates(chain, size, torch, lambda values: _on(values, images))
    rows, columns = images.shape[2:]
    size_in = _size_in(steps)
    if (size_in != (rows, columns)).any():  # padded: what lies outside must not be read
        height, width = (_on(values[:, None, None], images) for values in size_in.T)
        x, y = torch.minimum(x.clip(0), width - 1), torch.minimum(y.clip(0), height - 1)
    grid = torch.empty((len(images), *size, 2), device=images.device)
    grid[..., 0] = x * (2 / max(columns - 1, 1)) - 1
    grid[..., 1] = y * (2 / max(rows - 1, 1)) - 1
    warped = functional.grid_sample(images, grid, "bilinear", "border", align_corners=True)
    if coverage is None:
        return warped
    return warped.sub_(AIR_HU).mul_(coverage.unsqueeze(1)).add_(AIR_HU)


def _size_in(steps: Sequence[Step]) -> np.ndarray:
    first = steps[0]
    assert isinstance(first, MatrixStep | AxisStep)
    return first.size_in


def _windowed(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    """Return all windows of all slices, slice-major, in [0, 1]."""
    widths, centers = np.split(row, 2, axis=1)
    shape = (len(row), 1, -1, 1, 1)
    scale = _on((1 / widths).reshape(shape), images)
    offset = _on((0.5 - centers / widths).reshape(shape), images)
    channels = torch.mul(images.unsqueeze(2), scale).add_(offset).clamp_(0, 1)
    if leaf["min_max_normalize"]:
        low, high = channels.amin((3, 4), keepdim=True), channels.amax((3, 4), keepdim=True)
        channels = (channels - low) / torch.where(high > low, high - low, 1)
    return channels.flatten(1, 2)


def _with_holes(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    holes = row.reshape(len(row), -1, 4, 1)
    if not holes.any():
        return images
    x, y = (np.arange(length) for length in (images.shape[3], images.shape[2]))
    columns = (holes[:, :, 0] <= x) & (x < holes[:, :, 2])
    rows = (holes[:, :, 1] <= y) & (y < holes[:, :, 3])
    # Sums of products of 0 and 1 are above 0 whatever precision they are summed in.
    mask = torch.bmm(_on(rows, images).transpose(1, 2), _on(columns, images)) > 0
    fill = np.broadcast_to(np.asarray(leaf["fill"], np.float32), (images.shape[1],))
    if (fill == fill[0]).all():
        return images.masked_fill_(mask.unsqueeze(1), float(fill[0]))
    return torch.where(mask.unsqueeze(1), _on(fill[None, :, None, None], images), images)


def _with_noise(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    generator = torch.Generator(images.device)
    shape = images.shape[1:] if leaf["per_channel"] else (1, *images.shape[2:])
    noise = torch.empty(shape, device=images.device)
    for index in np.flatnonzero(row[:, 0]).tolist():
        _, std, mean = row[index]
        noise.normal_(mean, std, generator=generator.manual_seed(seeds[index]))
        images[index].add_(noise).clamp_(0, 1)
    return images


def _with_contrast(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    is_applied, alpha, beta = row.T[:, :, None, None, None]
    if not is_applied.any():
        return images
    brightness = _on(beta, images)
    if not leaf["brightness_by_max"]:
        brightness = brightness * images.mean((1, 2, 3), keepdim=True)
    return images.mul_(_on(np.where(is_applied, alpha, 1), images)).add_(brightness).clamp_(0, 1)


def _with_gamma(images: Tensor, leaf: Node, row: np.ndarray, seeds: Sequence[int]) -> Tensor:
    is_applied, gamma = row.T[:, :, None, None, None]
    if not is_applied.any():
        return images
    return images.pow_(_on(np.where(is_applied, gamma, 1), images))


_TRANSFORMS = {
    **dict.fromkeys(catalog.WINDOWS, _windowed),
    **dict.fromkeys(catalog.SCANNER, scanned),
    "CoarseDropout": _with_holes,
    "GaussNoise": _with_noise,
    "RandomBrightnessContrast": _with_contrast,
    "RandomGamma": _with_gamma,
}
