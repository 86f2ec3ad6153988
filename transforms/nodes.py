"""The building blocks of the pipelines: one transform each, as albumentations serialises it."""

from collections.abc import Sequence
from typing import Any

import cv2

from common.windows import AIR_HU, NETWORK_WINDOWS

Node = dict[str, Any]

# Whole numbers, as they stand in the files.
WIDTHS = tuple(int(window.width) for window in NETWORK_WINDOWS)
CENTERS = tuple(int(window.center) for window in NETWORK_WINDOWS)
# Mean and standard deviation of the three windowed channels of the RSNA training images, as
# hkristof03/RSNAHemorrhage gives them.
RSNA_MEAN = (0.27176, 0.26492, 0.46473)
RSNA_STD = (0.35144, 0.29973, 0.23607)


def node(name: str, **arguments: Any) -> Node:
    """Return one transform as albumentations serialises it."""
    return {"__class_fullname__": name, **arguments}


def windows(
    width_shift: tuple[int, int, int],
    center_shift: int,
    widths: tuple[int, ...] = WIDTHS,
    centers: tuple[int, ...] = CENTERS,
) -> Node:
    """Return three windows in HU, moved by up to so many HU."""
    return window_ranges(
        [(width - shift, width + shift) for width, shift in zip(widths, width_shift)],
        [(center - center_shift, center + center_shift) for center in centers],
    )


def scaled_windows(share: float) -> Node:
    """Return brain, subdural and soft tissue windows of HU scaled by 1 - share to 1 + share.

    HU times m in a window are HU in the window whose center and width are divided by m.
    """
    factors = 1 / (1 + share), 1 / (1 - share)
    return window_ranges(
        [tuple(round(width * factor, 3) for factor in factors) for width in WIDTHS],
        [tuple(round(center * factor, 3) for factor in factors) for center in CENTERS],
    )


def window_ranges(
    widths: Sequence[tuple[float, ...]], centers: Sequence[tuple[float, ...]]
) -> Node:
    """Return windows whose width and center are drawn from (smallest, largest), in HU."""
    return node(
        "common.albumentations.DicomWindowShift",
        window_width_mins=[low for low, _ in widths],
        window_width_maxs=[high for _, high in widths],
        window_center_mins=[low for low, _ in centers],
        window_center_maxs=[high for _, high in centers],
        min_max_normalize=False,
        p=1.0,
    )


FIXED_WINDOWS = windows((0, 0, 0), 0)
SHIFTED_WINDOWS = windows((5, 10, 20), 5)


def resize(size: int, area: bool = False) -> Node:
    """Return a resize to `size` x `size` pixels; `area` averages where it makes them fewer."""
    return node(
        "Resize",
        height=size,
        width=size,
        interpolation=cv2.INTER_LINEAR,
        area_for_downscale="image" if area else None,
        p=1.0,
    )


def affine(
    p: float,
    shift: float,
    scale: float,
    degrees: float,
    border_mode: int,
    keep_ratio: bool = True,
) -> Node:
    """Return a shift by a part of the size, a scale and a rotation, drawn evenly around none."""
    return node(
        "Affine",
        scale=[1 - scale, 1 + scale],
        translate_percent={"x": [-shift, shift], "y": [-shift, shift]},
        rotate=[-degrees, degrees],
        shear=[0.0, 0.0],
        interpolation=cv2.INTER_LINEAR,
        fit_output=False,
        keep_ratio=keep_ratio,
        balanced_scale=False,
        border_mode=border_mode,
        fill=AIR_HU,
        p=p,
    )


def noise(std_range: tuple[float, float], p: float, per_channel: bool) -> Node:
    """Return Gaussian noise; the standard deviation is a part of the window's width."""
    return node(
        "GaussNoise",
        std_range=list(std_range),
        mean_range=[0.0, 0.0],
        per_channel=per_channel,
        noise_scale_factor=1.0,
        p=p,
    )


def random_crop(size: int) -> Node:
    """Return a crop of 70 to 100 % of the area, enlarged to `size` x `size` pixels.

    The authors ask for up to 110 % when they train at 410 pixels, but no crop is larger than the
    image: the old library drew again.
    """
    return node(
        "RandomResizedCrop",
        size=[size, size],
        scale=[0.7, 1.0],
        ratio=[3 / 4, 4 / 3],
        interpolation=cv2.INTER_LINEAR,
        area_for_downscale=None,
        p=1.0,
    )


def rotate(degrees: float, p: float) -> Node:
    """Return a rotation either way that reflects what lies outside."""
    return node(
        "Rotate",
        limit=[-degrees, degrees],
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REFLECT_101,
        rotate_method="largest_box",
        crop_border=False,
        fill=AIR_HU,
        p=p,
    )


def normalize(mean: Sequence[float] = RSNA_MEAN, std: Sequence[float] = RSNA_STD) -> Node:
    """Return (image - mean) / std of images in [0, 1]; by default that of the `*_norm` files."""
    return node(
        "Normalize",
        mean=list(mean),
        std=list(std),
        max_pixel_value=1.0,
        normalization="standard",
        p=1.0,
    )


def shift_and_scale(p: float, shift: float, scale: float = 0.0) -> Node:
    """Return a shift and a scale that reflect what lies outside."""
    return affine(p, shift, scale, degrees=0, border_mode=cv2.BORDER_REFLECT_101)


def middle(size: int) -> Node:
    """Return the middle `size` x `size` pixels of the image, which must not be smaller."""
    return node(
        "CenterCrop",
        height=size,
        width=size,
        pad_if_needed=False,
        pad_position="center",
        border_mode=cv2.BORDER_CONSTANT,
        fill=AIR_HU,
        p=1.0,
    )


def field_of_view(field_mm: tuple[float, float], p: float) -> Node:
    """Return a field of view in mm, with air outside the slice."""
    return node(
        "FieldOfView",
        field_mm_range=list(field_mm),
        border_mode=cv2.BORDER_CONSTANT,
        fill=AIR_HU,
        p=p,
    )


def removed_scalp(p: float) -> Node:
    """Return the skull and what lies in it alone, as often as p."""
    return node("ScalpRemoval", p=p)


def scanner(
    p: float,
    tilt: float,
    thickness_mm: tuple[float, float],
    kernel: tuple[float, float],
    noise_hu: tuple[float, float],
    offset_hu: float,
    slope: float,
    cup_hu: tuple[float, float],
) -> list[Node]:
    """Return another scanner: tilt, thickness, kernel, dose, calibration, each as often as p."""
    ranges: dict[str, dict[str, Sequence[float]]] = {
        "GantryTilt": {"degrees_range": (-tilt, tilt)},
        "SliceThickness": {"thickness_mm_range": thickness_mm},
        "KernelSharpness": {"change_range": kernel, "width_mm_range": (0.3, 0.6)},
        "DoseNoise": {"std_hu_range": noise_hu, "cutoff_range": (0.6, 1.2)},
        "Calibration": {
            "offset_hu_range": (-offset_hu, offset_hu),
            "slope_range": (1 - slope, 1 + slope),
            "cup_hu_range": cup_hu,
        },
    }
    return [
        node(name, **{key: list(limits) for key, limits in of_name.items()}, p=p)
        for name, of_name in ranges.items()
    ]


CT_MILD = scanner(0.3, 5, (2.5, 7.5), (-0.7, 0.5), (1, 5), 3, 0.03, (-1, 3))
CT_STRONG = scanner(0.6, 15, (2.5, 10), (-1, 1), (2, 8), 5, 0.05, (-2, 5))
MIRROR = node("HorizontalFlip", p=0.5)
DISTORT = node(
    "GridDistortion",
    num_steps=5,
    distort_limit=[-0.3, 0.3],
    interpolation=cv2.INTER_LINEAR,
    normalized=True,
    border_mode=cv2.BORDER_REFLECT_101,
    fill=AIR_HU,
    p=0.5,
)
HOLES = node(
    "CoarseDropout",
    num_holes_range=[4, 8],
    hole_height_range=[8, 16],
    hole_width_range=[8, 16],
    fill=0.0,
    p=0.5,
)
# A variance of 10 to 50 grey levels of 255 was meant: a standard deviation of 3 to 7 of them.
GREY_NOISE = noise((10**0.5 / 255, 50**0.5 / 255), p=0.5, per_channel=True)
