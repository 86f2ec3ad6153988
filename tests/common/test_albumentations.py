import albumentations as A
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.albumentations import DicomWindowShift, FitSize, HeaderWindow, NeighborSwap

ARRAY = np.random.default_rng(0).integers(-1024, 3000, (40, 30)).astype(np.int16)


def windowed(image_hu: np.ndarray, **arguments: object) -> np.ndarray:
    return DicomWindowShift(**arguments)(image=image_hu)["image"]


def test_windows_map_their_edges_to_0_and_1() -> None:
    image = np.array([[0.0, 40.0, 80.0, -1024.0, 3000.0]], dtype=np.float32)
    brain = windowed(image)[0, :, 0]
    assert brain.tolist() == [0.0, 0.5, 1.0, 0.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(
    width=st.floats(1, 4000),
    center=st.floats(-1000, 3000),
    seed=st.integers(0, 1000),
)
def test_equals_the_formula_in_float64(width: float, center: float, seed: int) -> None:
    image = np.random.default_rng(seed).uniform(-1024, 3100, (8, 9))
    one = {f"window_{name}": (value,) for name, value in limits(width, center)}
    expected = np.clip((image - (center - width / 2)) / width, 0, 1)
    result = windowed(image.astype(np.float32), **one)
    assert result.shape == (8, 9, 1) and result.dtype == np.float32
    np.testing.assert_allclose(result[..., 0], expected, atol=2e-3 / min(width, 2000) + 1e-5)


def limits(width: float, center: float) -> list[tuple[str, float]]:
    return [
        ("width_mins", width),
        ("width_maxs", width),
        ("center_mins", center),
        ("center_maxs", center),
    ]


def test_slices_become_channels_slice_by_slice() -> None:
    slices = np.stack([ARRAY, ARRAY + 10, ARRAY + 20], axis=2)
    image = windowed(slices)
    assert image.shape == (40, 30, 9)
    for position in range(3):
        alone = windowed(np.ascontiguousarray(slices[:, :, position]))
        assert np.array_equal(image[:, :, 3 * position : 3 * position + 3], alone)


def test_int16_and_float32_give_the_same() -> None:
    assert np.array_equal(windowed(ARRAY), windowed(ARRAY.astype(np.float32)))


def test_draws_lie_in_the_ranges_and_differ() -> None:
    transform = DicomWindowShift(
        window_width_mins=(75, 190, 360),
        window_width_maxs=(85, 210, 400),
        window_center_mins=(35, 75, 35),
        window_center_maxs=(45, 85, 45),
    )
    drawn = [transform.get_params() for _ in range(300)]
    widths = np.array([draw["widths"] for draw in drawn])
    centers = np.array([draw["centers"] for draw in drawn])
    for values, lows, highs in (
        (widths, transform.window_width_mins, transform.window_width_maxs),
        (centers, transform.window_center_mins, transform.window_center_maxs),
    ):
        assert (values >= lows).all() and (values <= highs).all()
        spread = (np.array(highs) - lows) / 12**0.5
        np.testing.assert_allclose(values.std(axis=0), spread, rtol=0.15)


def test_every_slice_of_a_sample_gets_the_same_draw() -> None:
    transform = DicomWindowShift(window_center_mins=(20, 40, 0), window_center_maxs=(60, 99, 80))
    image = transform(image=np.stack([ARRAY, ARRAY], axis=2))["image"]
    assert np.array_equal(image[..., :3], image[..., 3:])


def test_absolute_hu_is_kept_unless_min_max_is_asked_for() -> None:
    image = np.linspace(20, 60, 12, dtype=np.float32).reshape(3, 4)
    assert windowed(image)[..., 0].min() == pytest.approx(0.25)
    stretched = windowed(image, min_max_normalize=True)
    assert stretched.min() == 0 and stretched.max() == 1
    assert windowed(np.full_like(image, 40), min_max_normalize=True).max() == 0


def test_constant_image_stays_constant() -> None:
    image = windowed(np.full((5, 6), 50, np.int16))
    np.testing.assert_allclose(image[0, 0], [50 / 80, 70 / 200, 200 / 380], rtol=1e-6)
    assert (image == image[0, 0]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_width_mins": (0, 200, 380)}, "above 0"),
        ({"window_width_mins": (80,)}, "as many"),
        ({"window_width_mins": (90, 200, 380)}, "window_width_mins must not exceed"),
        ({"window_center_maxs": (30, 80, 40)}, "window_center_mins must not exceed"),
        ({"p": 0.5}, "p must be 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DicomWindowShift(**arguments)


def test_serialises_under_its_module_path() -> None:
    transform = DicomWindowShift(window_width_mins=(75, 190, 360))
    document = A.to_dict(A.Compose([transform]))
    node = document["transform"]["transforms"][0]
    assert node["__class_fullname__"] == "common.albumentations.DicomWindowShift"
    assert A.to_dict(A.from_dict(document)) == document


def test_header_window_is_the_fixed_window_that_the_header_names() -> None:
    slices = np.stack([ARRAY, ARRAY[::-1]], axis=2)
    image = HeaderWindow()(image=slices, header_window=(35.0, 120.0))["image"]
    fixed = {f"window_{name}": (value,) for name, value in limits(120.0, 35.0)}
    assert np.array_equal(image, windowed(slices, **fixed)) and image.shape == (40, 30, 2)
    in_compose = A.Compose([HeaderWindow()])(image=slices, header_window=(35.0, 120.0))["image"]
    assert np.array_equal(in_compose, image)


@pytest.mark.parametrize(
    "window", [None, (np.nan, np.nan), (40.0, np.nan), (np.nan, 80.0), (40.0, 0.0), (40.0, -80.0)]
)
def test_header_without_a_usable_window_gets_the_fallback(window: object) -> None:
    transform = HeaderWindow(fallback_width=200, fallback_center=80)
    fixed = {f"window_{name}": (value,) for name, value in limits(200, 80)}
    image = transform(image=ARRAY, header_window=window)["image"]
    assert np.array_equal(image, windowed(ARRAY, **fixed))


def test_header_window_stretches_only_where_asked() -> None:
    image = np.linspace(20, 60, 12, dtype=np.float32).reshape(3, 4)
    assert HeaderWindow()(image=image)["image"].min() == pytest.approx(0.25)
    stretched = HeaderWindow(min_max_normalize=True)(image=image)["image"]
    assert stretched.min() == 0 and stretched.max() == 1


@pytest.mark.parametrize("arguments", [{"fallback_width": 0}, {"p": 0.5}])
def test_header_window_refuses_bad_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        HeaderWindow(**arguments)


def test_neighbor_swap_reverses_slices_and_leaves_one_alone() -> None:
    slices = np.stack([ARRAY, ARRAY + 1, ARRAY + 2], axis=2)
    swap = NeighborSwap(p=1.0)
    assert np.array_equal(swap(image=slices)["image"], slices[:, :, ::-1])
    assert np.array_equal(swap(image=ARRAY)["image"], ARRAY)
    assert np.array_equal(NeighborSwap(p=0.0)(image=slices)["image"], slices)


@pytest.mark.parametrize("transform", [HeaderWindow(fallback_width=150), NeighborSwap(p=0.3)])
def test_own_transforms_serialise_under_their_module_path(transform: A.BasicTransform) -> None:
    document = A.to_dict(A.Compose([transform]))
    node = document["transform"]["transforms"][0]
    assert node["__class_fullname__"] == f"common.albumentations.{type(transform).__name__}"
    assert A.to_dict(A.from_dict(document)) == document


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (7, 8), (3, 2), (8, 8)])
@pytest.mark.parametrize("num_slices", [None, 3])
def test_fit_size_keeps_the_middle(shape, num_slices):
    """Pixel by pixel, by a plain loop; the odd pixel is lost, or padded, at the end."""
    full = shape if num_slices is None else (*shape, num_slices)
    image = np.random.default_rng(0).normal(30, 9, full).astype(np.float32)
    fitted = FitSize(6, 6, shrink_above=20)(image=image)["image"]
    assert fitted.shape == (6, 6, *full[2:])
    starts = [(given - 6) // 2 if given > 6 else -((6 - given) // 2) for given in shape]
    for y in range(6):
        for x in range(6):
            from_y, from_x = y + starts[0], x + starts[1]
            inside = 0 <= from_y < shape[0] and 0 <= from_x < shape[1]
            expected = image[from_y, from_x] if inside else -1024
            np.testing.assert_array_equal(fitted[y, x], expected)


def test_fit_size_shrinks_what_is_too_large_by_areas():
    image = np.random.default_rng(0).normal(30, 9, (24, 12, 2)).astype(np.float32)
    fitted = FitSize(6, 6, shrink_above=23)(image=image)["image"]
    np.testing.assert_allclose(fitted, image.reshape(6, 4, 6, 2, 2).mean(axis=(1, 3)), rtol=1e-5)
    assert FitSize(6, 6, shrink_above=24)(image=image)["image"][0, 0, 0] == image[9, 3, 0]
