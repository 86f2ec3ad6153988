"""Stored values to HU: the formula, padding, RSNA's wrapped files, and impossible values."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import ct_dataset, write_ct, write_dataset, write_rsna
from hypothesis import given, settings
from hypothesis import strategies as st

from common.dicom import RejectedFile, read_hu
from common.dicom.header import SliceHeader
from common.dicom.hounsfield import to_hounsfield


def header(**fields: object) -> SliceHeader:
    values: dict = dict.fromkeys(SliceHeader.__dataclass_fields__)
    values |= {"bits_allocated": 16, "bits_stored": 16, "pixel_representation": 1}
    return SliceHeader(**(values | {"rescale_slope": 1.0, "rescale_intercept": 0.0} | fields))


def exact_hu(value: int, slope: float, intercept: float) -> int:
    """The formula in exact arithmetic; Python's round is half to even."""
    hu = round(Fraction(value) * Fraction(slope) + Fraction(intercept))
    return -1024 if hu > 31767 else max(hu, -1024)  # what is too large is undeclared padding


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32]),
    st.lists(st.integers(0, 4095), min_size=1, max_size=9),
    st.sampled_from([1.0, 0.5, 2.0, 0.25]),
    st.integers(-4 * 9000, 4 * 3000).map(lambda quarter: quarter / 4),
)
def test_hu_equal_exact_arithmetic(
    dtype: type, values: list[int], slope: float, intercept: float
) -> None:
    stored = np.array([values], np.int64).astype(dtype)
    bits = 8 * stored.itemsize
    fields = {"bits_allocated": bits, "bits_stored": bits}
    fields["pixel_representation"] = int(np.issubdtype(dtype, np.signedinteger))
    found = to_hounsfield(
        stored, header(rescale_slope=slope, rescale_intercept=intercept, **fields)
    )
    assert found.image_hu.dtype == np.int16
    assert not found.num_repaired
    assert found.image_hu[0].tolist() == [exact_hu(int(v), slope, intercept) for v in stored[0]]


LIMITS_HU = (-4096, -1200, -1024, -1000, -100, 0, 2896, 3071, 3095, 4096, 10000, 31767, 31775)


def from_corners(mask: list[list[bool]]) -> set[tuple[int, int]]:
    """Pixels of a mask that a walk along its rows and columns reaches from one of its corners."""
    last = len(mask) - 1, len(mask[0]) - 1
    left = [(row, column) for row in (0, last[0]) for column in (0, last[1])]
    reached: set[tuple[int, int]] = set()
    while left:
        row, column = left.pop()
        inside = 0 <= row <= last[0] and 0 <= column <= last[1]
        if inside and mask[row][column] and (row, column) not in reached:
            reached.add((row, column))
            left += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return reached


def by_pixel(stored: np.ndarray, head: SliceHeader) -> tuple[list[int], int, int]:
    """The rules of `to_hounsfield` in words, one pixel after the other: HU, padding, repaired."""
    values = [int(value) for value in stored.ravel()]
    places = [(row, column) for row in range(len(stored)) for column in range(len(stored[0]))]
    corners = [(row, column) for row in (0, len(stored) - 1) for column in (0, len(stored[0]) - 1)]

    def around(is_chosen: list[bool]) -> list[bool]:
        reached = from_corners(np.reshape(is_chosen, stored.shape).tolist())
        return [place in reached for place in places]

    slope, intercept = Fraction(head.rescale_slope), Fraction(head.rescale_intercept)
    hu_of = {value: round(value * slope + intercept) for value in set(values)}
    hu = [hu_of[value] for value in values]
    has_air_below = 100 * sum(2896 <= value < 3095 for value in values) >= len(values)
    first = 2896 if has_air_below else 3096
    wrapped = [value for value in values if value >= first]
    unsigned_12 = head.bits_stored == 12 and head.pixel_representation == 0
    if not (unsigned_12 and slope == 1 and intercept > -100 and 100 * len(wrapped) >= len(values)):
        wrapped = []
    if wrapped:
        hu = [value - 4096 if value >= first else value for value in values]
    declared = [False] * len(values)
    if head.padding_value is not None:
        ends = [head.padding_value]
        ends += [] if head.padding_limit is None else [head.padding_limit]
        span, signed = 2**head.bits_allocated, head.pixel_representation == 1
        ends = [end % span for end in ends]
        ends = [end - span if signed and end >= span // 2 else end for end in ends]
        declared = [min(ends) <= value <= max(ends) for value in values]
        no_tissue = max(ends) * slope + intercept <= -1000 or min(ends) * slope + intercept > 3071
        if not no_tissue:
            at_corners = [declared[places.index(corner)] for corner in corners]
            declared = around(declared) if all(at_corners) else [False] * len(values)
    at_corners = {hu[places.index(corner)] for corner in corners}
    undeclared = [False] * len(values)
    if min(stored.shape) >= 96 and len(at_corners) == 1 and -500 < hu[0] <= 31767:
        undeclared = around([value == hu[0] for value in hu])
    too_large = {value for value in hu if value > 31767}
    num_padding, found = 0, []
    for value, is_declared, is_around in zip(hu, declared, undeclared):
        is_metal = value <= 31767 or len(too_large) > 8
        is_padding = is_declared or is_around or value < -1200 or not is_metal
        num_padding += is_padding
        found.append(-1024 if is_padding else min(max(value, -1024), 31767))
    return found, num_padding, len(wrapped)


@st.composite
def frames_near_the_limits(draw: st.DrawFn) -> tuple[np.ndarray, SliceHeader]:
    dtype = np.dtype(draw(st.sampled_from([np.int16, np.uint16])))
    slope = draw(st.sampled_from([1.0, 1.0, 0.5, 2.0]))
    intercept = draw(
        st.sampled_from([-1024.0, -1000.5, -101.0, -100.0, -99.0, 0.0, 1.0, 900.0, 31000.0])
    )
    limits = np.iinfo(dtype)
    near = {
        int((hu - intercept) / slope) + step for hu in LIMITS_HU for step in (-2, -1, 0, 1, 2, 5)
    }
    near |= {3095, 3096, limits.min, limits.max, limits.max - 1}
    near = sorted(value for value in near if limits.min <= value <= limits.max)
    few = draw(st.lists(st.sampled_from(near), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    stored = rng.choice([*few, 40], (10, 13)).astype(dtype)
    if draw(st.booleans()):
        stored[[0, 0, -1, -1], [0, -1, 0, -1]] = few[0]
    if draw(st.booleans()):  # a single pixel that differs: 1 of 130 is less than a hundredth
        stored[:] = 40
        stored.flat[: draw(st.integers(1, 2))] = few[0]
    signed = int(dtype.kind == "i")
    fields = {"bits_stored": draw(st.sampled_from([12, 16])), "pixel_representation": signed}
    if draw(st.booleans()):
        span = 65536 * draw(st.integers(-1, 1))
        fields["padding_value"] = int(few[0]) + draw(st.integers(-1, 1)) + span
        if draw(st.booleans()):
            fields["padding_limit"] = int(few[-1]) + draw(st.integers(-1, 1))
    return stored, header(rescale_slope=slope, rescale_intercept=intercept, **fields)


@settings(max_examples=300)
@given(frames_near_the_limits())
def test_frames_near_the_limits_equal_the_rules_pixel_by_pixel(
    frame: tuple[np.ndarray, SliceHeader],
) -> None:
    stored, head = frame
    image_hu, num_padding, num_repaired = by_pixel(stored, head)
    all_impossible = min(
        round(int(v) * Fraction(head.rescale_slope) + Fraction(head.rescale_intercept))
        for v in np.unique(stored)
    )
    if all_impossible > 31767 and not num_repaired:
        with pytest.raises(RejectedFile, match="all pixels"):
            to_hounsfield(stored, head)
        return
    found = to_hounsfield(stored, head)
    assert found.image_hu.ravel().tolist() == image_hu
    assert (found.num_padding, found.num_repaired) == (num_padding, num_repaired)


@pytest.mark.parametrize("shape", [(96, 96), (95, 96), (96, 95), (100, 97)])
@pytest.mark.parametrize("value", [-501, -500, -499, 0, 31767, 31768])
@pytest.mark.parametrize("corner", [None, (0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_what_lies_around_a_round_field_is_padding(
    shape: tuple[int, int], value: int, corner: tuple[int, int] | None
) -> None:
    rng = np.random.default_rng(0)
    image = rng.choice([value, value, value, 40], shape).astype(np.int32)
    image[[0, 0, -1, -1], [0, -1, 0, -1]] = value
    if corner is not None:
        image[corner] = 41
    head = header(bits_allocated=32, bits_stored=32)
    found = to_hounsfield(image, head)
    image_hu, num_padding, _ = by_pixel(image, head)
    assert found.image_hu.ravel().tolist() == image_hu
    assert found.num_padding == num_padding
    is_around = image_hu != np.clip(image, -1024, 31767).ravel()
    inside = ~np.reshape(is_around, shape)[::4, ::4]
    assert found.counts.sum() == inside.sum()


@pytest.mark.parametrize("intercept", [-1024.0, -1.0, 0.0, 1.0, 1000.0, 31000.0])
def test_undeclared_padding_lies_below_minus_1200_whatever_the_intercept(intercept: float) -> None:
    stored = np.full((8, 20), 40, np.int16)
    stored[2, :3] = np.array([-1201, -1200, -1199]) - int(intercept)
    found = to_hounsfield(stored, header(rescale_intercept=intercept))
    assert found.num_padding == 1
    assert found.image_hu[2, :3].tolist() == [-1024] * 3


@pytest.mark.parametrize("num_kept", [7, 8, 9])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_up_to_eight_values_that_are_too_large_are_padding(dtype: type, num_kept: int) -> None:
    stored = np.full((8, 20), 1064, dtype)
    stored[0, 0 : 2 * num_kept : 2] = 40_000 + np.arange(num_kept)
    found = to_hounsfield(
        stored, header(rescale_intercept=-1024.0, pixel_representation=0, bits_allocated=32)
    )
    is_padding = num_kept <= 8
    assert found.num_padding == num_kept * is_padding
    assert found.image_hu[0, 0] == (-1024 if is_padding else 31767)
    # Of every fourth pixel: 0, 4, 8 and so on of the row.
    assert found.counts[-1] == (0 if is_padding else (num_kept + 1) // 2)


@pytest.mark.parametrize(
    ("hu", "num_values", "num_pixels", "is_refused"),
    [
        (-4097, 257, 410, True),
        (-4097, 257, 409, False),  # a twentieth of 8192 is 409.6
        (-4097, 256, 410, False),
        (-4096, 257, 410, False),  # the first of the values is possible
        (10001, 257, 410, True),
        (10000, 257, 410, False),
        (10001, 256, 410, False),
    ],
)
@pytest.mark.parametrize("intercept", [-1024.0, 0.0])
def test_the_limits_of_what_a_scanner_measures(
    hu: int, num_values: int, num_pixels: int, is_refused: bool, intercept: float
) -> None:
    step = -1 if hu < 0 else 1
    stored = np.full((64, 128), 40, np.int16)
    stored.flat[:num_pixels] = hu + step * (np.arange(num_pixels) % num_values) - int(intercept)
    if not is_refused:
        to_hounsfield(stored, header(rescale_intercept=intercept))
        return
    with pytest.raises(RejectedFile, match="5% of the pixels hold impossible HU"):
        to_hounsfield(stored, header(rescale_intercept=intercept))


@pytest.mark.parametrize("intercept", [-8192.0, -1024.0, -1000.0, 0.0, 1.0, 1000.0, 30999.0])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_the_whole_range_of_values_is_clipped_not_wrapped(dtype: type, intercept: float) -> None:
    limits = np.iinfo(dtype)
    corners = np.array([limits.min, limits.max, limits.min + 1, limits.max - 1], dtype)
    stored = np.zeros((10, 10), dtype)
    stored[0, :4] = corners
    signed = int(dtype == np.int16)
    found = to_hounsfield(stored, header(rescale_intercept=intercept, pixel_representation=signed))
    assert found.image_hu[0, :4].tolist() == [exact_hu(int(v), 1, intercept) for v in corners]


@pytest.mark.parametrize("intercept", [-1024, 0])
def test_undeclared_padding_of_rsna_becomes_air_and_is_counted(
    tmp_path: Path, intercept: int
) -> None:
    pixels = np.full((4, 6), 100, np.int16)
    pixels[0, :3] = -2000
    path = write_rsna(tmp_path / "a.dcm", pixels, "ID_000000001", RescaleIntercept=intercept)
    image = read_hu(path)
    assert image.num_padding == 3
    assert image.image_hu[0, 0].tolist() == [-1024] * 3 + [100 + intercept] * 3


def test_noise_of_air_is_no_padding(tmp_path: Path) -> None:
    pixels = np.array([[-1100, -1024, -1000]], np.int16)
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, RescaleIntercept=0))
    assert image.num_padding == 0
    assert image.image_hu[0, 0].tolist() == [-1024, -1024, -1000]


def test_declared_padding_becomes_air_and_is_counted(tmp_path: Path) -> None:
    pixels = np.array([[4000, 5000, 20]], np.int16)
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, PixelPaddingValue=5000))
    assert image.num_padding == 1
    assert image.image_hu[0, 0].tolist() == [2976, -1024, -1004]


def test_a_padding_range_and_its_sign(tmp_path: Path) -> None:
    pixels = np.array([[63536, 63540, 63550, 1024]], np.uint16)
    tags = {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 63540}
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, **tags))
    assert image.num_padding == 3  # the third is too large for any tissue
    assert image.image_hu[0, 0].tolist() == [-1024, -1024, -1024, 0]
    signed = to_hounsfield(
        np.array([[-2000, 0]], np.int16), header(padding_value=63536)
    )  # written as US into a signed file
    assert signed.image_hu.tolist() == [[-1024, 0]]
    assert signed.num_padding == 1


def test_padding_that_could_be_water_counts_only_outside_a_round_field(tmp_path: Path) -> None:
    pixels = np.zeros((5, 5), np.int16)
    pixels[1:4, 1:4] = 40
    tags = {"PixelPaddingValue": 0, "RescaleIntercept": 0}
    assert read_hu(write_ct(tmp_path / "a.dcm", pixels, **tags)).num_padding == 16
    pixels[0, 0] = -1000
    image = read_hu(write_ct(tmp_path / "b.dcm", pixels, **tags))
    assert image.num_padding == 0
    assert image.image_hu[0, 0].tolist() == [-1000, 0, 0, 0, 0]


def test_many_values_that_are_too_large_are_clipped(tmp_path: Path) -> None:
    pixels = np.zeros((10, 40), np.uint16)
    pixels[0, :20] = np.arange(50_000, 50_020)
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels))
    assert image.num_padding == 0
    assert image.image_hu[0, 0].tolist() == [31767] * 20 + [-1024] * 20


def test_a_lost_intercept_is_no_wrap(tmp_path: Path) -> None:
    """Hardly a pixel lies where air would have wrapped to: nothing is changed."""
    pixels = np.full((20, 20), 1064, np.uint16)
    pixels[0, :3] = 3200
    tags = {"RescaleIntercept": 0, "BitsStored": 12, "HighBit": 11}
    image = read_hu(write_rsna(tmp_path / "a.dcm", pixels, "ID_000000001", **tags))
    assert image.num_repaired == 0
    np.testing.assert_array_equal(image.image_hu[0], pixels)


@pytest.mark.parametrize("intercept", [0, 1])
def test_wrapped_12bit_files_are_unwrapped(tmp_path: Path, intercept: int) -> None:
    hu = np.array([[-1000, -1, 0, 40, 1000, 3095]], np.int16)
    wrapped = (hu.astype(int) % 4096).astype(np.uint16)
    tags = {"RescaleIntercept": intercept}
    image = read_hu(write_rsna(tmp_path / "a.dcm", wrapped, "ID_000000001", **tags))
    assert image.num_repaired
    np.testing.assert_array_equal(image.image_hu[0], hu)


@pytest.mark.parametrize(
    ("dtype", "tags"),
    [
        (np.uint16, {"RescaleIntercept": -1024}),
        (np.uint16, {"RescaleIntercept": -1000}),
        (np.int16, {"BitsStored": 12, "RescaleIntercept": 0}),
        (np.int16, {"RescaleIntercept": 0}),
    ],
)
def test_the_other_rsna_families_are_not_touched(tmp_path: Path, dtype: type, tags: dict) -> None:
    pixels = np.array([[0, 40, 1024, 2047]], dtype)
    if "BitsStored" in tags:
        tags = tags | {"HighBit": 11}
    image = read_hu(write_rsna(tmp_path / "a.dcm", pixels, "ID_000000001", **tags))
    assert not image.num_repaired
    expected = np.maximum(pixels.astype(int) + tags["RescaleIntercept"], -1024)
    np.testing.assert_array_equal(image.image_hu[0], expected)


def test_stored_bits_are_sign_extended_and_unused_bits_ignored(tmp_path: Path) -> None:
    pixels = np.array([[0x0FFF, 0xF001, 0x0830]], np.uint16).view(np.int16)
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, **tags))
    assert image.image_hu[0, 0].tolist() == [-1, 1, -1024]
    assert image.num_padding == 1  # 0x830 is -2000


def test_scattered_impossible_values_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32767, (64, 64)).astype(np.int16)
    with pytest.raises(RejectedFile, match="impossible HU") as caught:
        read_hu(write_ct(tmp_path / "a.dcm", noise))
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize("tags", [{"RescaleSlope": 1e30}, {"RescaleIntercept": 40000}])
def test_images_of_only_impossible_values_are_refused(tmp_path: Path, tags: dict) -> None:
    pixels = np.full((8, 8), 1064, np.int16)
    with pytest.raises(RejectedFile, match="all pixels hold impossible HU") as caught:
        read_hu(write_ct(tmp_path / "a.dcm", pixels, **tags))
    assert caught.value.status == "corrupt"


def test_metal_and_several_paddings_are_possible(tmp_path: Path) -> None:
    pixels = np.full((64, 64), 1064, np.int16)
    pixels[:8], pixels[8:16] = -32768, -8192
    pixels[30:32, 30:32] = 30000
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels))
    assert image.num_padding == 16 * 64
    assert image.image_hu.max() == 30000 - 1024


@pytest.mark.parametrize(
    ("stored", "tags"),
    [
        (63536, {}),  # -2000 in a signed file
        (65535, {}),
        (32792, {}),  # the smallest that is too large
        (63536, {"RescaleIntercept": -1000.5}),
        (63536, {"RescaleIntercept": 0}),
        (20000, {"RescaleSlope": 2}),
        (63536, {"PixelPaddingValue": 63535}),  # another one was declared
        (63536, {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_undeclared_padding_of_an_unsigned_file_is_air(
    tmp_path: Path, stored: int, tags: dict
) -> None:
    """It would be 31,767 HU."""
    inside = np.hypot(*(np.indices((64, 64)) - 31.5)) < 20
    pixels = np.where(inside, 1064, stored).astype(np.uint16)
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, **tags))
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024} | tags
    tissue_hu = round(1064 * rescale["RescaleSlope"] + rescale["RescaleIntercept"])
    np.testing.assert_array_equal(image.image_hu[0], np.where(inside, tissue_hu, -1024))
    assert image.num_padding == np.count_nonzero(~inside)
    assert image.counts[0, -1] == 0  # nor is it taken for metal
    assert image.counts.sum() == np.count_nonzero(inside[::4, ::4])


def test_the_largest_value_that_can_be_metal_stays(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 1064, np.uint16)
    pixels[4, 4] = 32791
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels))
    assert (image.image_hu.max(), image.num_padding) == (31767, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_shown_inverted_and_measures_the_same(tmp_path: Path, dtype: type) -> None:
    pixels = np.arange(64).reshape(8, 8).astype(dtype)
    files = [
        write_ct(tmp_path / f"{kind}.dcm", pixels, PhotometricInterpretation=kind)
        for kind in ("MONOCHROME1", "MONOCHROME2")
    ]
    images = [read_hu(file).image_hu for file in files]
    np.testing.assert_array_equal(images[0], images[1])
    assert images[0].max() == 63 - 1024


def test_eight_bits_with_a_slope_are_hu(tmp_path: Path) -> None:
    pixels = np.array([[0, 100, 255]], np.uint8)
    image = read_hu(write_ct(tmp_path / "a.dcm", pixels, RescaleSlope=12, RescaleIntercept=-1024))
    assert image.image_hu[0, 0].tolist() == [-1024, 176, 2036]


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels_are_refused_with_a_reason(tmp_path: Path, keyword: str) -> None:
    """CT Image Storage has none; parametric maps do."""
    pixels = np.full((8, 8), 40, np.float32 if keyword == "FloatPixelData" else np.float64)
    dataset = ct_dataset(np.zeros((8, 8), np.uint16))
    del dataset.PixelData
    setattr(dataset, keyword, pixels.tobytes())
    write_dataset(tmp_path / "a.dcm", dataset)
    with pytest.raises(RejectedFile) as caught:
        read_hu(tmp_path / "a.dcm")
    assert caught.value.status == "not_hu"
    assert caught.value.reason.startswith(f"{keyword}: floating-point values")


def test_wrapped_values_are_counted_where_they_change(tmp_path: Path) -> None:
    pixels = np.full((20, 20), 40, np.uint16)
    pixels[:5] = 3096
    tags = {"RescaleIntercept": 0, "BitsStored": 12, "HighBit": 11}
    image = read_hu(write_rsna(tmp_path / "a.dcm", pixels, "ID_000000001", **tags))
    assert image.num_repaired == 100
    np.testing.assert_array_equal(image.image_hu[0, :5], -1000)
    np.testing.assert_array_equal(image.image_hu[0, 5:], 40)


def round_field(outside: int, inside: int = 1040) -> np.ndarray:
    """Noise around a value in a round field of view, and one value outside it."""
    image = inside + np.random.default_rng(0).integers(-30, 30, (128, 128))
    y, x = np.mgrid[-64:64, -64:64]
    image[np.hypot(x, y) > 63] = outside
    return image.astype(np.uint16)


@pytest.mark.parametrize("value", [1024, 4095])
def test_one_value_in_all_corners_is_undeclared_padding(value: int) -> None:
    stored = round_field(value)
    found = to_hounsfield(stored, header(pixel_representation=0, rescale_intercept=-1024.0))
    radius = np.hypot(*np.mgrid[-64:64, -64:64])
    expected = np.where(radius > 63, -1024, stored.astype(int) - 1024)
    away = (radius < 55) | (radius > 63)  # at the rim, tissue of the same value goes with it
    np.testing.assert_array_equal(found.image_hu[away], expected[away])
    assert found.num_padding == (found.image_hu == -1024).sum()
    assert found.counts.sum() < 1024  # padding is not judged


def test_tissue_with_the_value_of_declared_padding_stays() -> None:
    stored = round_field(1024)
    fields = {"pixel_representation": 0, "rescale_intercept": -1024.0, "padding_value": 1024}
    image_hu = to_hounsfield(stored, header(**fields)).image_hu
    assert (image_hu[32:96, 32:96] == 0).any() and (image_hu[32:96, 32:96] > -100).all()
    assert image_hu[0, 0] == -1024


def test_wrapped_air_below_minus_1000_is_unwrapped() -> None:
    hu = round_field(0).astype(int) - 1024  # air of -1024 outside
    fields = {"bits_stored": 12, "pixel_representation": 0}
    found = to_hounsfield((hu % 4096).astype(np.uint16), header(**fields))
    np.testing.assert_array_equal(found.image_hu, hu)
    assert found.num_repaired == (hu < 0).sum()
