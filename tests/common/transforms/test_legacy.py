"""Files of albumentations 0.3 and 0.4: `saved/` holds one of each.

That of 0.3.2 was written by that version, but for two nodes put in by hand in its form.
"""

import json
import math
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from common.errors import InputError
from common.transforms import SampleTransform, catalog, load_transform
from common.transforms.pipeline import parse_pipeline

SAVED = Path(__file__).parent / "saved"
OLD = "albumentations.augmentations.transforms."


def old_document(*nodes: dict[str, Any], version: str = "0.4.1") -> dict[str, Any]:
    return {
        "__version__": version,
        "transform": {
            "__class_fullname__": "albumentations.core.composition.Compose",
            "p": 1.0,
            "transforms": list(nodes),
            "bbox_params": None,
            "keypoint_params": None,
            "additional_targets": {},
        },
    }


def old_node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": OLD + name, "always_apply": False, "p": 1.0, **arguments}


def translated(name: str, **arguments: Any) -> dict[str, Any]:
    pipeline = parse_pipeline(old_document(old_node(name, **arguments)), "old.json")
    (node,) = (*pipeline.geometry, *pipeline.intensity)
    return node


def applied(node: dict[str, Any], image: np.ndarray) -> np.ndarray:
    return A.Compose([catalog.build(node, "old.json")])(image=image)["image"]


def picture() -> np.ndarray:
    image = np.full((200, 160), 0.2, np.float32)
    cv2.ellipse(image, (70, 90), (40, 60), 15, 0, 360, 0.8, -1)
    return cv2.GaussianBlur(image, (0, 0), 3)


BORDER = {"interpolation": 1, "border_mode": 4, "value": None, "mask_value": None}


@pytest.mark.parametrize("name", ["albumentations_0_3_2.json", "albumentations_0_4_1.json"])
def test_old_files_load_and_run(name: str) -> None:
    transform = load_transform(SAVED / name)
    for shape, num_channels in (((300, 280), 3), ((300, 280, 3), 9)):
        image = transform(np.random.default_rng(1).integers(-1024, 300, shape), seed=4)
        assert image.shape[0] == num_channels and np.isfinite(image).all()
    again = SampleTransform.from_dict(transform.to_dict())
    assert again.to_dict() == transform.to_dict()


def test_geometry_of_the_0_4_1_file_moves_before_its_windows() -> None:
    transform = load_transform(SAVED / "albumentations_0_4_1.json")
    names = [catalog.name_of(node) for node in transform.pipeline.nodes]
    assert names == [
        "RandomResizedCrop",
        "HorizontalFlip",
        "Affine",
        "Rotate",
        "GridDistortion",
        "DicomWindowShift",
        "CoarseDropout",
        "GaussNoise",
    ]
    crop, _, affine, rotate, distort, window, holes, noise = transform.pipeline.nodes
    assert crop["size"] == [384, 384] and crop["scale"] == [0.6, 1.0]
    assert affine["scale"] == pytest.approx([0.8, 1.1]) and affine["rotate"] == [-5, 5]
    assert affine["translate_percent"] == {"x": [-0.1, 0.1], "y": [-0.1, 0.1]}
    assert rotate["border_mode"] == cv2.BORDER_CONSTANT and rotate["fill"] == -1024
    assert distort["normalized"] is False
    assert window["window_width_mins"] == [70, 180, 300] and not window["min_max_normalize"]
    assert holes["num_holes_range"] == [2, 6] and holes["hole_width_range"] == [12, 24]
    grey_levels = np.array(noise["std_range"]) * 255
    np.testing.assert_allclose(grey_levels, [10**0.5, 50**0.5])
    assert transform.pipeline.normalization == ((0.2, 0.15, 0.25), (0.3, 0.25, 0.35))


def test_file_without_windows_gets_the_fixed_ones(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        transform = load_transform(SAVED / "albumentations_0_3_2.json")
    assert "no DicomWindowShift" in caplog.text
    assert transform.pipeline.window["window_width_mins"] == [80, 200, 380]
    assert transform.pipeline.window["window_center_maxs"] == [40, 80, 40]


def test_shift_scale_rotate_equals_the_matrix_of_0_3() -> None:
    """0.3 warped by getRotationMatrix2D about the middle, plus a shift in parts of the size."""
    image = picture()
    node = translated(
        "ShiftScaleRotate",
        shift_limit=[0.1, 0.1],
        scale_limit=[0.2, 0.2],
        rotate_limit=[20, 20],
        **BORDER,
    )
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1.2)
    matrix[:, 2] += 0.1 * width, 0.1 * height
    expected = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    # They differ by the half pixel between the middle of the image and of its pixels.
    assert np.abs(applied(node, image) - expected).mean() < 0.003
    assert np.abs(image - expected).mean() > 0.05


def test_rotate_equals_the_matrix_of_0_3() -> None:
    image = picture()
    node = translated("Rotate", limit=[25, 25], **BORDER)
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 1.0)
    expected = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(applied(node, image) - expected).mean() < 0.003


def test_brightness_and_contrast_equal_the_formulas_of_0_3() -> None:
    image = picture()
    bright = applied(translated("RandomBrightness", limit=[0.1, 0.1]), image)
    np.testing.assert_allclose(bright, image + 0.1 * image.mean(), atol=1e-6)
    contrast = applied(translated("RandomContrast", limit=[0.2, 0.2]), image)
    np.testing.assert_allclose(contrast, np.clip(image * 1.2, 0, 1), atol=1e-6)
    both = translated("RandomBrightnessContrast", brightness_limit=0.1, contrast_limit=0.1)
    assert both["brightness_by_max"] is False


@pytest.mark.parametrize(
    ("variance", "expected"),
    [([10.0, 50.0], [3.162, 7.071]), (25.0, [0.0, 5.0]), ([1e-4, 4e-4], [2.55, 5.1])],
)
def test_noise_keeps_its_strength_in_grey_levels(variance: Any, expected: list[float]) -> None:
    node = translated("GaussNoise", var_limit=variance)
    np.testing.assert_allclose(np.array(node["std_range"]) * 255, expected, rtol=1e-3)


def test_measured_noise_is_that_of_the_variance() -> None:
    node = translated("GaussNoise", var_limit=[25.0, 25.0])
    noisy = applied(node, np.full((300, 300), 0.5, np.float32))
    assert math.isclose(noisy.std() * 255, 5.0, rel_tol=0.03)


def test_cutout_and_always_apply() -> None:
    node = translated("Cutout", num_holes=4, max_h_size=20, max_w_size=10, p=0.2, always_apply=True)
    assert catalog.name_of(node) == "CoarseDropout" and node["p"] == 1.0
    image = applied(node, np.ones((300, 300), np.float32))
    assert 200 <= (image == 0).sum() <= 800
    white = translated("CoarseDropout", max_holes=1, max_height=8, max_width=8, fill_value=255)
    assert white["fill"] == 1.0 and white["num_holes_range"] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "num", "height", "width"),
    [
        # The defaults of 0.4.x: 8, and the smallest is the largest.
        ({}, [8, 8], [8, 8], [8, 8]),
        ({"max_holes": 3}, [3, 3], [8, 8], [8, 8]),
        ({"min_holes": 2, "max_width": 20}, [2, 8], [8, 8], [20, 20]),
        ({"max_height": 9, "min_height": None, "min_width": 4}, [8, 8], [9, 9], [4, 8]),
        # 1.4 had the names of 2.0, and wrote the old ones as null.
        ({"num_holes_range": [1, 2], "max_holes": None}, [1, 2], [8, 8], [8, 8]),
    ],
)
def test_coarse_dropout_has_the_defaults_of_0_4(
    arguments: dict[str, Any], num: list[int], height: list[int], width: list[int]
) -> None:
    node = translated("CoarseDropout", **arguments)
    ranges = [node[f"{name}_range"] for name in ("num_holes", "hole_height", "hole_width")]
    assert ranges == [num, height, width]
    applied(node, picture())


def test_elastic_without_affine_part_is_translated() -> None:
    node = translated("ElasticTransform", alpha=120, sigma=6, alpha_affine=0, **BORDER)
    assert node["noise_distribution"] == "uniform" and "alpha_affine" not in node


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (old_node("ElasticTransform", alpha=1, sigma=50, alpha_affine=50), "alpha_affine 50"),
        (old_node("OpticalDistortion", shift_limit=[-0.05, 0.05]), "shift_limit"),
        (old_node("GaussNoise", var_limit=[10, 50], mean=4), "mean 4"),
        (old_node("Rotate", limit=[-9, 9], border_mode=0, value=[128, 0, 0]), "fills with"),
        (old_node("Rotate", limit=[-9, 9], axis=1), "Rotate has no argument axis"),
        (old_node("CLAHE", clip_limit=[1, 4]), "CLAHE is unknown"),
        (old_node("Flip"), "Flip is unknown"),
        (
            {"__class_fullname__": "albumentations.imgaug.transforms.IAAAffine", "p": 1.0},
            "IAAAffine",
        ),
        ({"__class_fullname__": "my.transforms.Rotate", "p": 1.0}, r"my\.transforms\.Rotate"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(node: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"old\.json.*{message}"):
        SampleTransform.from_dict(old_document(node), "old.json")


def test_arguments_of_old_are_refused_in_a_new_file() -> None:
    holes = old_node("CoarseDropout", max_holes=8, max_height=16, max_width=16)
    del holes["always_apply"]
    with pytest.raises(InputError, match="CoarseDropout has no argument max_height, max_holes"):
        SampleTransform.from_dict(old_document(holes, version="2.0.8"))


def test_random_validation_of_old_is_recognised() -> None:
    """The 2019 framework validated on random crops, and chose its checkpoints by them."""
    crop = old_node("RandomResizedCrop", height=64, width=64, scale=[0.7, 1.0], ratio=[1, 1])
    transform = SampleTransform.from_dict(json.loads(json.dumps(old_document(crop))), "valid.json")
    with pytest.raises(InputError, match=r"valid\.json.*RandomResizedCrop"):
        transform.require_deterministic()
