"""Translate pipelines of albumentations before 2.0 into the names and units of 2.0.

Names and meanings are those of the sources of 0.3.2 to 0.4.3. An argument without an equal is
refused by name, as a pipeline that is nearly the one meant is worse than none.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from common.errors import InputError
from common.transforms.catalog import NAME_KEY, Node, name_of

logger = logging.getLogger(__name__)

MAX_GREY_LEVEL = 255.0
REFLECT_101 = 4


def translate(node: Node, where: str) -> Node:
    """Return the node, and what it holds, as albumentations 2.0 would have written it.

    Raises:
        InputError: naming the argument that has no equal.
    """
    arguments = {name: value for name, value in node.items() if name != NAME_KEY}
    name, full_name = name_of(node), node[NAME_KEY]
    if isinstance(arguments.get("transforms"), list):
        arguments["transforms"] = [translate(child, where) for child in arguments["transforms"]]
    if arguments.pop("always_apply", False):
        arguments["p"] = 1.0
    arguments.pop("mask_value", None)
    for old in ("value", "fill_value"):
        if old in arguments:
            arguments["fill"] = arguments.pop(old)
    if name in _TRANSLATORS:
        full_name = _TRANSLATORS[name](arguments, f"{where}: {name}") or full_name
    return {NAME_KEY: full_name, **arguments}


def _refuse_unless_zero(arguments: Node, name: str, where: str) -> None:
    value = arguments.pop(name, 0)
    if value and value != [0, 0]:
        raise InputError(
            f"{where} has {name} {value}, which has no equal in albumentations 2.0; "
            "remove it, or put a transform of its own in its place"
        )


def _coarse_dropout(arguments: Node, where: str) -> None:
    """Set the ranges: before 2.0 the largest is 8, and the smallest is the largest, by default."""
    for old, new in (
        ("holes", "num_holes_range"),
        ("height", "hole_height_range"),
        ("width", "hole_width_range"),
    ):
        high, low = arguments.pop(f"max_{old}", 8), arguments.pop(f"min_{old}", None)
        arguments.setdefault(new, [high if low is None else low, high])
    _scale_fill(arguments)


def _cutout(arguments: Node, where: str) -> str:
    num_holes = arguments.pop("num_holes", 8)
    height, width = arguments.pop("max_h_size", 8), arguments.pop("max_w_size", 8)
    arguments["num_holes_range"] = [num_holes, num_holes]
    arguments["hole_height_range"] = [height, height]
    arguments["hole_width_range"] = [width, width]
    _scale_fill(arguments)
    return "CoarseDropout"


def _scale_fill(arguments: Node, where: str = "") -> None:
    """Convert a fill in grey levels to [0, 1]; old files leave out the default of 0."""
    fill = arguments.get("fill") or 0
    arguments["fill"] = fill / MAX_GREY_LEVEL if not isinstance(fill, list) and fill > 1 else fill


def _gauss_noise(arguments: Node, where: str) -> None:
    """Convert the variance: above 1 it is in grey levels, as was the old default."""
    if "std_range" in arguments:
        return
    _refuse_unless_zero(arguments, "mean", where)
    variances = arguments.pop("var_limit", [10.0, 50.0])
    if not isinstance(variances, list):
        variances = [0.0, variances]
    unit = MAX_GREY_LEVEL if max(variances) > 1 else 1.0
    arguments["std_range"] = [math.sqrt(variance) / unit for variance in variances]
    logger.info(
        "%s: variance %s becomes standard deviation %.4f to %.4f of the window's width",
        where,
        variances,
        *arguments["std_range"],
    )


def _resized_crop(arguments: Node, where: str) -> None:
    if "height" in arguments:
        arguments["size"] = [arguments.pop("height"), arguments.pop("width")]
    scale = arguments.get("scale")
    if scale and scale[1] > 1:
        logger.info("%s: scale %s ends at 1: a larger crop never fits", where, scale)
        arguments["scale"] = [scale[0], 1.0]


def _shift_scale_rotate(arguments: Node, where: str) -> str:
    shift = _symmetric(arguments.pop("shift_limit", 0.0625))
    scale = _symmetric(arguments.pop("scale_limit", 0.1))
    arguments["translate_percent"] = {
        "x": _symmetric(arguments.pop("shift_limit_x", None) or shift),
        "y": _symmetric(arguments.pop("shift_limit_y", None) or shift),
    }
    arguments["scale"] = [1 + scale[0], 1 + scale[1]]
    arguments["rotate"] = _symmetric(arguments.pop("rotate_limit", 45))
    arguments["keep_ratio"] = True
    arguments.setdefault("border_mode", REFLECT_101)
    return "Affine"


def _symmetric(limit: float | list[float]) -> list[float]:
    return limit if isinstance(limit, list) else [-limit, limit]


def _grid_distortion(arguments: Node, where: str) -> None:
    arguments.setdefault("normalized", False)
    _reflecting(arguments, where)


def _elastic(arguments: Node, where: str) -> None:
    _refuse_unless_zero(arguments, "alpha_affine", where)
    arguments.setdefault("noise_distribution", "uniform")
    _reflecting(arguments, where)


def _optical_distortion(arguments: Node, where: str) -> None:
    _refuse_unless_zero(arguments, "shift_limit", where)
    _reflecting(arguments, where)


def _reflecting(arguments: Node, where: str) -> None:
    """Set the border that was the default before 2.0."""
    arguments.setdefault("border_mode", REFLECT_101)


def _brightness_contrast(arguments: Node, where: str) -> None:
    arguments["brightness_by_max"] = bool(arguments.get("brightness_by_max"))


def _brightness(arguments: Node, where: str) -> str:
    arguments["brightness_limit"] = arguments.pop("limit", 0.2)
    arguments["contrast_limit"] = [0.0, 0.0]
    _brightness_contrast(arguments, where)
    return "RandomBrightnessContrast"


def _contrast(arguments: Node, where: str) -> str:
    arguments["contrast_limit"] = arguments.pop("limit", 0.2)
    arguments["brightness_limit"] = [0.0, 0.0]
    _brightness_contrast(arguments, where)
    return "RandomBrightnessContrast"


def _gamma(arguments: Node, where: str) -> None:
    arguments.pop("eps", None)  # kept 0 out of a division that is gone


def _gaussian_blur(arguments: Node, where: str) -> None:
    """Set the standard deviation that OpenCV derived from the size of the kernel."""
    if "sigma_limit" not in arguments:
        limit = arguments.get("blur_limit", 7)
        sizes = limit if isinstance(limit, list) else [3, limit]
        arguments["blur_limit"] = sizes
        arguments["sigma_limit"] = [0.3 * ((size - 1) / 2 - 1) + 0.8 for size in sizes]


def _normalize(arguments: Node, where: str) -> None:
    """Drop max_pixel_value, which brought images to [0, 1], where mean and deviation were given."""
    arguments["max_pixel_value"] = 1.0


def _window_shift(arguments: Node, where: str) -> None:
    if "min_max_normalize" not in arguments:
        logger.info("%s: HU are kept: no stretching to the range of each image", where)


_TRANSLATORS: dict[str, Callable[[dict[str, Any], str], str | None]] = {
    "ChannelDropout": _scale_fill,
    "CoarseDropout": _coarse_dropout,
    "Cutout": _cutout,
    "DicomWindowShift": _window_shift,
    "ElasticTransform": _elastic,
    "GaussNoise": _gauss_noise,
    "GaussianBlur": _gaussian_blur,
    "GridDistortion": _grid_distortion,
    "Normalize": _normalize,
    "OpticalDistortion": _optical_distortion,
    "PadIfNeeded": _reflecting,
    "RandomBrightness": _brightness,
    "RandomBrightnessContrast": _brightness_contrast,
    "RandomContrast": _contrast,
    "RandomGamma": _gamma,
    "RandomResizedCrop": _resized_crop,
    "RandomSizedCrop": _resized_crop,
    "Rotate": _reflecting,
    "ShiftScaleRotate": _shift_scale_rotate,
}
