"""Writes the JSON pipelines beside this file: `python transforms/generate.py`.

Geometry is given first, on HU, then the windows, then what works on [0, 1]; see README.md here.
"""

import sys
from pathlib import Path
from typing import Any

import cv2

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from common.files import write_json  # noqa: E402
from common.transforms import SampleTransform  # noqa: E402

Node = dict[str, Any]

AIR_HU = -1024
# Mean and standard deviation of the three windowed channels of the RSNA training images, as
# hkristof03/RSNAHemorrhage gives them.
RSNA_MEAN = (0.27176, 0.26492, 0.46473)
RSNA_STD = (0.35144, 0.29973, 0.23607)


def node(name: str, **arguments: Any) -> Node:
    """Returns one transform as albumentations serialises it."""
    return {"__class_fullname__": name, **arguments}


def windows(width_shift: tuple[int, int, int], center_shift: int) -> Node:
    """Returns the brain, subdural and soft tissue windows, moved by up to so many HU."""
    widths, centers = (80, 200, 380), (40, 80, 40)
    return node(
        "common.albumentations.DicomWindowShift",
        window_width_mins=[width - shift for width, shift in zip(widths, width_shift)],
        window_width_maxs=[width + shift for width, shift in zip(widths, width_shift)],
        window_center_mins=[center - center_shift for center in centers],
        window_center_maxs=[center + center_shift for center in centers],
        min_max_normalize=False,
        p=1.0,
    )


FIXED_WINDOWS = windows((0, 0, 0), 0)
SHIFTED_WINDOWS = windows((5, 10, 20), 5)


def resize(size: int, area: bool = False) -> Node:
    """Returns a resize to `size` x `size` pixels; `area` averages where it makes them fewer."""
    return node(
        "Resize",
        height=size,
        width=size,
        interpolation=cv2.INTER_LINEAR,
        area_for_downscale="image" if area else None,
        p=1.0,
    )


def affine(p: float, shift: float, scale: float, degrees: float, border_mode: int) -> Node:
    """Returns a shift by a part of the size, a scale and a rotation, drawn evenly around none."""
    return node(
        "Affine",
        scale=[1 - scale, 1 + scale],
        translate_percent={"x": [-shift, shift], "y": [-shift, shift]},
        rotate=[-degrees, degrees],
        shear=[0.0, 0.0],
        interpolation=cv2.INTER_LINEAR,
        fit_output=False,
        keep_ratio=True,
        balanced_scale=False,
        border_mode=border_mode,
        fill=AIR_HU,
        p=p,
    )


def noise(std_range: tuple[float, float], p: float, per_channel: bool) -> Node:
    """Returns Gaussian noise; the standard deviation is a part of the window's width."""
    return node(
        "GaussNoise",
        std_range=list(std_range),
        mean_range=[0.0, 0.0],
        per_channel=per_channel,
        noise_scale_factor=1.0,
        p=p,
    )


MIRROR = node("HorizontalFlip", p=0.5)

PIPELINES: dict[str, list[Node]] = {
    "train_small": [
        resize(224, area=True),
        MIRROR,
        affine(p=0.8, shift=0.06, scale=0.12, degrees=20, border_mode=cv2.BORDER_CONSTANT),
        SHIFTED_WINDOWS,
        noise((0.005, 0.02), p=0.3, per_channel=False),
    ],
    "valid_small": [resize(224, area=True), FIXED_WINDOWS],
    "tta_small": [
        resize(224, area=True),
        MIRROR,
        affine(p=0.8, shift=0.04, scale=0.08, degrees=12, border_mode=cv2.BORDER_CONSTANT),
        SHIFTED_WINDOWS,
    ],
}


def generate() -> dict[str, dict[str, Any]]:
    """Returns the documents by name, every argument explicit."""
    documents = {}
    for name, nodes in PIPELINES.items():
        compose = node("Compose", p=1.0, transforms=nodes)
        document = {"__version__": "2.0.8", "transform": compose}
        documents[name] = SampleTransform.from_dict(document, name).to_dict()
    return documents


def main() -> None:
    """Writes all pipelines."""
    for name, document in generate().items():
        write_json(FOLDER / f"{name}.json", document)


if __name__ == "__main__":
    main()
