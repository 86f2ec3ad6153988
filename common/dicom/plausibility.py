"""Whether the values of a volume are Hounsfield units: air, soft tissue and bone where they belong.

Headers can be wrong without a trace: grey levels of a viewer declared as CT, an intercept that was
lost or applied twice. A head CT shows them by itself: air at -1000 HU around the head and in its
cavities, brain between 0 and 80, bone above 300.
"""

import numpy as np

BIN_HU = 20
LOWEST_HU, HIGHEST_HU = -4100, 4100
NUM_BINS = (HIGHEST_HU - LOWEST_HU) // BIN_HU
FEWEST_SLICES = 5
"""Volumes of fewer are not expected to show soft tissue and bone."""
LEAST_MATRIX = 96
"""No image of a head has fewer rows or columns."""
STRIDE = 4
"""Every so many rows and columns are counted: 16,384 of the pixels of 512 x 512."""

# Some exports end at -900, the lowest value of a bone window.
AIR_RANGE_HU = (-1120, -860)
FLOOR_HU = -1200
SOFT_TISSUE_HU = (-160, 160)
BRAIN_HU = (0, 80)
BONE_HU = 300

LEAST_CONTENT = 0.01
"""A volume with less than this above the air shows nothing that could be judged."""
LEAST_AIR = 0.002
LEAST_SOFT = 0.2
"""Of all above the air; heads have 0.35 and more, without the brain's share in it 0.15."""
LEAST_BRAIN = 0.25
"""Of the soft tissue; heads have 0.7 and more, and half of that with the noise of a bone kernel."""
LEAST_BONE = 0.001
MOST_BONE = 0.4
BELOW_FAT_HU = -200
MOST_BETWEEN = 0.1
MOST_BELOW_FLOOR = 0.02
BELOW_ALL_HU, HIGHEST_WRAPPED_HU = -1600, 1100
LEAST_WRAPPED = 0.0005
"""With this much below -1600 HU and nothing above 1100, the densest bone has wrapped."""
AIR_IN_ALL = 0.1
"""Slices of a volume share a field of view: with this mean share of air, each has some."""
PADDING_BIN = 0.9
"""Where one bin holds this share of what lies below the air, that is padding, not noise."""


def count_values(
    image: np.ndarray, offset: float = 0, where: np.ndarray | None = None
) -> np.ndarray:
    """Return how many of an image's pixels lie in each bin of 20 HU, int64 (NUM_BINS,).

    Args:
        image: (rows, columns), not clipped.
        offset: what to add to it for HU.
        where: bool (rows, columns), the pixels that count; None: all.
    """
    sample = image[::STRIDE, ::STRIDE].ravel().astype(np.int32)
    if where is not None:
        sample = sample[where[::STRIDE, ::STRIDE].ravel()]
    bins = (sample + np.int32(offset - LOWEST_HU)) // BIN_HU
    return np.bincount(bins.clip(0, NUM_BINS - 1), minlength=NUM_BINS)


def why_implausible(counts: np.ndarray, num_slices: int = FEWEST_SLICES) -> str:
    """Return what speaks against the values of a volume being HU, empty where nothing does.

    Args:
        counts: the sum of `count_values` over its slices.
        num_slices: how many these are; a few can lie above the brain, or below it.
    """
    counts = counts.copy()
    below = counts[: _bin(FLOOR_HU)]
    if below.max(initial=0) >= PADDING_BIN * below.sum():
        below[:] = 0  # a view: padding is left out of all that follows
    total = counts.sum()
    if not total:
        return ""
    share_below = below.sum() / total
    air = _share(counts, *AIR_RANGE_HU)
    content = 1 - share_below - _share(counts, FLOOR_HU, AIR_RANGE_HU[1])
    if share_below > MOST_BELOW_FLOOR:
        return (
            f"{share_below:.0%} of the pixels lie below {FLOOR_HU} HU, with a peak at "
            f"{_peak(counts, LOWEST_HU, FLOOR_HU)}: nothing is less dense than air, at -1000"
        )
    if counts[: _bin(BELOW_ALL_HU)].sum() >= LEAST_WRAPPED * total:
        highest = _percentile(counts, 1)
        if highest <= HIGHEST_WRAPPED_HU:
            return (
                f"the values end at {highest} HU, and go on below {BELOW_ALL_HU}: bone has wrapped"
            )
    if content < LEAST_CONTENT:
        return ""
    soft, bone = _share(counts, *SOFT_TISSUE_HU) / content, _share(counts, BONE_HU, HIGHEST_HU)
    if air < LEAST_AIR:
        # A field of view within the head has no air, but all else is where it belongs.
        between = _share(counts, AIR_RANGE_HU[1], BELOW_FAT_HU)
        is_within = bone / content >= LEAST_BONE and soft >= LEAST_SOFT and between < MOST_BETWEEN
        if not is_within or bone > MOST_BONE:
            return (
                f"no air near -1000 HU: the lowest hundredth of the pixels ends at "
                f"{_percentile(counts, 0.01)}, the most frequent value is "
                f"{_peak(counts, LOWEST_HU, HIGHEST_HU)}, and {bone:.0%} lie above {BONE_HU}"
            )
    if num_slices < FEWEST_SLICES:
        return ""
    if soft < LEAST_SOFT:
        return (
            f"{soft:.0%} of what is denser than air is soft tissue, from {SOFT_TISSUE_HU[0]} to "
            f"{SOFT_TISSUE_HU[1]} HU: the most frequent value is "
            f"{_peak(counts, LOWEST_HU, HIGHEST_HU)}"
        )
    brain = _share(counts, *BRAIN_HU) / content
    if bone > MOST_BONE:
        return f"{bone:.0%} of the pixels lie above {BONE_HU} HU: too many for bone"
    if bone / content < LEAST_BONE and brain > LEAST_SOFT:
        return f"no bone above {BONE_HU} HU: the values end at {_percentile(counts, 1)}"
    if brain < LEAST_BRAIN * soft:
        return (
            f"{brain / soft:.0%} of the soft tissue lies from {BRAIN_HU[0]} to {BRAIN_HU[1]} HU, "
            f"where brain is: the most frequent value is {_peak(counts, *SOFT_TISSUE_HU)}"
        )
    return ""


def why_slices_implausible(counts: np.ndarray) -> dict[int, str]:
    """Return what speaks against single slices of a volume, by their number: air lies elsewhere.

    Args:
        counts: (slices, NUM_BINS), of `count_values`; all 0 for slices that can't be read.
    """
    is_counted = counts.any(axis=1)
    if is_counted.sum() < FEWEST_SLICES:
        return {}
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    air = shares[:, _bin(AIR_RANGE_HU[0]) : _bin(AIR_RANGE_HU[1])].sum(axis=1)
    below = shares[:, : _bin(FLOOR_HU)].sum(axis=1)
    soft = shares[:, _bin(SOFT_TISSUE_HU[0]) : _bin(SOFT_TISSUE_HU[1])].sum(axis=1)
    if air[is_counted].mean() < AIR_IN_ALL:
        return {}
    usual_below = np.quantile(below[is_counted], 0.1)
    is_low = (below > usual_below + AIR_IN_ALL) & (soft < LEAST_BRAIN * soft[is_counted].mean())
    reason = "air near -1000 HU in the volume, but not in this slice: its most frequent value is "
    return {
        int(number): reason + str(_peak(counts[number], LOWEST_HU, HIGHEST_HU))
        for number in np.flatnonzero(is_counted & ((air < LEAST_AIR) | is_low))
    }


def _bin(value_hu: float) -> int:
    return int((value_hu - LOWEST_HU) // BIN_HU)


def _share(counts: np.ndarray, low: float, high: float) -> float:
    return float(counts[_bin(low) : _bin(high)].sum() / counts.sum())


def _peak(counts: np.ndarray, low: float, high: float) -> int:
    """Return the middle of the fullest bin between two values."""
    first = _bin(low)
    return LOWEST_HU + BIN_HU * (first + int(counts[first : _bin(high)].argmax())) + BIN_HU // 2


def _percentile(counts: np.ndarray, share: float) -> int:
    """Return the upper end of the bin below which a share of the pixels lies."""
    reached = np.searchsorted(np.cumsum(counts), share * counts.sum())
    return LOWEST_HU + BIN_HU * (min(int(reached), NUM_BINS - 1) + 1)
