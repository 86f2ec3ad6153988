"""Each transform that a pipeline may hold: identity, effect, constant and bad argument."""

import json
import warnings
from typing import Any

import albumentations as A
import numpy as np
import pytest

from common.errors import InputError
from common.transforms import SampleTransform, catalog
from common.transforms.catalog import GEOMETRIC, INTENSITY, SCANNER

SHAPE = (96, 64)
LIMITED = {
    "CenterCrop": {"height": 32, "width": 48},
    "RandomCrop": {"height": 32, "width": 48},
    "FitSize": {"height": 40, "width": 40, "shrink_above": 80},
    "Crop": {"x_min": 1, "y_min": 2, "x_max": 40, "y_max": 60},
    "LongestMaxSize": {"max_size": 50},
    "SmallestMaxSize": {"max_size": 50},
    "Pad": {"padding": 4},
    "PadIfNeeded": {"min_height": 100, "min_width": 100},
    "RandomResizedCrop": {"size": [40, 40]},
    "RandomSizedCrop": {"min_max_height": [30, 60], "size": [40, 40]},
    "Resize": {"height": 40, "width": 40},
    "Affine": {"rotate": [20, 30]},
    "Rotate": {"limit": [20, 30]},
    "SafeRotate": {"limit": [20, 30]},
    "ElasticTransform": {"alpha": 100, "sigma": 8},
    "OpticalDistortion": {"distort_limit": [0.3, 0.4]},
    "RandomScale": {"scale_limit": [0.2, 0.3]},
    "ShiftScaleRotate": {"rotate_limit": [20, 30]},
    "GaussNoise": {"std_range": [0.02, 0.03]},
    "RandomBrightnessContrast": {"brightness_limit": [0.1, 0.2]},
    "RandomGamma": {"gamma_limit": [120, 130]},
    "FieldOfView": {"field_mm_range": [180, 200]},
    "KernelSharpness": {"change_range": [-1.0, -0.5], "width_mm_range": [2.0, 3.0]},
    "DoseNoise": {"std_hu_range": [20, 30]},
    "GantryTilt": {"degrees_range": [20, 30]},
    "Calibration": {"offset_hu_range": [5, 8]},
    "MultiplicativeNoise": {"multiplier": [0.8, 0.9]},
}


def smooth_head() -> np.ndarray:
    """A lopsided ellipse of 35 HU with a bright spot, in air, on three slices."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    head = np.where(((y - 50) / 34) ** 2 + ((x - 28) / 22) ** 2 < 1, 35.0, -1024.0)
    head[30:38, 20:30] = 70
    head[70:76, 20:40] = 1000  # of the skull
    head += np.random.default_rng(0).normal(0, 4, SHAPE)
    return np.stack([head, head, head], axis=2).astype(np.float32)


def pipeline(name: str, p: float, **arguments: Any) -> SampleTransform:
    node = {"__class_fullname__": name, **LIMITED.get(name, {}), "p": p, **arguments}
    window = {"__class_fullname__": "common.albumentations.DicomWindowShift"}
    nodes = [node, window] if name in GEOMETRIC | SCANNER else [window, node]
    compose = {"__class_fullname__": "Compose", "transforms": nodes}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, "test.json")


SETTLED = [
    ("FieldOfView", 1.0, {"field_mm_range": [180, 180]}),
    ("GantryTilt", 1.0, {"degrees_range": [20, 20]}),
    ("DoseNoise", 1.0, {"std_hu_range": [20, 20], "cutoff_range": [1, 1]}),
    ("PadIfNeeded", 1.0, {"position": "random"}),
    ("Rotate", 0.0, {}),
    ("GantryTilt", 0.0, {}),
]


@pytest.mark.parametrize(
    ("name", "p", "arguments"),
    [
        *((name, p, {}) for name in sorted(GEOMETRIC | SCANNER | INTENSITY) for p in (0.5, 1)),
        *SETTLED,
    ],
)
def test_what_is_said_to_draw_differs_between_seeds_and_nothing_else_does(
    name: str, p: float, arguments: dict[str, Any]
) -> None:
    transform = pipeline(name, p, **arguments)
    image_hu = smooth_head() + np.float32([0, 5, 20])  # neighbours differ
    seen = {transform(image_hu, seed).tobytes() for seed in range(6)}
    assert (len(seen) > 1) == bool(transform.random_transforms)


UNCHANGED = pipeline("HorizontalFlip", 0.0)(smooth_head(), 0)


@pytest.mark.parametrize("name", sorted(GEOMETRIC | SCANNER | INTENSITY))
def test_identity(name: str) -> None:
    assert np.array_equal(pipeline(name, 0.0)(smooth_head(), 3), UNCHANGED)


UNSEEN = {catalog.SWAP, "SliceThickness"}  # what they do to equal slices


@pytest.mark.parametrize("name", sorted((GEOMETRIC | SCANNER | INTENSITY) - UNSEEN))
def test_effect(name: str) -> None:
    transform = pipeline(name, 1.0)
    images = [transform(smooth_head(), seed) for seed in range(8)]
    assert any(not np.array_equal(image, UNCHANGED) for image in images)
    for image in images:
        assert image.dtype == np.float32 and image.flags.c_contiguous and len(image) == 9
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
        if name in (GEOMETRIC | SCANNER) - {catalog.NOISE}:
            # The slices are equal, and are moved alike.
            assert np.array_equal(image[:3], image[3:6]) and np.array_equal(image[:3], image[6:])


@pytest.mark.parametrize("name", sorted(GEOMETRIC | SCANNER))
def test_constant(name: str) -> None:
    """Air stays air: nothing but air is filled in."""
    image = pipeline(name, 1.0)(np.full(SHAPE, -1024, np.int16), 5)
    assert image.max() == 0


@pytest.mark.parametrize("num_slices", [1, 3, 5])
@pytest.mark.parametrize("name", sorted(GEOMETRIC))
def test_bone_is_never_filled_with_water(name: str, num_slices: int) -> None:
    """0 HU, the library's own fill, would be a grey of 0.395 in the wide window."""
    transform = pipeline(name, 1.0)
    for seed in range(4):
        image = transform(np.full((*SHAPE, num_slices), 1000, np.int16), seed)
        assert np.isclose(image[2::3], 150 / 380, atol=0.003).mean() < 0.005


@pytest.mark.parametrize("name", sorted(GEOMETRIC | SCANNER | INTENSITY))
def test_bad_argument(name: str) -> None:
    with pytest.raises(InputError, match=rf"test\.json.*{name}.*max_holes"):
        pipeline(name, 1.0, max_holes=8)
    with pytest.raises(InputError, match=rf"test\.json.*{name}"):
        pipeline(name, 7.0)


@pytest.mark.parametrize("name", sorted(GEOMETRIC | SCANNER | INTENSITY))
def test_what_albumentations_itself_saves_is_read(name: str) -> None:
    """`A.save` writes more than was given: defaults, arguments for masks, settings of Compose."""
    ours = pipeline(name, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = [catalog.build(node, name) for node in ours.pipeline.nodes]
    saved = json.loads(json.dumps(A.to_dict(A.Compose(nodes))))
    theirs = SampleTransform.from_dict(saved, "saved.json")
    for seed in range(3):
        np.testing.assert_allclose(
            theirs(smooth_head(), seed), ours(smooth_head(), seed), atol=1e-6
        )


def test_bad_value_names_the_transform() -> None:
    with pytest.raises(InputError, match="GaussNoise refuses its arguments"):
        pipeline("GaussNoise", 1.0, std_range=[3.0, 7.0])


def test_missing_argument() -> None:
    with pytest.raises(InputError, match="Resize needs height, width"):
        document = {
            "__version__": "2.0.8",
            "transform": {
                "__class_fullname__": "Compose",
                "transforms": [{"__class_fullname__": "Resize", "p": 1.0}],
            },
        }
        SampleTransform.from_dict(document)
