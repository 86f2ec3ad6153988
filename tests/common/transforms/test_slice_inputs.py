"""Header windows and swapped neighbours in pipelines, on the CPU and on the device."""

from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.transforms import SampleTransform
from common.transforms.plan import plan_host

OWN = "common.albumentations."
RNG = np.random.default_rng(0)
SLICES = RNG.integers(-100, 200, (3, 48, 40)).astype(np.int16)  # as the loader has them
WINDOW = (50.0, 130.0)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 1.0, **arguments}


SWAP = node(OWN + "NeighborSwap", p=0.5)
HEADER = node(OWN + "HeaderWindow", fallback_width=200.0, fallback_center=80.0)
SHIFT = node(OWN + "DicomWindowShift")
FLIP = node("HorizontalFlip", p=0.5)
TURN = node("Rotate", limit=[-30, 30], border_mode=0, fill=-1024, p=0.7)
RESIZE = node("Resize", height=32, width=32)
AREAS = {**RESIZE, "area_for_downscale": "image"}
BLUR = node("Blur", p=0.5)  # unknown on the device
ELASTIC = node("ElasticTransform", alpha=20, sigma=6, border_mode=0, fill=-1024)


def transform_of(*nodes: dict[str, Any]) -> SampleTransform:
    compose = {"__class_fullname__": "Compose", "transforms": list(nodes), "p": 1.0}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, "a.json")


def on_host(transform: SampleTransform, seed: int, window: Any = WINDOW) -> np.ndarray:
    return transform(np.moveaxis(SLICES, 0, 2), seed, window)


def on_device(transform: SampleTransform, seeds: range, window: Any = WINDOW) -> np.ndarray:
    made = [transform.host_part()(SLICES, seed, window) for seed in seeds]
    images, rows = zip(*made)
    return transform.device_part()(torch.from_numpy(np.stack(images)), np.stack(rows)).numpy()


PIPELINES = {
    "swap first": [SWAP, FLIP, TURN, RESIZE, SHIFT],
    "swap in the middle": [RESIZE, FLIP, SWAP, TURN, SHIFT],
    "swap before areas": [FLIP, SWAP, AREAS, TURN, SHIFT],
    "swap behind the windows": [RESIZE, SHIFT, SWAP],
    "two swaps": [SWAP, RESIZE, SWAP, SHIFT],
    "swap or flip": [RESIZE, node("OneOf", transforms=[SWAP, FLIP]), SHIFT],
    "header": [RESIZE, TURN, HEADER],
    "header stretched": [RESIZE, {**HEADER, "min_max_normalize": True}],
    "header and swap": [SWAP, TURN, RESIZE, HEADER],
    "host first": [RESIZE, ELASTIC, SWAP, HEADER],
    "all on the host": [SWAP, RESIZE, HEADER, BLUR],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_device_makes_what_the_cpu_makes(name: str) -> None:
    transform = transform_of(*PIPELINES[name])
    seeds = range(12)
    expected = np.stack([on_host(transform, seed) for seed in seeds])
    # Resampling differs by rounding: at the mean of random pixels it shows most.
    assert np.abs(on_device(transform, seeds) - expected).mean() < 2e-3
    without = np.stack([on_host(transform, seed, None) for seed in seeds])
    assert np.abs(on_device(transform, seeds, None) - without).mean() < 2e-3
    if "header" in name and "stretched" not in name:
        assert np.abs(expected - without).mean() > 0.05


@pytest.mark.parametrize("name", [name for name in PIPELINES if "swap" in name])
def test_swap_is_drawn_and_moves_whole_slices(name: str) -> None:
    """The sample is the unswapped one or its reverse, slice by slice, and both occur."""
    nodes = PIPELINES[name]
    # A probability of 0 would draw nothing, and all behind it otherwise.
    still = [{**item, "p": 1e-12} if item == SWAP else item for item in nodes]
    num_swapped = 0
    for seed in range(40):
        image = on_host(transform_of(*nodes), seed)
        image = image.reshape(3, -1, *image.shape[1:])
        plain = on_host(transform_of(*still), seed).reshape(image.shape)
        is_same, is_reverse = np.array_equal(image, plain), np.array_equal(image, plain[::-1])
        if name != "swap or flip":  # a choice of OneOf depends on the probabilities
            assert is_same or is_reverse
        num_swapped += is_reverse
    assert 8 <= num_swapped <= 32 or name == "swap or flip"


def test_swap_alone_on_the_host_is_composed_with_the_geometry() -> None:
    pipeline = transform_of(RESIZE, SWAP, TURN, SHIFT).pipeline
    assert [item["__class_fullname__"] for item in plan_host(pipeline).geometry] == [
        "Resize",
        OWN + "NeighborSwap",
        "Rotate",
    ]


def test_swap_costs_no_resampling_and_no_device() -> None:
    transform = transform_of(SWAP, RESIZE, SHIFT)
    assert transform.device_part().describe().startswith("on the CPU: none; on the device: Neigh")
    image, _ = transform.host_part()(SLICES, 0)
    assert image.dtype == np.int16


def test_header_window_makes_one_channel_of_each_slice_without_chance() -> None:
    transform = transform_of(RESIZE, HEADER)
    assert transform.num_windows == 1 and transform.is_deterministic
    assert transform.header_fallback == (80.0, 200.0)
    assert transform_of(RESIZE, SHIFT).header_fallback is None
    image = transform(np.moveaxis(SLICES, 0, 2), 0, WINDOW)
    assert image.shape == (3, 32, 32)
    again = SampleTransform.from_dict(transform.to_dict())
    assert np.array_equal(again(np.moveaxis(SLICES, 0, 2), 5, np.array(WINDOW)), image)
    swapped = transform_of({**SWAP, "p": 1.0}, RESIZE, HEADER)
    assert swapped.is_deterministic
    assert np.array_equal(swapped(np.moveaxis(SLICES, 0, 2), 0, WINDOW), image[::-1])
    assert transform_of(SWAP, RESIZE, HEADER).random_transforms == ["NeighborSwap"]


def test_windows_are_one_and_whole() -> None:
    with pytest.raises(InputError, match="2 DicomWindowShift and HeaderWindow; keep one"):
        transform_of(HEADER, SHIFT)
    with pytest.raises(InputError, match="HeaderWindow refuses its arguments"):
        transform_of({**HEADER, "fallback_width": 0})
    with pytest.raises(InputError, match="stands before HeaderWindow"):
        transform_of(BLUR, HEADER)
    with pytest.raises(InputError, match="OneOf must hold only"):
        transform_of(node("OneOf", transforms=[HEADER]))


def test_pretrained_normalization_follows_the_windows() -> None:
    three, one = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rgb = transform_of(RESIZE, SHIFT).with_normalization(three, one)
    assert rgb.pipeline.normalization == (three, one)
    single = transform_of(RESIZE, HEADER).with_normalization(three, one).pipeline.normalization
    np.testing.assert_allclose(single, ([np.mean(three)], [np.mean(one)]))
    image = rgb(np.moveaxis(SLICES, 0, 2), 0)
    raw = transform_of(RESIZE, SHIFT)(np.moveaxis(SLICES, 0, 2), 0)
    mean, std = (np.tile(values, 3)[:, None, None] for values in (three, one))
    np.testing.assert_allclose(image, (raw - mean) / std, atol=1e-5)


def test_normalization_that_fits_no_channel_is_refused() -> None:
    normalize = node("Normalize", mean=[0.5] * 3, std=[0.5] * 3, max_pixel_value=1.0)
    transform_of(RESIZE, SHIFT, normalize).require_channels(3, num_slices=3)
    transform_of(RESIZE, HEADER, normalize).require_channels(1, num_slices=3)
    with pytest.raises(InputError, match="3 means for 5 channels"):
        transform_of(RESIZE, HEADER, normalize).require_channels(1, num_slices=5)
    with pytest.raises(InputError, match="HeaderWindow makes 1 channels of a slice instead of 3"):
        transform_of(RESIZE, HEADER).require_channels(3)
