import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.transforms import SampleTransform, load_transform

WINDOW = {"__class_fullname__": "common.albumentations.DicomWindowShift"}
FLIP = {"__class_fullname__": "HorizontalFlip", "p": 0.5}
ROTATE = {"__class_fullname__": "Rotate", "limit": [-30, 30], "fill": -1024, "p": 1.0}
NOISE = {"__class_fullname__": "GaussNoise", "std_range": [0.01, 0.02], "p": 0.5}
HOLES = {"__class_fullname__": "CoarseDropout", "p": 0.5}
NORMALIZE = {
    "__class_fullname__": "Normalize",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.5, 0.25, 0.125],
    "max_pixel_value": 1.0,
}
SLICES = np.random.default_rng(0).integers(-1024, 400, (60, 50, 3)).astype(np.int16)


def resize(size: int) -> dict[str, Any]:
    return {"__class_fullname__": "Resize", "height": size, "width": size}


def transform_of(*nodes: dict[str, Any], **compose: Any) -> SampleTransform:
    whole = {"__class_fullname__": "Compose", "transforms": list(nodes), **compose}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": whole}, "a.json")


def one_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"__class_fullname__": "OneOf", "transforms": list(nodes), "p": 1.0}


def test_seed_decides_whatever_came_before() -> None:
    transform = transform_of(FLIP, ROTATE, WINDOW, NOISE)
    alone = transform(SLICES, 7)
    for seed in range(5):
        transform(SLICES, seed)
    assert np.array_equal(transform(SLICES, 7), alone)
    assert np.array_equal(pickle.loads(pickle.dumps(transform))(SLICES, 7), alone)
    assert np.array_equal(SampleTransform.from_dict(transform.to_dict())(SLICES, 7), alone)
    assert not np.array_equal(transform(SLICES, 8), alone)


def test_transforms_of_a_pipeline_draw_independently() -> None:
    """albumentations' own set_random_seed would flip exactly where it inverts up and down."""
    transform = transform_of(FLIP, {**FLIP, "__class_fullname__": "VerticalFlip"}, WINDOW)
    ramp = np.add.outer(np.arange(4) * 10, np.arange(4)).astype(np.int16)
    corners = [transform(ramp, seed)[0, 0, 0] for seed in range(200)]
    counts = np.unique(np.round(corners, 4), return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 25


def test_channels_are_windows_of_slice_after_slice() -> None:
    transform = transform_of(WINDOW)
    image = transform(SLICES, 0)
    assert image.shape == (9, 60, 50) and image.dtype == np.float32
    for position in range(3):
        alone = transform(SLICES[:, :, position], 0)
        assert np.array_equal(image[3 * position : 3 * position + 3], alone)
    brain = np.clip(SLICES.astype(float) / 80, 0, 1).transpose(2, 0, 1)
    np.testing.assert_allclose(image[::3], brain, atol=1e-6)


def test_input_is_not_changed() -> None:
    image_hu = SLICES.astype(np.float32)
    transform_of(ROTATE, WINDOW, NOISE, NORMALIZE)(image_hu, 0)
    assert np.array_equal(image_hu, SLICES)


def test_normalization_is_tiled_over_slices() -> None:
    plain, normal = transform_of(WINDOW), transform_of(WINDOW, NORMALIZE)
    assert normal.has_normalize and not plain.has_normalize
    mean = np.tile([0.1, 0.2, 0.3], 3)[:, None, None]
    std = np.tile([0.5, 0.25, 0.125], 3)[:, None, None]
    expected = (plain(SLICES, 0) - mean) / std
    np.testing.assert_allclose(normal(SLICES, 0), expected, atol=1e-5)
    by_hand = plain.with_normalization([0.1, 0.2, 0.3], [0.5, 0.25, 0.125])
    assert np.array_equal(by_hand(SLICES, 0), normal(SLICES, 0))
    assert np.array_equal(
        SampleTransform.from_dict(by_hand.to_dict())(SLICES, 0), by_hand(SLICES, 0)
    )
    np.testing.assert_allclose(
        plain.with_normalization(0.5, 0.5)(SLICES, 0), plain(SLICES, 0) * 2 - 1, atol=1e-6
    )


def test_normalization_by_color_is_averaged_for_other_than_three_windows() -> None:
    sizes = {key: [one, one + 1] for key, one in (("width", 80), ("center", 40))}
    ranges = {f"window_{k}_{end}s": sizes[k] for k in sizes for end in ("min", "max")}
    transform = transform_of({**WINDOW, **ranges})
    assert transform.num_windows == 2
    by_color = transform.with_normalization([0.1, 0.2, 0.6], [0.5, 0.25, 0.75])
    assert np.array_equal(by_color(SLICES, 0), transform.with_normalization(0.3, 0.5)(SLICES, 0))


def test_normalization_of_the_file_wins() -> None:
    transform = transform_of(WINDOW, NORMALIZE)
    assert transform.with_normalization(0.5, 0.5) is transform


def test_normalization_for_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="4 means for 9 channels"):
        transform_of(WINDOW).with_normalization([0.5] * 4, [0.5] * 4)(SLICES, 0)
    with pytest.raises(InputError, match="equally many"):
        transform_of(WINDOW).with_normalization([0.5] * 3, [0.5])


CROP = {"__class_fullname__": "CenterCrop", "height": 30, "width": 30}
RESIZED_CROP = {"__class_fullname__": "RandomResizedCrop", "size": [40, 40], "scale": [0.7, 1.0]}


@pytest.mark.parametrize(
    ("nodes", "size", "names"),
    [
        ([WINDOW], None, ["Resize", "DicomWindowShift"]),
        ([resize(32), FLIP], (32, 32), ["Resize", "HorizontalFlip", "DicomWindowShift"]),
        ([RESIZED_CROP, ROTATE], (40, 40), ["RandomResizedCrop", "Rotate", "DicomWindowShift"]),
        ([resize(32), CROP], (30, 30), ["Resize", "CenterCrop", "Resize", "DicomWindowShift"]),
        ([CROP, resize(32)], (32, 32), ["CenterCrop", "Resize", "DicomWindowShift"]),
        ([{**resize(32), "p": 0.5}], None, ["Resize", "Resize", "DicomWindowShift"]),
        (
            [resize(32), {"__class_fullname__": "RandomScale", "scale_limit": [0.1, 0.2], "p": 1}],
            None,
            ["Resize", "RandomScale", "Resize", "DicomWindowShift"],
        ),
        ([one_of(resize(32), RESIZED_CROP)], None, ["OneOf", "Resize", "DicomWindowShift"]),
    ],
)
def test_size(nodes: list[dict[str, Any]], size: tuple[int, int] | None, names: list[str]) -> None:
    transform = transform_of(*nodes)
    assert transform.output_size == size
    if size is not None:
        assert transform(SLICES, 0).shape[1:] == size
    changed = transform.with_size(24)
    assert changed.output_size == (24, 24)
    assert [changed(SLICES, seed).shape for seed in range(4)] == [(9, 24, 24)] * 4
    assert [node["__class_fullname__"].split(".")[-1] for node in changed.pipeline.nodes] == names
    assert transform.output_size == size


def test_transposing_needs_a_square() -> None:
    transpose = {"__class_fullname__": "Transpose", "p": 0.5}
    wide = {"__class_fullname__": "Resize", "height": 20, "width": 30}
    assert transform_of(wide, transpose).output_size is None
    assert transform_of(resize(20), transpose).output_size == (20, 20)
    assert transform_of(wide, transpose).with_size(16)(SLICES, 1).shape == (9, 16, 16)


@pytest.mark.parametrize(
    ("nodes", "random"),
    [
        ([resize(32), CROP, WINDOW], []),
        ([{**FLIP, "p": 1.0}], []),
        ([{**WINDOW, "window_width_mins": [80, 200, 380]}], []),
        ([{**ROTATE, "p": 0.0}], []),
        ([FLIP], ["HorizontalFlip"]),
        ([ROTATE, NOISE], ["Rotate", "GaussNoise"]),
        ([one_of(CROP, resize(30))], ["OneOf"]),
        ([{**WINDOW, "window_width_mins": [70, 200, 380]}], ["DicomWindowShift"]),
    ],
)
def test_chance_is_recognised(nodes: list[dict[str, Any]], random: list[str]) -> None:
    transform = transform_of(*nodes)
    assert transform.random_transforms == random
    assert transform.is_deterministic == (not random)
    if random:
        with pytest.raises(InputError, match="validation and prediction must not depend"):
            transform.require_deterministic()
    else:
        transform.require_deterministic()
        assert all(np.array_equal(transform(SLICES, 0), transform(SLICES, s)) for s in range(1, 9))


def test_geometry_behind_the_windows_is_moved_before_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        moved = transform_of(WINDOW, {**ROTATE, "fill": 0})
    assert "a.json: geometric transforms are moved before the windows" in caplog.text
    assert np.array_equal(moved(SLICES, 3), transform_of(ROTATE, WINDOW)(SLICES, 3))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{**ROTATE, "fill": 0}, WINDOW], "Rotate fills with 0, which is not air"),
        ([{**ROTATE, "fill": 0}], "Rotate fills with 0, which is not air"),
        ([WINDOW, {**ROTATE, "fill": 1.0}], "Rotate fills with 1.0"),
        ([WINDOW, {**HOLES, "fill": -1024}], "CoarseDropout fills with -1024"),
        ([one_of({**HOLES, "fill": 255}, NOISE)], "CoarseDropout fills with 255"),
        ([NOISE, WINDOW], "GaussNoise stands before DicomWindowShift"),
        ([WINDOW, WINDOW], "2 DicomWindowShift"),
        ([one_of(ROTATE, NOISE)], "OneOf must hold only geometric or only intensity"),
        ([one_of(WINDOW)], "OneOf must hold only"),
        ([one_of()], "OneOf must hold only"),
        ([NORMALIZE, NOISE], "Normalize must be the last"),
        ([WINDOW, {**NORMALIZE, "max_pixel_value": 255.0}], "max_pixel_value of Normalize is 255"),
        ([WINDOW, {**NORMALIZE, "p": 0.5}], "p of Normalize is 0.5"),
        ([{**WINDOW, "p": 0.5}], "DicomWindowShift refuses its arguments"),
        ([{"p": 1.0}], "is not a transform"),
        (["Rotate"], "is not a transform"),
        ([{"__class_fullname__": "Lambda", "p": 1.0}], "Lambda is unknown"),
    ],
)
def test_pipelines_that_mean_something_else_are_refused(nodes: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        transform_of(*nodes)


def test_inner_compose_is_always_applied() -> None:
    inner = {"__class_fullname__": "Compose", "transforms": [{**FLIP, "p": 1.0}]}
    flipped = transform_of(inner)
    assert flipped.is_deterministic
    assert np.array_equal(flipped(SLICES, 1), transform_of(WINDOW)(SLICES[:, ::-1], 1))


def test_messages_take_one_line() -> None:
    with pytest.raises(InputError) as error:
        transform_of({**NOISE, "std_range": [3, 7], "mean_range": "x"})
    assert len(str(error.value).splitlines()) == 1 and "https" not in str(error.value)


def test_unusable_compose_is_refused() -> None:
    with pytest.raises(InputError, match="p of the outermost Compose must be 1"):
        transform_of(ROTATE, p=0.5)
    with pytest.raises(InputError, match="bbox_params of Compose has no use"):
        transform_of(ROTATE, bbox_params={"format": "coco"})
    for document in ({}, {"__version__": "2.0.8"}, {"__version__": "2.0.8", "transform": ROTATE}):
        with pytest.raises(InputError, match=r"outermost|not a pipeline"):
            SampleTransform.from_dict(document)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such transform file"):
        load_transform(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        load_transform(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="not a pipeline"):
        load_transform(tmp_path / "list.json")


def test_reflecting_transforms_need_no_fill() -> None:
    reflecting = {**ROTATE, "border_mode": 4, "fill": 0}
    assert transform_of(reflecting)(np.full((40, 40), 70, np.int16), 1).min() > 0.4
