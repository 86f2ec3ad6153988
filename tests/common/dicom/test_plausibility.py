"""Volumes whose values are not Hounsfield units are recognised; heads never are."""

import numpy as np
import pytest

from common.dicom.plausibility import count_values, why_implausible, why_slices_implausible


@pytest.fixture
def head() -> np.ndarray:
    """A round head with a skull, in air, with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-128:128, -128:128]
    radius = np.hypot(x, y)
    image = np.full((256, 256), -1000.0)
    image[radius < 95] = 60.0  # scalp
    image[radius < 90] = 1100.0
    image[radius < 80] = 32.0
    return image + rng.normal(0, 8, image.shape)


def judged(image: np.ndarray) -> str:
    return why_implausible(count_values(np.rint(image)))


def test_a_head_is_plausible(head: np.ndarray) -> None:
    assert judged(head) == ""
    assert judged(np.full((64, 64), -1000)) == ""  # air alone shows nothing


def test_padding_is_not_noise(head: np.ndarray) -> None:
    y, x = np.mgrid[-128:128, -128:128]
    assert judged(np.where(np.hypot(x, y) > 120, -3024, head)) == ""


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda hu: (np.clip(hu, -20, 100) + 20) / 120 * 255, "no air near -1000"),
        (lambda hu: hu + 1024, "no air near -1000"),
        (lambda hu: hu - 1024, "nothing is less dense than air"),
        (lambda hu: np.where(hu < -800, -1000, hu) - 1024, "no bone above 300 HU"),
        (lambda hu: np.where(hu > 200, hu + 300, np.minimum(hu, -900)), "soft tissue"),
        (lambda hu: hu * 2, "nothing is less dense than air"),
        (lambda hu: hu / 2, "no air near -1000"),
        (lambda hu: -hu, "too many for bone"),
        (lambda hu: np.minimum(hu, 100), "no bone above 300 HU"),
    ],
)
def test_what_is_no_hu_is_measured(head: np.ndarray, change, words: str) -> None:
    assert words in judged(change(head))


def test_a_field_of_view_within_the_head_has_no_air(head: np.ndarray) -> None:
    assert judged(head[66:190, 66:190]) == ""
    assert "no air" in judged(head[66:190, 66:190] + 1024)


def test_the_offset_counts(head: np.ndarray) -> None:
    stored = np.rint(head + 1024)
    assert why_implausible(count_values(stored, -1024)) == ""
    assert np.array_equal(count_values(stored, -1024), count_values(np.rint(head)))


def test_dense_bone_that_wrapped_is_recognised(head: np.ndarray) -> None:
    """Unsigned 12-bit values that are declared as signed: 1,024 HU becomes -3,072."""
    radius = np.hypot(*np.mgrid[-128:128, -128:128])
    dense = np.where(head > 900, head - 300 + 28 * (90 - radius), head)  # 800 to 1,080 HU
    assert judged(dense) == ""
    assert "bone has wrapped" in judged(np.where(dense > 1023, dense - 4096, dense))


def test_soft_tissue_away_from_brain_is_recognised(head: np.ndarray) -> None:
    assert "where brain is" in judged((head + 1024) * 0.9 - 1024)


@pytest.mark.parametrize("shift", [1024, -1024])
@pytest.mark.parametrize("bad", [[0], [4, 5], [0, 2, 4, 6, 8]])
def test_single_slices_of_other_values_are_found(
    head: np.ndarray, shift: int, bad: list[int]
) -> None:
    radius = np.hypot(*np.mgrid[-128:128, -128:128])
    head = np.where(head > 900, head - 300, head)
    slices = [np.where(radius < 10 * k, head, -1000) for k in range(1, 11)]  # the vertex first
    counts = np.stack([count_values(image) for image in slices])
    assert why_slices_implausible(counts) == {}
    for number in bad:
        counts[number] = count_values(slices[number], shift)
    found = why_slices_implausible(counts)
    assert sorted(found) == bad
    if shift > 0:  # below, air is clipped to the lowest bin
        peaks = [int(reason.rpartition(" ")[2]) for reason in found.values()]
        assert peaks == pytest.approx([shift - 1000] * len(bad), abs=8)


def test_slices_within_the_head_need_no_air(head: np.ndarray) -> None:
    y, x = np.mgrid[-128:128, -128:128]
    sinus = np.where(np.hypot(x, y) < 20, -990, head)
    slices = [image[66:190, 66:190] for image in (sinus, *[head] * 9)]
    assert why_slices_implausible(np.stack([count_values(image) for image in slices])) == {}
