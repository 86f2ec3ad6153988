"""Windows and intensity transforms, channel by channel, against albumentations' own."""

import random
from typing import Any

import numpy as np
import pytest

from common.transforms import SampleTransform, catalog

WINDOW = {
    "__class_fullname__": "common.albumentations.DicomWindowShift",
    "window_width_mins": [60, 150, 300],
    "window_width_maxs": [90, 250, 400],
    "window_center_mins": [30, 60, 20],
    "window_center_maxs": [50, 90, 60],
}
HEADER_WINDOW = (35, 90)
IMAGE_HU = np.random.default_rng(0).normal(40, 60, (48, 53, 3)).astype(np.float32)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 0.7, **arguments}


def transform_of(*nodes: dict[str, Any]) -> SampleTransform:
    compose = {"__class_fullname__": "Compose", "transforms": list(nodes), "p": 1.0}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, "a.json")


def by_albumentations(transform: SampleTransform, image_hu: np.ndarray, seed: int) -> np.ndarray:
    """Its nodes one after the other, each by the class that it names."""
    generator, py = np.random.default_rng(seed), random.Random(seed)
    py.random()
    image = image_hu
    for item in transform.pipeline.nodes:
        built = catalog.build(item, "a.json")
        built.set_random_state(generator, py)
        image = built(image=image, header_window=HEADER_WINDOW)["image"]
    return np.moveaxis(image, 2, 0)


HOLES = node("CoarseDropout", num_holes_range=[2, 6], fill=0.3)
CONTRAST = node("RandomBrightnessContrast")
CASES = {
    "windows": [WINDOW],
    "windows stretched": [{**WINDOW, "min_max_normalize": True}],
    "window of the header": [{"__class_fullname__": "common.albumentations.HeaderWindow"}, HOLES],
    "holes": [WINDOW, HOLES],
    "holes by channel": [WINDOW, node("CoarseDropout", fill=[k / 10 for k in range(9)])],
    "contrast": [WINDOW, CONTRAST],
    "contrast by mean": [
        WINDOW,
        node("RandomBrightnessContrast", brightness_by_max=False, contrast_limit=0.5),
    ],
    "gamma": [WINDOW, node("RandomGamma")],
    "chosen": [
        WINDOW,
        {**node("OneOf"), "transforms": [HOLES, CONTRAST, node("RandomGamma")]},
        HOLES,
    ],
    "before what is not one of them": [WINDOW, HOLES, node("GaussianBlur"), CONTRAST],
    "behind a geometric one": [node("Affine", rotate=[-20, 20]), WINDOW, HOLES],
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_albumentations(name: str) -> None:
    transform = transform_of(*CASES[name])
    changed = 0
    for seed in range(12):
        for image_hu in (IMAGE_HU, IMAGE_HU[:, :, 0]):
            if name == "holes by channel" and image_hu.ndim == 2:
                continue
            image = transform(image_hu, seed, HEADER_WINDOW)
            expected = by_albumentations(transform, image_hu, seed)
            assert image.dtype == np.float32 and image.flags.c_contiguous
            np.testing.assert_allclose(image, expected, atol=2e-6)
            changed += not np.array_equal(image, transform_of(WINDOW)(image_hu, seed))
    assert changed or name == "windows"


@pytest.mark.parametrize("per_channel", [True, False])
def test_noise_has_the_drawn_strength(per_channel: bool) -> None:
    noise = node("GaussNoise", p=1.0, std_range=[0.02, 0.1], mean_range=[0.01, 0.05],
                 per_channel=per_channel)  # fmt: skip
    transform = transform_of(WINDOW, noise)
    middle = np.full((200, 201), 45, np.float32)
    for seed in range(4):
        plain = transform_of(WINDOW)(middle, seed)
        ours = transform(middle, seed) - plain
        theirs = by_albumentations(transform, middle, seed) - plain
        inside = (plain + theirs > 0.01) & (plain + theirs < 0.99)
        assert inside.mean() > 0.99
        assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.002)
        assert np.allclose(ours[0], ours[1], atol=1e-6) != per_channel
        along = ours[0] - ours[0].mean()
        assert abs(np.corrcoef(along[:, 1:].ravel(), along[:, :-1].ravel())[0, 1]) < 0.02


def test_noise_depends_on_the_seed_alone_and_stays_in_range() -> None:
    transform = transform_of(WINDOW, node("GaussNoise", p=1.0, std_range=[0.3, 0.3]))
    one, again, other = (transform(IMAGE_HU, seed) for seed in (5, 5, 6))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.min() == 0 and one.max() == 1
