"""Transforms by the physics of CT against closed forms, plain loops and the device side."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from common.errors import InputError
from common.transforms import SampleTransform, catalog
from common.transforms.catalog import SCANNER
from tests.common.transforms.test_device import head, node, on_device, on_host, transform_of

WIDE = {
    **node("common.albumentations.DicomWindowShift"),
    **{f"window_width_m{end}": [4096] for end in ("ins", "axs")},
    **{f"window_center_m{end}": [1024] for end in ("ins", "axs")},
}
STRONG: dict[str, dict[str, Any]] = {
    "Calibration": {
        "offset_hu_range": [-30, 30],
        "slope_range": [0.8, 1.2],
        "cup_hu_range": [5, 9],
    },
    "DoseNoise": {"std_hu_range": [10, 20]},
    "GantryTilt": {"degrees_range": [-25, 25]},
    "KernelSharpness": {"change_range": [-1, 1.5], "width_mm_range": [0.5, 2]},
    "SliceThickness": {"thickness_mm_range": [6, 14]},
}


def scanned(name: str, image_hu: np.ndarray, spacing_mm: Any = None, **arguments: Any) -> Any:
    """What a transform alone makes of (height, width[, slices]), HU."""
    transform = catalog.OWN[name](**arguments, p=1)
    transform.set_random_seed(3)
    return transform(image=image_hu.astype(np.float32), spacing_mm=spacing_mm)["image"]


def hu(image: np.ndarray) -> np.ndarray:
    """The HU of an image through `WIDE`."""
    return image * 4096 - 1024


@pytest.mark.parametrize("frequency", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("change", [-1.0, -0.4, 1.2])
def test_a_kernel_multiplies_frequencies_by_its_formula(frequency: float, change: float) -> None:
    row_mm, column_mm, width = 0.25, 0.2, 0.5
    phase = 2 * np.pi * frequency * np.arange(400) * column_mm
    image = np.tile(50 * np.cos(phase), (40, 1))
    made = scanned(
        "KernelSharpness", image, (row_mm, column_mm, 5),
        change_range=(change, change), width_mm_range=(width, width),
    )  # fmt: skip
    factor = 1 + change * (1 - np.exp(-2 * (np.pi * width * frequency) ** 2))
    middle = slice(50, 350)
    assert np.allclose(made[20, middle], factor * image[20, middle], atol=0.6)


def test_noise_has_the_drawn_strength_in_fine_pixels_and_its_spectrum() -> None:
    flat = np.zeros((256, 256, 12))
    noise = scanned("DoseNoise", flat, (0.3, 0.3, 5), std_hu_range=(7, 7), cutoff_range=(0.8, 0.8))
    # The means over 0.3 mm lose a little.
    assert noise.std() == pytest.approx(7, rel=0.06) and noise.std() < 7
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    power = (np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).mean(2)
    frequency = np.fft.fftfreq(256, 0.3)
    radius = np.hypot(frequency[:, None], frequency)
    rings = [
        power[(radius >= low) & (radius < low + 0.05)].mean() for low in np.arange(0, 0.8, 0.05)
    ]
    share = (np.arange(0, 0.8, 0.05) + 0.025) / 0.8
    pixel = np.sinc(0.3 * share * 0.8) ** 2
    wanted = share * (1 + np.cos(np.pi * share)) ** 2 * pixel
    assert np.corrcoef(rings, wanted)[0, 1] > 0.98
    assert power[radius > 0.82].max() < 1e-6 * power.max()


def test_noise_of_large_pixels_is_the_mean_of_that_of_small_ones() -> None:
    strength = {"std_hu_range": (5, 5), "cutoff_range": (0.7, 0.7)}
    fine = scanned("DoseNoise", np.zeros((512, 512, 6)), (0.2, 0.2, 5), **strength)
    means = fine.reshape(128, 4, 128, 4, 6).mean((1, 3))
    coarse = scanned("DoseNoise", np.zeros((128, 128, 6)), (0.8, 0.8, 5), **strength)
    assert coarse.std() == pytest.approx(means.std(), rel=0.1)
    assert coarse.std() < 0.95 * fine.std()


@pytest.mark.parametrize("thickness", [2.0, 5.0, 7.0, 10.0, 24.0])
def test_a_thick_slice_is_the_mean_over_its_thickness(thickness: float) -> None:
    gap = 5.0
    slices = np.random.default_rng(0).normal(0, 100, (6, 7, 5))
    made = scanned("SliceThickness", slices, (1, 1, gap), thickness_mm_range=(thickness, thickness))
    places = (np.arange(5 * 1000) + 0.5) / 1000 * gap  # of thin sheets, 1000 a slice
    for place in range(5):
        center = (place + 0.5) * gap
        inside = np.abs(places - center) <= max(thickness, gap) / 2
        of_slice = np.bincount((places[inside] / gap).astype(int), minlength=5)
        wanted = slices @ (of_slice / of_slice.sum())
        assert np.allclose(made[..., place], wanted, atol=0.3)


@pytest.mark.parametrize("name", ["SliceThickness", "GantryTilt"])
def test_a_slice_alone_has_no_neighbours(name: str) -> None:
    made = scanned(name, head()[0], (0.5, 0.5, 5), **STRONG[name])
    if name == "SliceThickness":
        assert np.array_equal(made, head()[0])
    else:
        assert made.shape == head()[0].shape and not np.array_equal(made, head()[0])


def test_a_tilted_gantry_reads_a_tilted_plane() -> None:
    """Of a volume that is linear in y and z: exact, as far as its slices reach."""
    degrees, row_mm, gap = 4.0, 0.5, 6.0
    rows = np.arange(81) - 40.0
    volume = 3 * rows[:, None, None] + 50 * np.arange(5) + np.zeros((81, 9, 5))
    made = scanned("GantryTilt", volume, (row_mm, 0.5, gap), degrees_range=(degrees, degrees))
    angle = np.radians(degrees)
    for place in (1, 2, 3):
        wanted = 3 * rows * np.cos(angle) + 50 * (place + rows * row_mm * np.sin(angle) / gap)
        assert np.allclose(made[:, 4, place], wanted, atol=1e-3)
    # The end of the sample is repeated.
    assert np.allclose(made[60:, 4, 4], 3 * rows[60:] * np.cos(angle) + 200, atol=1e-3)


def test_calibration_follows_its_formula() -> None:
    fixed = {"offset_hu_range": (4, 4), "slope_range": (1.1, 1.1), "cup_hu_range": (10, 10)}
    made = scanned("Calibration", np.full((101, 201), 50.0), (2.0, 1.0, 5), **fixed)
    assert made[50, 100] == pytest.approx(59 - 10)
    assert made[50, 145] == pytest.approx(59 - 10 * 0.75)
    assert made[50 + 9, 100 + 24] == pytest.approx(59 - 10 * (1 - (18**2 + 24**2) / 90**2))
    assert made[0, 0] == pytest.approx(59)
    air = scanned(
        "Calibration", np.full((9, 9), -1024.0), None, **{**fixed, "cup_hu_range": (0, 0)}
    )
    assert (air == -1024).all()


def disc(radius_mm: float, spacing_mm: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    y, x = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm))
    return np.where(np.hypot(y[:, None], x) < radius_mm, 1000, -1024).astype(np.int16)


def radius_of(image: np.ndarray) -> float:
    return float(np.sqrt((hu(image[0]) > -12).sum() / np.pi))


RESAMPLED = {
    "resized": [node("Resize", height=90, width=90)],
    "by areas": [node("Resize", height=90, width=90, area_for_downscale="image")],
    "cropped": [node("RandomResizedCrop", size=[90, 90], scale=[0.75, 0.95], ratio=[1, 1])],
    "zoomed": [
        node("Affine", scale=[0.6, 0.9], keep_ratio=True, rotate=30, fill=-1024, border_mode=0),
        node("Resize", height=90, width=90),
    ],
    "one by one": [
        node("Resize", height=70, width=70),
        node("ElasticTransform", alpha=0.01, fill=-1024, border_mode=0),
        node("CenterCrop", height=60, width=60),
        node("Resize", height=90, width=90),
    ],
    **{
        f"{turn['__class_fullname__']}, one by one": [
            turn,
            node("ElasticTransform", alpha=0.01, fill=-1024, border_mode=0),
            node("Resize", height=90, width=90),
        ]
        for turn in (
            {**node("Transpose"), "p": 0.5},
            node("RandomRotate90"),
            node("OneOf", transforms=[node("D4"), node("HorizontalFlip")]),
        )
    },
    "fitted": [
        node("FitSize", height=150, width=150, shrink_above=170),
        node("Resize", height=90, width=90),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RESAMPLED)
@pytest.mark.parametrize("shape", [(160, 160), (200, 230)])
def test_a_field_of_view_is_in_mm_whatever_came_before(name: str, shape: tuple[int, int]) -> None:
    """A disc of 45 mm radius has the same size in pixels, on host and device."""
    field = node("FieldOfView", field_mm_range=[200, 200])
    transform = transform_of(*RESAMPLED[name], field, WIDE)
    spacing_mm = (1.1, 0.9, 5.0)
    image_hu = disc(45, spacing_mm[:2], shape)[None]
    for seed in range(4):
        image = transform(image_hu[0], seed, None, spacing_mm)
        if name != "zoomed":  # pixels that are not square are not so again once turned
            inside = hu(image[0]) > -12
            sides = inside.any(axis=0).sum(), inside.any(axis=1).sum()
            assert radius_of(image) == pytest.approx(45 * 90 / 200, rel=0.02), seed
            assert abs(int(sides[0]) - int(sides[1])) <= 1, sides
        made, row = transform.host_part()(image_hu, seed, None, spacing_mm)
        of_device = transform.device_part()(torch.from_numpy(made)[None], row[None])[0].numpy()
        assert np.abs(hu(image) - hu(of_device)).max() < 3
    if name == "zoomed":
        image_hu = disc(45, (1.0, 1.0), shape)
        radii = [radius_of(transform(image_hu, seed, None, (1.0, 1.0, 5.0))) for seed in range(6)]
        assert np.allclose(radii, 45 * 90 / 200, rtol=0.03)


def test_a_field_that_is_one_value_draws_nothing() -> None:
    fixed = transform_of(node("FieldOfView", field_mm_range=[220, 220]), WIDE)
    assert fixed.is_deterministic
    assert transform_of(node("FieldOfView"), WIDE).random_transforms == ["FieldOfView"]
    noise = node("DoseNoise", std_hu_range=[3, 3], cutoff_range=[1, 1])
    assert not transform_of(noise, WIDE).is_deterministic


def test_an_unknown_spacing_is_the_usual_one() -> None:
    transform = transform_of(node("FieldOfView", field_mm_range=[250, 250]), WIDE)
    plain = transform_of(WIDE)
    for unknown in (None, (np.nan, np.nan, np.nan), (0.0, 0.0, 0.0)):
        made = transform(head()[0], 0, None, unknown)
        assert np.abs(hu(made) - hu(plain(head()[0], 0))).max() < 0.01


def test_a_scale_that_is_unknown_is_refused() -> None:
    elastic = node("ElasticTransform", alpha=5.0, border_mode=0, fill=-1024)
    crop = node("RandomResizedCrop", size=[90, 90])
    with pytest.raises(InputError, match=r"a\.json: RandomResizedCrop can't be followed in mm"):
        transform_of(crop, elastic, node("DoseNoise"), WIDE)
    transform_of(elastic, crop, node("DoseNoise"), WIDE)
    some = node("SomeOf", transforms=[node("Transpose"), node("HorizontalFlip")], n=2)
    transform_of({**some, "replace": False}, elastic, node("DoseNoise"), WIDE)
    with pytest.raises(InputError, match="Transpose can't be followed in mm"):
        transform_of({**some, "replace": True}, elastic, node("DoseNoise"), WIDE)
    transform_of(crop, elastic, WIDE)


@pytest.mark.parametrize("name", sorted(SCANNER))
def test_both_sides_draw_and_change_alike(name: str) -> None:
    resize = node("Resize", height=96, width=96)
    rotate = node("Rotate", limit=20, border_mode=0, fill=-1024)
    transform = transform_of(resize, rotate, node(name, **STRONG[name]), WIDE)
    plain = transform_of(resize, rotate, WIDE)
    assert transform.device_part().describe().startswith("on the CPU: none;")
    for seed in range(4):
        image_hu = head(120, 120, num_slices=3)
        host, device = (hu(side(transform, image_hu, seed)) for side in (on_host, on_device))
        before = hu(on_host(plain, image_hu, seed))
        if name == "DoseNoise":
            noise = (host - before)[:, 40:60, 40:60], (device - before)[:, 40:60, 40:60]
            assert noise[0].std() == pytest.approx(noise[1].std(), rel=0.2)
            again = hu(on_device(transform, image_hu, seed))
            assert np.array_equal(device, again)
        else:
            assert np.abs(host - device).max() < 0.5
            assert np.abs(host - before).max() > 1


def test_samples_of_a_batch_do_not_change_each_other() -> None:
    nodes = [node(name, **STRONG[name], p=0.5) for name in sorted(SCANNER)]
    transform = transform_of(node("Resize", height=96, width=96), *nodes, WIDE)
    host, device = transform.host_part(), transform.device_part()
    image_hu = head(120, 120, num_slices=3)
    rows = np.stack([host(image_hu, seed)[1] for seed in range(4)])
    together = device(torch.from_numpy(image_hu)[None].expand(4, -1, -1, -1), rows)
    for seed in range(4):
        assert np.array_equal(together[seed].numpy(), on_device(transform, image_hu, seed))


def test_the_scanner_comes_between_geometry_and_windows() -> None:
    resize = node("Resize", height=96, width=96)
    noise = node("DoseNoise")
    one = transform_of(resize, noise, WIDE)
    for nodes in ([noise, resize, WIDE], [resize, WIDE, noise], [WIDE, noise, resize]):
        other = transform_of(*nodes)
        assert other.to_dict() == one.to_dict()
    assert SampleTransform.from_dict(one.to_dict()).to_dict() == one.to_dict()
    choice = {**node("OneOf", p=1), "transforms": [node("KernelSharpness"), noise]}
    image_hu = head(120, 120, num_slices=3)
    both = transform_of(resize, choice, WIDE)
    assert both.device_part().describe().startswith("on the CPU: none;")
    assert np.isfinite(on_device(both, image_hu, 1)).all()
    with pytest.raises(InputError, match="OneOf must hold only"):
        transform_of({**node("OneOf"), "transforms": [noise, resize]}, WIDE)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("KernelSharpness", {"change_range": [-2, 0]}),
        ("KernelSharpness", {"width_mm_range": [0, 1]}),
        ("DoseNoise", {"std_hu_range": [5, 2]}),
        ("DoseNoise", {"cutoff_range": [-1, 2]}),
        ("SliceThickness", {"thickness_mm_range": [0, 5]}),
        ("GantryTilt", {"degrees_range": [0, 90]}),
        ("Calibration", {"slope_range": [0, 1]}),
        ("Calibration", {"offset_hu_range": [1]}),
        ("FieldOfView", {"field_mm_range": [0, 10]}),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"a\.json: {name} refuses its arguments"):
        transform_of(node(name, **arguments), WIDE)


def skull(closed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A head with scalp on a rest, 0.5 mm pixels, and where its brain is."""
    y, x = np.mgrid[:400, :400]
    radius = np.hypot((y - 190) / 1.2, x - 200)
    image = np.full((400, 400), -1000, np.int16)
    image[radius < 140] = -90
    image[radius < 128] = 40
    image[radius < 124] = 1200
    if not closed:
        image[(x > 200) & (np.abs(y - 190) < 90) & (radius < 128) & (radius > 100)] = 40
    image[radius < 114] = 35
    brain = radius < 114
    rest = (np.abs(y - 372 + (x - 200) ** 2 / 900) < 4) & (radius > 142)
    image[rest] = 150
    image[340:344, 20:24] = 2000  # a clip
    return image, brain


@pytest.mark.parametrize("closed", [True, False])
def test_scalp_and_rest_become_air_and_brain_stays(closed: bool) -> None:
    image, brain = skull(closed)
    made = scanned("ScalpRemoval", image, (0.5, 0.5, 5))
    assert np.array_equal(made[brain], image[brain])
    outside = ndimage.binary_dilation(image > 300, iterations=4) & (image > 300)
    assert made[image == 150].max() == -1024 and made[340:344, 20:24].max() == -1024
    fat = image == -90
    left = (made[fat] > -1000).mean()
    assert left < (0.02 if closed else 0.15) and outside.any()


def test_no_bone_no_change() -> None:
    image, _ = skull()
    soft = np.minimum(image, 60)
    for kept in (soft, np.full((64, 64), -1000, np.int16)):
        assert np.array_equal(scanned("ScalpRemoval", kept, (0.5, 0.5, 5)), kept)
    bright = np.where(image > -500, image + 40, image).astype(np.int16)
    assert (scanned("ScalpRemoval", bright, (0.5, 0.5, 5)) > -1000).sum() == pytest.approx(
        (scanned("ScalpRemoval", image, (0.5, 0.5, 5)) > -1000).sum(), rel=0.01
    )


def test_every_slice_has_its_own_mask() -> None:
    image, _ = skull()
    small = cv2.warpAffine(image, np.array([[0.8, 0, 40], [0, 0.8, 40]]), (400, 400),
                           borderValue=-1000)  # fmt: skip
    made = scanned("ScalpRemoval", np.stack([image, small], axis=-1), (0.5, 0.5, 5))
    for place, one in enumerate((image, small)):
        assert np.array_equal(made[..., place], scanned("ScalpRemoval", one, (0.5, 0.5, 5)))
