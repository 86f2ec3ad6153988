"""Runs the first transforms of a pipeline on the CPU, for one sample."""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from scipy.special import ndtri

from common.transforms import catalog
from common.transforms.boxes import BoxStep
from common.transforms.draws import HeaderWindow, Recorder, leaves_of
from common.transforms.pipeline import AIR_HU, Pipeline
from common.transforms.plan import Layout, Plan, plan_host
from common.transforms.warp import Step, simplified, warp_on_host

# As many as there are 16-bit numbers: noise beyond 4.3 standard deviations does not occur.
NUM_QUANTILES = 2**16


class HostStages:
    """The first `count` transforms of a pipeline.

    Where two or more of its geometric ones resample the image, they do it at once.

    Args:
        pipeline: where the transforms are from.
        where: the name of its file, for messages.
        count: how many of its nodes run here; default: all.
    """

    def __init__(self, pipeline: Pipeline, where: str, count: int | None = None) -> None:
        nodes, num_geometric = pipeline.nodes[:count], len(pipeline.geometry)
        plan = Plan(nodes[:num_geometric], (), ())
        if len(nodes) >= num_geometric:
            plan = plan_host(pipeline)
        self._before = [catalog.build(node, where) for node in plan.host]
        self._geometry = ComposedGeometry(plan, pipeline, where) if plan.geometry else None
        self._after = [catalog.build(node, where) for node in nodes[num_geometric:]]
        for leaf in leaves_of(self._after):
            if type(leaf).__name__ == "GaussNoise" and leaf.noise_scale_factor == 1:
                leaf.get_params_dependent_on_data = functools.partial(_noise_of, leaf)

    def __call__(
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        header_window: HeaderWindow = None,
    ) -> np.ndarray:
        """Returns float32 (height, width[, slices or channels]) of float32 HU.

        Args:
            image: (height, width[, slices]).
            generator, py: the random state, which goes on from here.
            header_window: (center, width) that the header of the slice names, HU.
        """
        image = _run(self._before, image, generator, py)
        if self._geometry is not None:
            image = self._geometry(image, generator, py)
        return _run(self._after, image, generator, py, header_window)


def _noise_of(leaf: Any, params: dict[str, Any], data: Any) -> dict[str, np.ndarray]:
    """The noise of albumentations' GaussNoise, with its draws but in a third of the time."""
    std, mean = (leaf.py_random.uniform(*limits) for limits in (leaf.std_range, leaf.mean_range))
    height, width, *channels = params["shape"]
    num_channels = math.prod(channels) if leaf.per_channel else 1
    generator = np.random.SFC64(leaf.random_generator.integers(0, 2**16))
    size = height * width * num_channels
    # Four numbers at a time; OpenCV looks them up without making wide integers of them.
    index = generator.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(height, -1)
    noise = cv2.LUT(index, _normal_quantiles() * np.float32(std) + np.float32(mean))
    noise = noise.reshape(height, width, *([num_channels] if channels else []))
    return {"noise_map": np.broadcast_to(noise, params["shape"])}


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """Evenly spaced quantiles of the standard normal distribution, float32, variance 1."""
    values = ndtri((np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES)
    return (values / values.std()).astype(np.float32)


class ComposedGeometry:
    """Several geometric transforms as one resampling, but for areas that are averaged.

    One after the other would blur the image each time; and this is what a device does.

    Args:
        plan: whose geometry it is.
        pipeline: where that is from.
        where: the name of the file, for messages.
    """

    def __init__(self, plan: Plan, pipeline: Pipeline, where: str) -> None:
        self._recorder = Recorder(plan.geometry, where)
        self._layout = Layout(Plan(plan.host, plan.geometry, ()), pipeline)

    def __call__(
        self, image: np.ndarray, generator: np.random.Generator, py: random.Random
    ) -> np.ndarray:
        """Returns float32 (height, width[, slices]), drawn from the given random state."""
        record = self._recorder.draw(image.shape, generator, py)
        row, shapes = self._layout.row_and_shapes(record, image.shape[:2], 0)
        if image.ndim == 3 and self._layout.are_swapped(row[None])[0]:
            image = np.ascontiguousarray(image[:, :, ::-1])
        run: list[Step] = []
        for step, shape in zip(self._layout.steps(row[None]), shapes):
            if isinstance(step, BoxStep):
                image = step.on_host(_warped(image, run, shape))
                run = []
            else:
                run.append(step)
        return _warped(image, run, shapes[-1])


def _warped(image: np.ndarray, steps: list[Step], size: tuple[int, int]) -> np.ndarray:
    return warp_on_host(image, simplified(steps, size), size, AIR_HU) if steps else image


def _run(
    transforms: Sequence[Any],
    image: np.ndarray,
    generator: np.random.Generator,
    py: random.Random,
    header_window: HeaderWindow = None,
) -> np.ndarray:
    for transform in transforms:
        transform.set_random_state(generator, py)
        image = transform(image=image, header_window=header_window)["image"]
    return image
