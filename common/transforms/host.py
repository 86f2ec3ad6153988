"""Run the first transforms of a pipeline on the CPU, for one sample."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.albumentations import Memory
from common.errors import InputError
from common.transforms import catalog, matrices
from common.transforms.area_resize import BoxStep
from common.transforms.catalog import Node, leaves, name_of
from common.transforms.channels import ChannelStages
from common.transforms.draw import HeaderWindow, Recorder, SpacingMm, leaves_of
from common.transforms.pipeline import Pipeline
from common.transforms.plan import Layout, Plan, plan_host, repeats, works_on_channels
from common.transforms.warp import Step, simplified, warp_on_host
from common.windows import AIR_HU


class HostStages:
    """The first `count` transforms of a pipeline.

    Where two or more of its geometric ones resample the image, they do it at once.

    Args:
        count: number of its nodes that run here; default: all.

    Raises:
        InputError: what is in mm can't tell how large a pixel is.
    """

    def __init__(self, pipeline: Pipeline, where: str, count: int | None = None) -> None:
        nodes, num_geometric = pipeline.nodes[:count], len(pipeline.geometry)
        plan = Plan(nodes[:num_geometric], (), ())
        if len(nodes) >= num_geometric:
            plan = plan_host(pipeline)
        if pipeline.is_in_mm:
            _require_known_scale(plan.host, where)
        self._before = [catalog.build(node, where) for node in plan.host]
        self._geometry = ComposedGeometry(plan, pipeline, where) if plan.geometry else None
        num_of_scanner = len(pipeline.scanner)
        scanner = nodes[num_geometric : num_geometric + num_of_scanner]
        self._scanner = [catalog.build(node, where) for node in scanner]
        rest = nodes[num_geometric + num_of_scanner :]
        known = list(itertools.takewhile(works_on_channels, rest))
        self._channels = ChannelStages(known, where) if known else None
        self._after = [catalog.build(node, where) for node in rest[len(known) :]]

    def __call__(
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        header_window: HeaderWindow = None,
        spacing_mm: SpacingMm | None = None,
        memory: Memory = None,
    ) -> tuple[np.ndarray, SpacingMm | None]:
        """Return float32 (slices or channels, height, width) of float32 HU, and its `spacing_mm`.

        Args:
            image: (height, width[, slices]).
            generator, py: the random state, which goes on from here.
            spacing_mm: how far rows, columns and slices lie apart; None where nothing is in mm.
            memory: gives an array to return the channels in; others are returned at times.
        """
        for transform in self._before:
            before = image.shape
            for leaf in leaves_of([transform]):
                leaf.params = {}  # those of an earlier sample, where a container does not run it
            image = _run([transform], image, generator, py, spacing_mm)
            if spacing_mm is not None:
                spacing_mm = _spacing_after(transform, before, image.shape, spacing_mm)
        if self._geometry is not None:
            image, spacing_mm = self._geometry(image, generator, py, spacing_mm)
        image = _run(self._scanner, image, generator, py, spacing_mm)
        return self._on_channels(image, generator, py, header_window, memory), spacing_mm

    def _on_channels(
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        header_window: HeaderWindow,
        memory: Memory,
    ) -> np.ndarray:
        if self._channels is None:
            return _channels_first(image)
        channels = self._channels(image, generator, py, header_window, memory)
        if not self._after:
            return channels
        # albumentations takes the channels of a pixel together.
        image = np.ascontiguousarray(np.moveaxis(channels, 0, 2))
        return _channels_first(_run(self._after, image, generator, py))


def _require_known_scale(nodes: Sequence[Node], where: str) -> None:
    """Refuse transforms that are run one by one where only their draw tells a pixel's size."""
    for node in nodes:
        changing = catalog.with_trait("zoom")
        if name_of(node) in catalog.CONTAINERS:
            changing |= catalog.with_trait("whole") | {"FitSize"}
        if repeats(node):  # only the last draw is known of what runs twice
            changing |= catalog.with_trait("turn")
        names = sorted({name_of(leaf) for leaf in leaves(node)} & changing)
        if names:
            raise InputError(
                f"{where}: {', '.join(names)} can't be followed in mm where a transform stands "
                f"behind that does not combine with others (or where its own arguments don't): "
                f"give such transforms first, or leave out those in mm"
            )


def _spacing_after(
    transform: Any, before: tuple[int, ...], after: tuple[int, ...], spacing_mm: SpacingMm
) -> SpacingMm:
    for leaf in leaves_of([transform]):
        name, drawn = type(leaf).__name__, leaf.get_applied_params()
        if drawn and name in catalog.with_trait("turn"):
            matrix, _ = matrices.mapping(name, drawn, leaf, drawn["shape"][:2])
            spacing_mm = matrices.spacing_after(matrix, spacing_mm)
    name = type(transform).__name__
    is_shrunk = name == "FitSize" and max(before[:2]) > transform.shrink_above
    if not is_shrunk and name not in catalog.with_trait("whole"):
        return spacing_mm
    row, column = (mm * n / m for mm, n, m in zip(spacing_mm, before, after[:2]))
    return row, column, spacing_mm[2]


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
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        py: random.Random,
        spacing_mm: SpacingMm | None = None,
    ) -> tuple[np.ndarray, SpacingMm | None]:
        """Return float32 (height, width[, slices]), drawn from the given random state, and its
        `spacing_mm`.
        """
        record = self._recorder.draw(image.shape, generator, py, None, spacing_mm)
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
        return _warped(image, run, shapes[-1]), self._recorder.spacing_mm


def _warped(image: np.ndarray, steps: list[Step], size: tuple[int, int]) -> np.ndarray:
    return warp_on_host(image, simplified(steps, size), size, AIR_HU) if steps else image


def _run(
    transforms: Sequence[Any],
    image: np.ndarray,
    generator: np.random.Generator,
    py: random.Random,
    spacing_mm: SpacingMm | None = None,
) -> np.ndarray:
    for transform in transforms:
        transform.set_random_state(generator, py)
        image = transform(image=image, spacing_mm=spacing_mm)["image"]
    return image
