"""The device side against the CPU side, and the composed geometry against albumentations."""

import copy
import json
import pickle
import random
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from common.transforms import SampleTransform, catalog, load_transform
from common.transforms.area_resize import BoxStep
from common.transforms.draw import Recorder
from common.transforms.plan import plan_host

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "transforms").glob("*.json"))
UNEVEN = ("CoarseDropout", "GaussNoise", "DoseNoise")  # drawn on the device, or put into holes
WINDOW = {"__class_fullname__": "common.albumentations.DicomWindowShift"}
SIZE = 96


def head(rows: int = 150, columns: int = 150, num_slices: int = 1) -> np.ndarray:
    """A skull with a noisy brain in air, int16 HU (slices, rows, columns)."""
    rng = np.random.default_rng(rows + columns)
    y, x = np.mgrid[:rows, :columns]
    radius = np.hypot((y - rows / 2) / (rows * 0.42), (x - columns * 0.52) / (columns * 0.36))
    blobs = cv2.GaussianBlur(rng.normal(0, 40, (rows, columns)).astype(np.float32), None, 2)
    image = np.where(radius < 1, 1000, -1000) + 0.0
    image = np.where(radius < 0.92, 35 + blobs, image)
    return (
        np.stack([image + 9 * i + rng.normal(0, 4, image.shape) for i in range(num_slices)])
        .round()
        .astype(np.int16)
    )


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 1.0, **arguments}


def transform_of(*nodes: dict[str, Any]) -> SampleTransform:
    compose = {"__class_fullname__": "Compose", "transforms": list(nodes), "p": 1.0}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, "a.json")


def on_device(transform: SampleTransform, image_hu: np.ndarray, seed: int) -> np.ndarray:
    """What the device makes of int16 (slices, rows, columns)."""
    image, row = pickle.loads(pickle.dumps(transform.host_part()))(image_hu, seed)
    return transform.device_part()(torch.from_numpy(image)[None], row[None])[0].numpy()


def on_host(transform: SampleTransform, image_hu: np.ndarray, seed: int) -> np.ndarray:
    return transform(np.moveaxis(image_hu, 0, 2), seed)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of images in [0, 1], in dB."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32
    return float(-10 * np.log10(np.mean((one.astype(np.float64) - other) ** 2) + 1e-15))


def evenly(path: Path) -> SampleTransform:
    """A shipped file without noise, holes and normalization."""
    document = json.loads(path.read_text())
    kept = [
        item
        for item in document["transform"]["transforms"]
        if catalog.name_of(item) not in (*UNEVEN, "Normalize")
    ]
    document["transform"]["transforms"] = kept
    return SampleTransform.from_dict(document, path.name)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_the_same_on_either_side(path: Path) -> None:
    transform = evenly(path)
    for seed, image_hu in enumerate((head(), head(150, 180), head(300, 300), head(num_slices=3))):
        for size in (128,) if seed else (128, 0):
            sized = transform.with_size(size) if size else transform
            images = on_host(sized, image_hu, seed), on_device(sized, image_hu, seed)
            assert psnr(*images) > 60, (seed, size)


def test_every_shipped_file_runs_on_the_device() -> None:
    for path in SHIPPED:
        own = {"ipan2026": "FitSize", "ct_physics": "ScalpRemoval"}
        own["ct_ich_physics"] = "ScalpRemoval"
        first = next((own[start] for start in own if path.stem.startswith(start)), "none")
        assert load_transform(path).device_part().describe().startswith(f"on the CPU: {first};")


AFFINE = node(
    "Affine",
    scale=[0.7, 1.3],
    rotate=[-40, 40],
    shear=[-8, 8],
    translate_percent=[-0.2, 0.2],
    border_mode=0,
    fill=-1024,
)
GEOMETRY = {
    "mirror": [node("HorizontalFlip")],
    "flip": [node("VerticalFlip")],
    "transpose": [node("Transpose")],
    "turn": [node("RandomRotate90")],
    "symmetries": [node("D4")],
    "affine in air": [AFFINE],
    "affine reflected": [{**AFFINE, "border_mode": cv2.BORDER_REFLECT_101}],
    "affine mirrored": [{**AFFINE, "border_mode": cv2.BORDER_REFLECT}],
    "affine repeated": [{**AFFINE, "border_mode": cv2.BORDER_REPLICATE}],
    "affine far out": [{**AFFINE, "scale": [0.2, 0.25], "border_mode": cv2.BORDER_REFLECT_101}],
    "affine fitted": [{**AFFINE, "fit_output": True}, node("CenterCrop", height=60, width=60)],
    "shift, scale and rotate": [
        node("ShiftScaleRotate", shift_limit=0.1, rotate_limit=30, border_mode=4)
    ],
    "rotation": [node("Rotate", limit=[-90, 90], border_mode=0, fill=-1024)],
    "rotation cropped": [
        node("Rotate", limit=[-30, 30], crop_border=True),
        node("CenterCrop", height=60, width=60),
    ],
    "random crop": [node("RandomCrop", height=70, width=60)],
    "centre crop": [node("CenterCrop", height=71, width=60)],
    "resized crop": [node("RandomResizedCrop", size=[SIZE, 80], scale=[0.3, 1.0])],
    "resized crop, areas": [
        node("RandomResizedCrop", size=[40, 30], scale=[0.5, 1.0], area_for_downscale="image")
    ],
    "sized crop": [node("RandomSizedCrop", min_max_height=[40, 90], size=[SIZE, SIZE])],
    "resize up": [node("Resize", height=200, width=300)],
    "resize down": [node("Resize", height=50, width=70)],
    "resize, areas": [node("Resize", height=50, width=70, area_for_downscale="image")],
    "resize, areas, whole factor": [
        node("Resize", height=60, width=50, area_for_downscale="image")
    ],
    "resize, areas, higher and narrower": [
        node("Resize", height=200, width=70, area_for_downscale="image")
    ],
    "resized crop, areas, wider and lower": [
        node("RandomResizedCrop", size=[40, 160], scale=[0.5, 1.0], area_for_downscale="image")
    ],
    "areas last": [node("RandomCrop", height=80, width=80),
                   node("Resize", height=50, width=50, area_for_downscale="image")],
    "pad": [
        node("PadIfNeeded", min_height=200, min_width=210, border_mode=0, fill=-1024),
        node("CenterCrop", height=180, width=200),
    ],
    "pad reflected": [
        node("Pad", padding=[10, 20, 30, 5], border_mode=4),
        node("CenterCrop", height=100, width=90),
    ],
    "scale": [
        node("RandomScale", scale_limit=[-0.4, 0.4]),
        node("CenterCrop", height=60, width=55),
    ],
    "longest side": [
        node("LongestMaxSize", max_size=120),
        node("CenterCrop", height=90, width=90),
    ],
    "shortest side": [
        node("SmallestMaxSize", max_size=100),
        node("CenterCrop", height=90, width=90),
    ],
    "grid": [node("GridDistortion", num_steps=7, border_mode=4, normalized=True)],
    "grid beyond the edges": [node("GridDistortion", border_mode=4, normalized=False)],
    "grid in air": [
        node("GridDistortion", border_mode=0, fill=-1024, normalized=False, distort_limit=0.9)
    ],
    "one of two": [
        {
            **node("OneOf", p=0.8),
            "transforms": [node("Rotate", limit=45, border_mode=4), node("VerticalFlip", p=0.3)],
        }
    ],
    "two of three": [
        {
            **node("SomeOf", n=2),
            "transforms": [node("Transpose"), node("VerticalFlip"), node("HorizontalFlip", p=0.4)],
        }
    ],
}  # fmt: skip


def sized(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With a crop in front that says the size, where the nodes don't."""
    if transform_of(*nodes).output_size is not None:
        return nodes
    return [node("CenterCrop", height=SIZE, width=SIZE), *nodes]


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_that_of_albumentations(name: str) -> None:
    transform = transform_of(*sized(GEOMETRY[name]))
    plain = A.Compose([catalog.build(item, "a.json") for item in transform.pipeline.nodes])
    assert transform.device_part().describe().startswith("on the CPU: none;")
    image_hu = head(120, 150)
    for seed in range(6):
        plain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        wanted = plain(image=image_hu[0].astype(np.float32))["image"].transpose(2, 0, 1)
        # Crops are resized with what lies just beyond them; albumentations repeats their edges.
        assert psnr(wanted, on_device(transform, image_hu, seed)) > 35, seed


def test_boxes_of_any_shape_are_the_same_on_host_and_device() -> None:
    """Larger, smaller, equal, or one along one axis and another along the other."""
    rng = np.random.default_rng(3)
    kinds = set()
    for _ in range(150):
        size = tuple(rng.integers(30, 60, 2).tolist())
        image = rng.normal(0, 100, (80, 90, 2)).astype(np.float32)
        boxes = []
        for _ in range(3):
            grows = rng.integers(-1, 2, 2)
            height, width = size - grows * rng.integers(1, [20, 29])
            left, top = rng.integers(0, 90 - width), rng.integers(0, 80 - height)
            boxes.append([left, top, width, height])
            kinds.add(tuple(grows.tolist()))
        images = torch.from_numpy(image.transpose(2, 0, 1))[None].repeat(3, 1, 1, 1)
        made = BoxStep(np.array(boxes), size).on_device(images).numpy()
        for box, of_device in zip(boxes, made, strict=True):
            of_host = BoxStep(np.array([box]), size).on_host(image).transpose(2, 0, 1)
            np.testing.assert_allclose(of_device, of_host, atol=2e-3, err_msg=f"{box} to {size}")
    assert len(kinds) == 9


@pytest.mark.parametrize("border", [cv2.BORDER_REFLECT_101, cv2.BORDER_CONSTANT])
def test_one_resampling_shows_what_many_do_on_a_smooth_image(border: int) -> None:
    y, x = np.mgrid[:150, :150] / 150
    smooth = (40 + 30 * np.sin(5 * x + 1) * np.cos(4 * y)).round(0).astype(np.int16)
    nodes = [
        node("RandomResizedCrop", size=[128, 128], scale=[0.7, 1.0]),
        node("HorizontalFlip", p=0.5),
        {**AFFINE, "border_mode": border},
        node("Rotate", limit=[-45, 45], border_mode=border, fill=-1024),
        node("GridDistortion", border_mode=border, fill=-1024),
    ]
    transform = transform_of(*nodes)
    assert len(plan_host(transform.pipeline).geometry) == 5
    plain = A.Compose([catalog.build(item, "a.json") for item in transform.pipeline.nodes])
    for seed in range(8):
        plain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        many = plain(image=smooth.astype(np.float32))["image"].transpose(2, 0, 1)
        once = on_host(transform, smooth[None], seed)
        # Beside the lines where air begins, which many resamplings smear.
        close = np.abs(many - once).max(0) < 0.03
        assert close.mean() > (0.93 if border == cv2.BORDER_CONSTANT else 0.98), seed
        assert psnr(once, on_device(transform, smooth[None], seed)) > 60


def test_at_most_one_resampling_stays_with_albumentations() -> None:
    for name in ("train_small", "valid_small", "valid_simple_512"):
        path = next(path for path in SHIPPED if path.stem == name)
        assert plan_host(load_transform(path).pipeline).geometry == ()


COMPARED = {"matrix", "crop_coords", "widths", "centers", "holes"}


def test_draws_are_those_of_albumentations() -> None:
    """Every transform of the complex pipeline draws the same, whatever ran before it."""
    path = next(path for path in SHIPPED if path.stem == "train_complex_512")
    pipeline = load_transform(path).pipeline
    names = [catalog.name_of(item) for item in pipeline.nodes]
    recorder = Recorder(pipeline.nodes, "a.json")
    plain = A.Compose(
        [catalog.build(item, "a.json") for item in pipeline.nodes], save_applied_params=True
    )
    image = head(200, 200)[0].astype(np.float32)
    for seed in range(10):
        states = [(np.random.default_rng(seed), random.Random(seed)) for _ in range(2)]
        plain.set_random_state(*states[0])
        applied = dict(plain(image=image)["applied_transforms"])
        states[1][1].random()
        record = recorder.draw(image.shape, *states[1])
        assert [names[position] for position in record] == list(applied)
        for position, params in record.items():
            other = applied[names[position]]
            for key in params.keys() & other.keys() & COMPARED:
                assert np.allclose(params[key], other[key]), (names[position], key)
        if "GridDistortion" in applied:
            place = names.index("GridDistortion")
            assert np.allclose(
                record[place]["xs"], applied["GridDistortion"]["map_x"][0], atol=1e-3
            )
            assert np.allclose(
                record[place]["ys"], applied["GridDistortion"]["map_y"][:, 0], atol=1e-3
            )
        assert states[0][0].random() == states[1][0].random()
        assert states[0][1].random() == states[1][1].random()


INTENSITY = {
    "windows drawn": [
        {
            **WINDOW,
            "window_width_mins": [60, 150, 300],
            "window_width_maxs": [90, 250, 400],
            "window_center_mins": [30, 60, 20],
            "window_center_maxs": [50, 90, 60],
        }
    ],
    "windows stretched": [
        {
            **WINDOW,
            "window_width_mins": [80, 4000, 6000],
            "window_width_maxs": [80, 4000, 6000],
            "min_max_normalize": True,
        }
    ],
    "holes": [WINDOW, node("CoarseDropout", num_holes_range=[2, 6], fill=0.3)],
    "holes by channel": [WINDOW, node("CoarseDropout", fill=[0.1, 0.2, 0.3])],
    "holes in parts": [
        WINDOW, node("CoarseDropout", hole_height_range=[0.1, 0.2], hole_width_range=[0.1, 0.3])
    ],
    "contrast": [WINDOW, node("RandomBrightnessContrast", p=0.7)],
    "contrast by mean": [
        WINDOW, node("RandomBrightnessContrast", brightness_by_max=False, contrast_limit=0.5)
    ],
    "gamma": [WINDOW, node("RandomGamma", p=0.7)],
    "normalization": [
        WINDOW,
        node("Normalize", mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.1], max_pixel_value=1.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", INTENSITY)
def test_windows_and_intensity_are_the_same_on_either_side(name: str) -> None:
    resize = node("CenterCrop", height=SIZE, width=SIZE - 16)
    num_slices = 1 if name == "holes by channel" else 3
    transform = transform_of(resize, *INTENSITY[name])
    assert transform.device_part().describe().startswith("on the CPU: none;")
    for seed in range(4):
        image_hu = head(120, 120, num_slices)
        host, device = (side(transform, image_hu, seed) for side in (on_host, on_device))
        assert np.abs(host - device).max() < 1e-3


@pytest.mark.parametrize("per_channel", [True, False])
def test_noise_has_the_drawn_strength_and_depends_on_the_sample_alone(per_channel: bool) -> None:
    noise = node("GaussNoise", std_range=[0.02, 0.1], per_channel=per_channel)
    transform = transform_of(node("CenterCrop", height=SIZE, width=SIZE), WINDOW, noise)
    image_hu = np.full((1, SIZE, SIZE), 40, np.int16)
    sides = [side(transform, image_hu, 7) for side in (on_host, on_device)]
    spread = [side[0].std() for side in sides]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)
    for side in sides:
        assert np.array_equal(side[0] - side[0].mean(), side[2] - side[2].mean()) != per_channel
    host, device = transform.host_part(), transform.device_part()
    rows = [host(image_hu, seed)[1] for seed in (3, 7, 9)]
    batch = torch.from_numpy(image_hu)[None].expand(3, -1, -1, -1)
    together = device(batch, np.stack(rows))
    assert np.array_equal(together[1].numpy(), sides[1])
    assert not torch.equal(together[0], together[2])


def test_what_is_unknown_stays_on_the_cpu_with_all_before_it() -> None:
    elastic = node("ElasticTransform", alpha=20.0, border_mode=4)
    rotate = node("Rotate", limit=30, border_mode=4)
    grid = node("GridDistortion", border_mode=4)
    resize = node("Resize", height=SIZE, width=SIZE)
    transform = transform_of(rotate, elastic, resize, grid, WINDOW)
    assert transform.device_part().describe() == (
        "on the CPU: Rotate, ElasticTransform; "
        "on the device: Resize, GridDistortion, DicomWindowShift"
    )
    sharpened = transform_of(resize, rotate, WINDOW, node("Sharpen"), node("RandomGamma"))
    assert sharpened.device_part().describe() == (
        "on the CPU: Resize, Rotate, DicomWindowShift, Sharpen; on the device: RandomGamma"
    )
    nothing = transform_of(resize, WINDOW, node("Sharpen"))
    assert nothing.device_part().describe().endswith("on the device: none")
    for seed in range(3):
        for one in (transform, sharpened, nothing):
            image_hu = head(num_slices=1)
            assert psnr(on_host(one, image_hu, seed), on_device(one, image_hu, seed)) > 60


@pytest.mark.parametrize(
    "changed",
    [
        node("Rotate", interpolation=cv2.INTER_CUBIC, border_mode=4),
        node("Rotate", border_mode=cv2.BORDER_WRAP),
        node("RandomCrop", height=SIZE, width=SIZE, pad_if_needed=True, border_mode=4),
        {
            **node("SomeOf", n=2, replace=True),
            "transforms": [node("Rotate", limit=9, border_mode=4), node("VerticalFlip")],
        },
        node("LongestMaxSize", max_size=SIZE, area_for_downscale="image"),
    ],
    ids=["cubic", "wrap", "pad", "twice", "areas of any size"],
)
def test_arguments_without_an_equal_stay_on_the_cpu(changed: dict[str, Any]) -> None:
    last = node("Resize", height=SIZE, width=SIZE)
    transform = transform_of(changed, last)
    name = catalog.name_of(changed)
    assert transform.device_part().describe().startswith(f"on the CPU: {name};")
    assert psnr(*(side(transform, head(), 2) for side in (on_host, on_device))) > 60


def test_a_batch_is_what_its_samples_are() -> None:
    """Images of different sizes are padded; what others draw makes no difference."""
    path = next(path for path in SHIPPED if path.stem == "train_complex_512")
    for transform in (
        evenly(path).with_size(128),
        transform_of(
            node("Resize", height=60, width=60, area_for_downscale="image"), node("HorizontalFlip")
        ),
    ):
        host, device = transform.host_part(), transform.device_part(channels_last=True)
        images = [head(150, 150), head(100, 180), head(200, 130)]
        rows = np.stack([host(image, seed)[1] for seed, image in enumerate(images)])
        batch = torch.full((3, 1, 200, 180), 3000, dtype=torch.int16)
        for place, image in zip(batch, images):
            place[:, : image.shape[1], : image.shape[2]] = torch.from_numpy(image)
        before = batch.clone()
        together = device(batch, rows)
        assert together.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch, before)
        for seed, image in enumerate(images):
            assert psnr(on_host(transform, image, seed), together[seed].numpy()) > 60


def test_autocast_and_gradients_have_no_part_in_it() -> None:
    transform = evenly(SHIPPED[0]).with_size(64)
    image, row = transform.host_part()(head(), 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = transform.device_part()(torch.from_numpy(image)[None], row[None])
    assert inside.dtype == torch.float32 and not inside.requires_grad
    assert np.array_equal(inside[0].numpy(), on_device(transform, head(), 1))


def test_images_of_any_size_make_no_batch() -> None:
    with pytest.raises(ValueError, match="add a Resize"):
        transform_of(node("HorizontalFlip")).device_part()


def test_the_document_is_left_as_it_was() -> None:
    transform = load_transform(SHIPPED[0])
    before = copy.deepcopy(transform.to_dict())
    transform.host_part()(head(), 0)
    assert transform.to_dict() == before
