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

from common.albumentations import DicomWindowShift, FitSize, HeaderWindow, NeighborSwap
from common.errors import InputError
from common.transforms import physics
from common.transforms.view_field import FieldOfView, ScalpRemoval

Node = dict[str, Any]

NAME_KEY = "__class_fullname__"
WINDOW = "DicomWindowShift"
SWAP = "NeighborSwap"
FIELD = "FieldOfView"
NOISE = "DoseNoise"
# Make [0, 1] of HU; a pipeline has one of them.
WINDOWS = frozenset({WINDOW, "HeaderWindow"})
# Those that are not albumentations' own.
OWN: dict[str, type] = {
    transform.__name__: transform
    for transform in (
        *(DicomWindowShift, FieldOfView, FitSize, HeaderWindow, NeighborSwap, ScalpRemoval),
        *physics.SCANNER,
    )
}
NORMALIZE = "Normalize"

# Transforms that move pixels or slices, and so run on HU, one channel per slice, with their traits.
# fixed: draws nothing beyond whether it is applied; inside: never looks outside the image by more
# than the half pixel of a resize; exact: copies pixels without weighing neighbours; resample, crop:
# makes the size that it names; relative: makes a size that depends on the one it gets; turn: may
# swap height and width; whole: shows all of the image in other pixels; zoom: changes how large a
# pixel is by what only its draw tells.
_GEOMETRIC = {
    "Affine": "zoom",
    "CenterCrop": "fixed inside exact crop",
    "Crop": "fixed relative",
    "D4": "inside exact turn",
    "ElasticTransform": "",
    FIELD: "zoom",
    "FitSize": "fixed crop",
    "GridDistortion": "",
    "HorizontalFlip": "fixed inside exact",
    "LongestMaxSize": "fixed inside relative whole",
    SWAP: "fixed exact",
    "OpticalDistortion": "",
    "Pad": "fixed exact relative",
    "PadIfNeeded": "fixed exact relative",
    "Perspective": "",
    "RandomCrop": "inside exact crop",
    "RandomResizedCrop": "inside resample zoom",
    "RandomRotate90": "inside exact turn",
    "RandomScale": "inside relative whole",
    "RandomSizedCrop": "inside resample zoom",
    "Resize": "fixed inside resample whole",
    "Rotate": "",
    "SafeRotate": "zoom",
    "ScalpRemoval": "fixed exact",
    "ShiftScaleRotate": "zoom",
    "SmallestMaxSize": "fixed inside relative whole",
    "Transpose": "fixed inside exact turn",
    "VerticalFlip": "fixed inside exact",
}
GEOMETRIC = frozenset(_GEOMETRIC)
# Change HU as a scanner would, behind the geometry.
SCANNER_CLASSES: dict[str, type[physics.ScannerTransform]] = {
    transform.__name__: transform for transform in physics.SCANNER
}
SCANNER = frozenset(SCANNER_CLASSES)
# Depend on how far pixels and slices lie apart.
IN_MM = SCANNER | {FIELD, "ScalpRemoval"}
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
# Fill the first of every four channels only, if they are given one number.
REMAPPING = frozenset({"ElasticTransform", "GridDistortion", "OpticalDistortion"})
MASK_ARGUMENTS = frozenset(
    {"mask_interpolation", "fill_mask", "mask_drop_value", "keypoint_remapping_method"}
)


def with_trait(trait: str) -> frozenset[str]:
    """Return the geometric transforms that have a trait of `_GEOMETRIC`."""
    return frozenset(name for name, traits in _GEOMETRIC.items() if trait in traits.split())


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
    if name in IN_MM and name not in with_trait("fixed"):
        ranges = [value for key, value in node.items() if key.endswith("_range")]
        return p != 0 and (p != 1 or name == NOISE or any(low != high for low, high in ranges))
    places_at_random = "random" in (node.get("position"), node.get("pad_position"))
    return p != 0 and (p != 1 or name not in with_trait("fixed") or places_at_random)
