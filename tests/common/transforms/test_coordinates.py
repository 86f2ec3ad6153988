"""Where pipelines move pixels to: a bright spot is where the matrix says it is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.transforms import SampleTransform
from common.transforms.catalog import with_trait

SPACING = (0.8, 0.5, 5.0)
WINDOW = {"__class_fullname__": "DicomWindowShift"}


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 1.0, **arguments}


def transform_of(*nodes: dict[str, Any]) -> SampleTransform:
    whole = node("Compose", transforms=[*nodes, WINDOW])
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": whole}, "a.json")


# At least one of every transform that may stand in a validation pipeline and moves pixels.
NODES = {
    "CenterCrop": node("CenterCrop", height=90, width=100, pad_if_needed=True, fill=-1024),
    "Crop": node("Crop", x_min=9, y_min=4, x_max=110, y_max=95),
    "FieldOfView": node("FieldOfView", field_mm_range=[70, 70]),
    "FieldOfView, reflecting": node("FieldOfView", field_mm_range=[150, 150], border_mode=4),
    "FitSize, shrinking": node("FitSize", height=80, width=70, shrink_above=90),
    "FitSize": node("FitSize", height=150, width=100, shrink_above=900),
    "HorizontalFlip": node("HorizontalFlip"),
    "LongestMaxSize": node("LongestMaxSize", max_size=77),
    "NeighborSwap": node("NeighborSwap"),
    "Pad": node("Pad", padding=[5, 30, 11, 2], fill=-1024),
    "Pad, reflecting": node("Pad", padding=[20, 30, 11, 2], border_mode=2),
    "PadIfNeeded": node("PadIfNeeded", min_height=160, min_width=140, position="top_left"),
    "Resize": node("Resize", height=64, width=96, area_for_downscale="image"),
    "Resize, nearest": node("Resize", height=64, width=150, interpolation=0),
    "Resize, larger": node("Resize", height=250, width=199),
    "ScalpRemoval": node("ScalpRemoval"),
    "Sequential": node("Sequential", transforms=[node("ScalpRemoval"), node("Transpose")]),
    "SmallestMaxSize": node("SmallestMaxSize", max_size=90),
    "Transpose": node("Transpose"),
    "VerticalFlip": node("VerticalFlip"),
}


def test_every_transform_that_draws_nothing_is_tried() -> None:
    tried = {name.partition(",")[0] for name in NODES}
    assert tried >= with_trait("fixed")


def spot(shape: tuple[int, int], place: tuple[float, float]) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    away = np.hypot(rows - place[0], columns - place[1])
    image = 20 + 60 * np.exp(-((away / 5) ** 2))
    return image.astype(np.float32)


def centre(values: np.ndarray) -> np.ndarray:
    """The middle (x, y) of the pixels that are at least three quarters as bright as any."""
    rows, columns = np.nonzero(values > values.min() + 0.75 * np.ptp(values))
    return np.array([columns.mean(), rows.mean(), 1.0])


def check(transform: SampleTransform, shape: tuple[int, int], place: tuple[float, float]) -> bool:
    """Compare where a spot went with the matrix; return False where it can't be seen whole."""
    matrix = transform.matrix_to_slice(shape, SPACING)
    assert transform.is_deterministic
    made = transform(spot(shape, place), 0, None, SPACING)[0]
    expected = np.linalg.solve(matrix, [place[1], place[0], 1.0])[:2]
    size = np.array(made.shape[::-1])
    reach = 14 / np.abs(matrix[:2, :2]).sum(axis=1).min()
    if (expected < reach).any() or (expected > size - 1 - reach).any():
        return False
    # A reflecting border may show the spot again, elsewhere.
    left, top = (expected - reach).astype(int)
    right, bottom = (expected + reach).astype(int) + 1
    # A crop may cut the spot, and a later step put a border around it.
    plain = transform(np.full(shape, 50, np.float32), 0, None, SPACING)[0]
    if np.ptp(plain[top:bottom, left:right]) > 1e-3:
        return False
    found = centre(made[top:bottom, left:right]) + [left, top, 0]
    step = np.abs(matrix[:2, :2]).sum(axis=1).max()
    assert np.abs((matrix @ found)[:2] - [place[1], place[0]]).max() <= max(0.75, 0.75 * step)
    return True


@pytest.mark.parametrize("name", NODES)
def test_a_spot_lies_where_the_matrix_says(name: str) -> None:
    seen = [
        check(transform_of(NODES[name]), (120, 130), place)
        for place in ((60, 65), (40, 80), (75, 50))
    ]
    assert sum(seen) >= 2


# Without a crop that needs a large image, and without what shows a spot twice or a pixel beside it.
PIPELINE_NODES = [n for n in NODES if n not in ("Crop", "Resize, nearest") and "reflec" not in n]


@settings(deadline=None, max_examples=40)
@example(["CenterCrop", "FieldOfView", "Resize, larger", "CenterCrop"], (45, 83), (118, 118))
@given(
    names=st.lists(st.sampled_from(PIPELINE_NODES), max_size=5),
    place=st.tuples(st.integers(45, 75), st.integers(45, 85)),
    shape=st.tuples(st.integers(118, 140), st.integers(118, 140)),
)
def test_pipelines_of_any_of_them(
    names: list[str], place: tuple[int, int], shape: tuple[int, int]
) -> None:
    # What is in mm can be followed where all behind it combines.
    ordered = sorted(names, key=lambda name: name.startswith("FieldOfView"))
    transform = transform_of(*(NODES[name] for name in ordered))
    check(transform, shape, place)


def test_resizing_is_exact() -> None:
    matrix = transform_of(NODES["Resize"]).matrix_to_slice((128, 96))
    assert np.abs(matrix - [[1, 0, 0], [0, 2, 0.5], [0, 0, 1]]).max() < 1e-4


def test_a_tilt_by_the_scanner_is_refused_by_name() -> None:
    tilting = transform_of(node("GantryTilt", degrees_range=[9, 9]))
    with pytest.raises(InputError, match=r"^a.json: .* where GantryTilt moves its pixels$"):
        tilting.matrix_to_slice((64, 64), SPACING)
    others = [node("Calibration", offset_hu_range=[3, 3], slope_range=[1, 1], cup_hu_range=[0, 0])]
    assert np.allclose(transform_of(*others).matrix_to_slice((64, 64), SPACING), np.eye(3))


def test_a_pipeline_that_shows_nothing_of_a_slice_is_refused() -> None:
    far = transform_of(node("Pad", padding=[0, 0, 300, 0]), node("CenterCrop", height=9, width=9))
    with pytest.raises(InputError, match="shows nothing of a slice of 20 x 30 pixels"):
        far.matrix_to_slice((20, 30))
