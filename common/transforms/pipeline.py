"""Read a serialised pipeline into its stages: geometry and scanner on HU, windows, intensity."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np

from common.errors import InputError
from common.transforms import catalog, legacy
from common.transforms.catalog import (
    NAME_KEY,
    NORMALIZE,
    OWN,
    WINDOW,
    WINDOWS,
    Node,
    leaves,
    name_of,
)
from common.windows import AIR_HU

logger = logging.getLogger(__name__)


class Normalization(NamedTuple):
    """Mean and standard deviation: one value per window, one per channel, or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The nodes of one pipeline, in the order they run.

    Attributes:
        geometry: run on float32 HU (height, width[, slices]).
        window: makes float32 [0, 1] of it, slices * windows channels.
        intensity: run on that.
        normalization: the last step, or None where the image stays in [0, 1].
        scanner: run on HU between geometry and window.
    """

    geometry: tuple[Node, ...]
    window: Node
    intensity: tuple[Node, ...]
    normalization: Normalization | None = None
    scanner: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in their order, but the normalization."""
        return (*self.geometry, *self.scanner, self.window, *self.intensity)

    @property
    def is_in_mm(self) -> bool:
        """Whether what it does depends on how far pixels or slices lie apart."""
        return any(name_of(leaf) in catalog.IN_MM for node in self.nodes for leaf in leaves(node))

    def to_dict(self) -> dict[str, Any]:
        """Return the document that `parse_pipeline` reads back to an equal pipeline."""
        nodes = list(self.nodes)
        if self.normalization is not None:
            nodes.append(_normalize_node(self.normalization))
        compose = {NAME_KEY: "Compose", "p": 1.0, "transforms": nodes}
        return {"__version__": A.__version__, "transform": compose}


def parse_pipeline(document: Mapping[str, Any], where: str) -> Pipeline:
    """Return the pipeline that a document of albumentations' `save` describes.

    A geometric transform that stands after DicomWindowShift is moved before it, where it does the
    same to one channel instead of three; those of the scanner run between both. A pipeline without
    DicomWindowShift gets the three fixed windows after its last geometric transform. All is logged.

    Args:
        document: with `__version__` and `transform`; what versions 0.3 to 1.x wrote is translated.
        where: the name of the file, for messages.

    Raises:
        InputError: for an unknown transform or argument, one without an equal in this version, one
            that can't run at its place, or a fill that is not air.
    """
    version = _version(document, where)
    nodes = _children(document.get("transform"), where)
    if version < 2:
        nodes = [legacy.translate(node, where) for node in nodes]
    nodes = [_resolve(node, where) for node in nodes]
    stages = [_stage(node, where) for node in nodes]

    num_windows = stages.count(WINDOW)
    if num_windows > 1:
        names = " and ".join(sorted({name_of(node) for node in nodes} & WINDOWS))
        raise InputError(f"{where}: there are {num_windows} {names}; keep one")
    window_at = stages.index(WINDOW) if num_windows else None
    geometry: list[Node] = []
    scanner: list[Node] = []
    intensity: list[Node] = []
    for position, (node, stage) in enumerate(zip(nodes, stages)):
        if stage == "geometric":
            # Black is 0 in a windowed image and in the grey levels of the old frameworks.
            zero_is_air = version < 2 or (window_at is not None and position > window_at)
            geometry.append(_filled_with_air(node, zero_is_air, where))
        elif stage == "scanner":
            scanner.append(node)
        elif stage == "intensity":
            if window_at is not None and position < window_at:
                raise InputError(
                    f"{where}: {name_of(node)} stands before "
                    f"{name_of(nodes[window_at])}, but works on values in [0, 1]; "
                    "move it behind"
                )
            _check_fill(node, where)
            intensity.append(node)
    window = nodes[window_at] if window_at is not None else {NAME_KEY: _full_name(WINDOW)}

    if window_at is None:
        logger.info("%s: no DicomWindowShift: the three fixed windows are used", where)
    runs = [stage for stage in stages if stage != NORMALIZE]
    if runs != sorted(runs, key=["geometric", "scanner", WINDOW, "intensity"].index):
        behind = ", those of the scanner behind them" if scanner else ""
        logger.info("%s: geometric transforms are moved before the windows%s", where, behind)
    return Pipeline(
        tuple(_explicit(node, where) for node in geometry),
        _explicit(window, where),
        tuple(_explicit(node, where) for node in intensity),
        _normalization(nodes, stages, where),
        tuple(_explicit(node, where) for node in scanner),
    )


def _full_name(name: str) -> str:
    """Return the path of one of our own transforms, as it stands in the files."""
    return f"{OWN[name].__module__}.{name}"


def _version(document: Mapping[str, Any], where: str) -> int:
    try:
        return int(str(document["__version__"]).split(".")[0])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: this is not a pipeline saved by albumentations (no usable __version__)"
        ) from error


def _children(compose: Any, where: str) -> list[Node]:
    if not isinstance(compose, Mapping) or NAME_KEY not in compose:
        raise InputError(f"{where}: this is not a pipeline saved by albumentations (no transform)")
    if name_of(compose) != "Compose" or not isinstance(compose.get("transforms"), list):
        raise InputError(f"{where}: the outermost transform must be a Compose with transforms")
    if compose.get("p", 1.0) != 1:
        raise InputError(f"{where}: p of the outermost Compose must be 1")
    for name in ("bbox_params", "keypoint_params", "additional_targets"):
        if compose.get(name):
            raise InputError(f"{where}: {name} of Compose has no use here; make it null")
    for node in compose["transforms"]:
        _check_form(node, where)
    return list(compose["transforms"])


def _check_form(node: Any, where: str) -> None:
    if not isinstance(node, Mapping) or NAME_KEY not in node:
        raise InputError(f"{where}: {node!r} is not a transform (no {NAME_KEY})")
    children = node.get("transforms", [])
    if not isinstance(children, list):
        raise InputError(f"{where}: transforms of {name_of(node)} must be a list")
    for child in children:
        _check_form(child, where)


def _resolve(node: Node, where: str) -> Node:
    """Return the node under its short name, if there is such a transform."""
    full_name = str(node[NAME_KEY])
    module, _, name = full_name.rpartition(".")
    if name in OWN and module in ("", OWN[name].__module__):
        return {**node, NAME_KEY: _full_name(name)}
    if module not in ("", "albumentations") and not module.startswith("albumentations."):
        raise InputError(f"{where}: unknown transform {full_name}")
    if name == "Compose":
        name = "Sequential"
        node = {"p": node.get("p", 1.0), "transforms": node.get("transforms", [])}
    if name in catalog.CONTAINERS:
        children = [_resolve(child, where) for child in node.get("transforms", [])]
        return {**node, NAME_KEY: name, "transforms": children}
    known = catalog.GEOMETRIC | catalog.INTENSITY
    if name in known - set(OWN) | {NORMALIZE}:
        return {**node, NAME_KEY: name}
    raise InputError(
        f"{where}: {full_name} is unknown, or not defined on CT; known are "
        + ", ".join(sorted(known | catalog.SCANNER | catalog.CONTAINERS))
        + f", {', '.join(sorted(WINDOWS))} and {NORMALIZE}"
    )


def _stage(node: Node, where: str) -> str:
    name = name_of(node)
    if name in catalog.CONTAINERS:
        stages = {_stage(child, where) for child in node["transforms"]}
        if len(stages) != 1 or stages & {WINDOW, NORMALIZE}:
            raise InputError(
                f"{where}: {name} must hold only geometric or only intensity transforms, or only "
                f"those of the scanner, as they run at different stages; it holds "
                f"{', '.join(sorted(stages)) or 'none'}"
            )
        return stages.pop()
    if name in WINDOWS:
        return WINDOW
    if name == NORMALIZE:
        return name
    if name in catalog.SCANNER:
        return "scanner"
    return "geometric" if name in catalog.GEOMETRIC else "intensity"


def _filled_with_air(node: Node, zero_is_air: bool, where: str) -> Node:
    """Return the geometric node with air where it has nothing to show, unless it reflects."""
    if name_of(node) in catalog.CONTAINERS:
        children = [_filled_with_air(child, zero_is_air, where) for child in node["transforms"]]
        return {**node, "transforms": children}
    if "fill" not in catalog.argument_names(node):
        return node
    fill = node.get("fill")
    is_used = node.get("border_mode", cv2.BORDER_CONSTANT) == cv2.BORDER_CONSTANT and not (
        "pad_if_needed" in catalog.argument_names(node) and not node.get("pad_if_needed")
    )
    is_air = fill is None or np.all(np.asarray(fill) == AIR_HU)
    is_black = zero_is_air and not np.any(fill)
    if is_used and not is_air and not is_black:
        raise InputError(
            f"{where}: {name_of(node)} fills with {fill}, which is not air in HU; "
            f"use fill {AIR_HU}, or a border_mode that reflects"
        )
    return {**node, "fill": AIR_HU}


def _check_fill(node: Node, where: str) -> None:
    """Refuse an intensity transform that fills with what no windowed image holds."""
    for leaf in leaves(node):
        fill = leaf.get("fill", leaf.get("drop_value")) or 0
        if isinstance(fill, int | float) and not 0 <= fill <= 1:
            raise InputError(
                f"{where}: {name_of(leaf)} fills with {fill}; behind DicomWindowShift "
                "values lie in [0, 1]"
            )


def _normalization(
    nodes: Sequence[Node], stages: Sequence[str], where: str
) -> Normalization | None:
    if NORMALIZE not in stages:
        return None
    if stages.index(NORMALIZE) != len(stages) - 1:
        raise InputError(f"{where}: {NORMALIZE} must be the last transform, and the only one")
    node = _explicit(nodes[-1], where)
    catalog.build(node, where)
    for name, rule in (("max_pixel_value", 1.0), ("normalization", "standard"), ("p", 1.0)):
        if node[name] != rule:
            raise InputError(f"{where}: {name} of {NORMALIZE} is {node[name]}; it must be {rule}")
    return checked_normalization(node["mean"], node["std"], where)


def checked_normalization(
    mean: float | Sequence[float], std: float | Sequence[float], where: str
) -> Normalization:
    """Return the normalization by mean and std; InputError where they are not usable."""
    means, stds = (tuple(float(value) for value in np.atleast_1d(v)) for v in (mean, std))
    if len(means) != len(stds) or not means or min(stds) <= 0:
        raise InputError(
            f"{where}: mean {means} and std {stds} must be equally many, and std above 0"
        )
    return Normalization(means, stds)


def _normalize_node(normalization: Normalization) -> Node:
    return {
        NAME_KEY: NORMALIZE,
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "max_pixel_value": 1.0,
        "normalization": "standard",
        "p": 1.0,
    }


def _explicit(node: Node, where: str) -> Node:
    """Return the node and what it holds with every argument explicit."""
    if name_of(node) in catalog.CONTAINERS:
        node = {**node, "transforms": [_explicit(child, where) for child in node["transforms"]]}
    return catalog.with_defaults(node, where)
