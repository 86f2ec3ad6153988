"""Run the first transforms of a pipeline on the CPU, for one sample."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.transforms import catalog
from common.transforms.area_resize import BoxStep
from common.transforms.channels import ChannelStages
from common.transforms.draw import HeaderWindow, Recorder
from common.transforms.pipeline import Pipeline
from common.transforms.plan import Layout, Plan, plan_host, works_on_channels
from common.transforms.warp import Step, simplified, warp_on_host
from common.windows import AIR_HU


class HostStages:
    """The first `count` transforms of a pipeline.

    Where two or more of its geometric ones resample the image, they do it at once.

    Args:
        count: number of its nodes that run here; default: all.
    """

    def __init__(self, pipeline: Pipeline, where: str, count: int | None = None) -> None:
        nodes, num_geometric = pipeline.nodes[:count], len(pipeline.geometry)
        plan = Plan(nodes[:num_geometric], (), ())
        if len(nodes) >= num_geometric:
            plan = plan_host(pipeline)
        self._before = [catalog.build(node, where) for node in plan.host]
        self._geometry = ComposedGeometry(plan, pipeline, where) if plan.geometry else None
        rest = nodes[num_geometric:]
        known = list(itertools.takewhile(works_on_channels, rest))
        self._channels = ChannelStages(known, where) if known else None
        self._after = [catalog.build(node, where) for node in rest[len(known) :]]

    def __call__(
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        header_window: HeaderWindow = None,
    ) -> np.ndarray:
        """Return float32 (slices or channels, height, width) of float32 HU.

        Args:
            image: (height, width[, slices]).
            generator, py: the random state, which goes on from here.
        """
        image = _run(self._before, image, generator, py)
        if self._geometry is not None:
            image = self._geometry(image, generator, py)
        if self._channels is None:
            return _channels_first(image)
        channels = self._channels(image, generator, py, header_window)
        if not self._after:
            return channels
        # albumentations takes the channels of a pixel together.
        image = np.ascontiguousarray(np.moveaxis(channels, 0, 2))
        return _channels_first(_run(self._after, image, generator, py))


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(np.atleast_3d(image), 2, 0))


class ComposedGeometry:
    """Several geometric transforms as one resampling, but for areas that are averaged.

    One after the other would blur the image each time; and this is what a device does.
    """

    def __init__(self, plan: Plan, pipeline: Pipeline, where: str) -> None:
        self._recorder = Recorder(plan.geometry, where)
        self._layout = Layout(Plan(plan.host, plan.geometry, ()), pipeline)

    def __call__(
        self, image: np.ndarray, generator: np.random.Generator, py: random.Random
    ) -> np.ndarray:
        """Return float32 (height, width[, slices]), drawn from the given random state."""
        record = self._recorder.draw(image.shape, generator, py)
        row, shapes = self._layout.row(record, image.shape[:2], 0)
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
    transforms: Sequence[Any], image: np.ndarray, generator: np.random.Generator, py: random.Random
) -> np.ndarray:
    for transform in transforms:
        transform.set_random_state(generator, py)
        image = transform(image=image)["image"]
    return image
