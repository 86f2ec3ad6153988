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
from transforms.nodes import (  # noqa: E402
    CT_MILD,
    CT_STRONG,
    DISTORT,
    FIXED_WINDOWS,
    GREY_NOISE,
    HOLES,
    MIRROR,
    SHIFTED_WINDOWS,
    Node,
    affine,
    field_of_view,
    node,
    noise,
    normalize,
    random_crop,
    removed_scalp,
    resize,
    rotate,
    shift_and_scale,
)
from transforms.recipes import PIPELINES as OF_RECIPES  # noqa: E402

COMPLEX = [
    resize(512),
    MIRROR,
    shift_and_scale(0.75, 0.125, 0.1),
    rotate(30, 0.75),
    DISTORT,
    FIXED_WINDOWS,
    HOLES,
    GREY_NOISE,
]

PIPELINES: dict[str, list[Node]] = {
    "train_intermediate": [
        resize(512),
        MIRROR,
        shift_and_scale(0.75, 0.0625, 0.08),
        rotate(15, 0.75),
        FIXED_WINDOWS,
        HOLES,
        normalize(),
    ],
    "train_complex": COMPLEX,
    "train_complex_norm": [*COMPLEX, normalize()],
    "train_complex_512": [
        random_crop(512),
        MIRROR,
        shift_and_scale(0.6, 0.125),
        rotate(30, 0.75),
        DISTORT,
        SHIFTED_WINDOWS,
        HOLES,
        GREY_NOISE,
    ],
    "train_complex_410_norm": OF_RECIPES["rsna_hemorrhage_train"],
    "validate_simple": [resize(512), FIXED_WINDOWS, normalize()],
    "valid_simple_512": [resize(512), FIXED_WINDOWS],
    "valid_simple_410_norm": OF_RECIPES["rsna_hemorrhage_valid"],
    "test_simple": [resize(512), FIXED_WINDOWS, normalize()],
    "test_intermediate_tta_512": [
        random_crop(512),
        MIRROR,
        rotate(30, 0.75),
        DISTORT,
        FIXED_WINDOWS,
    ],
    "test_intermediate_tta_410_norm": OF_RECIPES["rsna_hemorrhage_tta"],
    "test_intermediate_tta_500_norm": [
        random_crop(500),
        MIRROR,
        rotate(30, 0.8),
        DISTORT,
        SHIFTED_WINDOWS,
        normalize(),
    ],
    "train_small": [
        resize(192, area=True),
        MIRROR,
        affine(p=0.8, shift=0.06, scale=0.12, degrees=20, border_mode=cv2.BORDER_CONSTANT),
        SHIFTED_WINDOWS,
        noise((0.005, 0.02), p=0.3, per_channel=False),
    ],
    "valid_small": [resize(192, area=True), FIXED_WINDOWS],
    "train_levels": [resize(64, area=True), MIRROR, FIXED_WINDOWS],
    "ct_physics": [
        removed_scalp(0.3),
        resize(256, area=True),
        MIRROR,
        affine(p=0.8, shift=0.06, scale=0.12, degrees=20, border_mode=cv2.BORDER_CONSTANT),
        *CT_MILD,
        SHIFTED_WINDOWS,
    ],
    "ct_physics_strong": [
        removed_scalp(0.5),
        resize(256, area=True),
        MIRROR,
        field_of_view((190, 270), 0.8),
        affine(p=0.8, shift=0.06, scale=0.05, degrees=20, border_mode=cv2.BORDER_CONSTANT),
        *CT_STRONG,
        SHIFTED_WINDOWS,
    ],
    "tta_small": [
        resize(192, area=True),
        MIRROR,
        affine(p=0.8, shift=0.04, scale=0.08, degrees=12, border_mode=cv2.BORDER_CONSTANT),
        SHIFTED_WINDOWS,
    ],
}


def generate() -> dict[str, dict[str, Any]]:
    """Return the documents by name, every argument explicit."""
    documents = {}
    for name, nodes in (PIPELINES | OF_RECIPES).items():
        compose = node("Compose", p=1.0, transforms=nodes)
        document = {"__version__": "2.0.8", "transform": compose}
        documents[name] = SampleTransform.from_dict(document, name).to_dict()
    return documents


def main() -> None:
    """Write all pipelines."""
    for name, document in generate().items():
        write_json(FOLDER / f"{name}.json", document)


if __name__ == "__main__":
    main()
