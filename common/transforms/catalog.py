"""The transforms that a pipeline may hold, their stages, and how to build them.

A transform is given as a node: a dict of its name under `__class_fullname__` and its arguments,
as albumentations writes it.
"""

import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import albumentations as A

from common.albumentations import DicomWindowShift, HeaderWindow, NeighborSwap
from common.errors import InputError

Node = dict[str, Any]

NAME_KEY = "__class_fullname__"
WINDOW = "DicomWindowShift"
SWAP = "NeighborSwap"
# Make [0, 1] of HU; a pipeline has one of them.
WINDOWS = frozenset({WINDOW, "HeaderWindow"})
# Those that are not albumentations' own.
OWN_MODULE = "common.albumentations"
OWN: dict[str, type] = {
    transform.__name__: transform for transform in (DicomWindowShift, HeaderWindow, NeighborSwap)
}
NORMALIZE = "Normalize"

# Move pixels or slices, and so run on HU, one channel per slice.
GEOMETRIC = frozenset(
    {
        "Affine",
        "CenterCrop",
        "Crop",
        "D4",
        "ElasticTransform",
        "GridDistortion",
        "HorizontalFlip",
        "LongestMaxSize",
        SWAP,
        "OpticalDistortion",
        "Pad",
        "PadIfNeeded",
        "Perspective",
        "RandomCrop",
        "RandomResizedCrop",
        "RandomRotate90",
        "RandomScale",
        "RandomSizedCrop",
        "Resize",
        "Rotate",
        "SafeRotate",
        "ShiftScaleRotate",
        "SmallestMaxSize",
        "Transpose",
        "VerticalFlip",
    }
)
# Change values, and are defined on [0, 1] for any number of channels.
INTENSITY = frozenset(
    {
        "Blur",
        "ChannelDropout",
        "CoarseDropout",
        "Erasing",
        "GaussNoise",
        "GaussianBlur",
        "GridDropout",
        "MedianBlur",
        "MotionBlur",
        "MultiplicativeNoise",
        "PixelDropout",
        "RandomBrightnessContrast",
        "RandomGamma",
        "Sharpen",
    }
)
# Choose among the transforms under `transforms`.
CONTAINERS = frozenset({"OneOf", "SomeOf", "Sequential"})
# Draw nothing beyond whether they are applied.
DETERMINISTIC = frozenset(
    {
        "CenterCrop",
        "Crop",
        "HorizontalFlip",
        "LongestMaxSize",
        SWAP,
        "Pad",
        "PadIfNeeded",
        "Resize",
        "SmallestMaxSize",
        "Transpose",
        "VerticalFlip",
    }
)

# Fill the first of every four channels only, if they are given one number.
REMAPPING = frozenset({"ElasticTransform", "GridDistortion", "OpticalDistortion"})
MASK_ARGUMENTS = frozenset(
    {"mask_interpolation", "fill_mask", "mask_drop_value", "keypoint_remapping_method"}
)


def name_of(node: Mapping[str, Any]) -> str:
    """Return the class name of a node, without its module."""
    return str(node[NAME_KEY]).rpartition(".")[2]


def leaves(node: Node) -> Iterator[Node]:
    """Yield the node, or what its containers hold."""
    if name_of(node) not in CONTAINERS:
        yield node
        return
    for child in node["transforms"]:
        yield from leaves(child)


def class_of(node: Mapping[str, Any]) -> type:
    """Return the class of a node."""
    name = name_of(node)
    return OWN[name] if name in OWN else getattr(A, name)


def num_windows(node: Node) -> int:
    """Return how many channels a node of `WINDOWS` makes of a slice."""
    return len(node["window_width_mins"]) if name_of(node) == WINDOW else 1


def argument_names(node: Mapping[str, Any]) -> list[str]:
    """Return the names of the arguments that the class of a node takes."""
    return list(inspect.signature(class_of(node)).parameters)


def with_defaults(node: Node, where: str) -> Node:
    """Return the node with every argument explicit, but those for masks, which don't occur here.

    Raises:
        InputError: naming the argument that the class does not have, or that it needs.
    """
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(class_of(node)).parameters.items()
        if name not in MASK_ARGUMENTS
    }
    # albumentations saves the arguments of base classes too, even where the class takes none.
    ignored = {NAME_KEY, *MASK_ARGUMENTS, *_base_arguments(class_of(node))} - set(known)
    given = {name: value for name, value in node.items() if name not in ignored}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(
            f"{where}: {name_of(node)} has no argument {', '.join(unknown)}; "
            f"it takes {', '.join(known)}"
        )
    missing = [
        name
        for name, default in known.items()
        if default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise InputError(f"{where}: {name_of(node)} needs {', '.join(missing)}")
    # Through JSON, so that defaults are lists as what is read from a file.
    return {NAME_KEY: node[NAME_KEY], **json.loads(json.dumps(known | given))}


def _base_arguments(transform_class: type) -> set[str]:
    bases = [base for base in transform_class.__mro__[1:] if issubclass(base, A.BasicTransform)]
    return {name for base in bases for name in inspect.signature(base).parameters}


def build(node: Node, where: str) -> A.BasicTransform | A.BaseCompose:
    """Return the transform that a node describes.

    Raises:
        InputError: naming the argument whose value is refused.
    """
    arguments = {name: value for name, value in node.items() if name != NAME_KEY}
    if name_of(node) in CONTAINERS:
        children = [build(child, where) for child in arguments.pop("transforms")]
        return class_of(node)(children, **arguments)
    if name_of(node) in REMAPPING:
        arguments["fill"] = [arguments["fill"]] * 4
    try:
        with warnings.catch_warnings():
            # albumentations warns where a check fails or an argument is unknown, and uses defaults.
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="ShiftScaleRotate is a special case")
            return class_of(node)(**arguments)
    except (ValueError, TypeError, Warning) as error:
        reason = " ".join(re.sub(r"For further information visit \S+", "", str(error)).split())
        raise InputError(f"{where}: {name_of(node)} refuses its arguments: {reason}") from error


def is_random(node: Node) -> bool:
    """Return whether what the node does differs from one seed to another."""
    name, p = name_of(node), node["p"]
    if name in CONTAINERS:
        if p == 0 or not node["transforms"]:
            return False
        chooses = name == "SomeOf" or (name == "OneOf" and len(node["transforms"]) > 1)
        return p != 1 or chooses or any(is_random(child) for child in node["transforms"])
    if name == WINDOW:
        return (node["window_width_mins"], node["window_center_mins"]) != (
            node["window_width_maxs"],
            node["window_center_maxs"],
        )
    if name in WINDOWS:
        return False
    places_at_random = "random" in (node.get("position"), node.get("pad_position"))
    return p != 0 and (p != 1 or name not in DETERMINISTIC or places_at_random)
