"""Where along z a finding lies: blood in one piece, what looks like it in several.

Blood spreads from where it leaked: the slices that show it follow each other. Calcium, ridges of
bone and bands of beam hardening come back at several heights of the same structure. A finding is
drawn as a number of slices first, and is then laid out as one piece (blood) or as several (mimic):
the slices themselves, and how many they are, tell nothing.
"""

from dataclasses import dataclass

import numpy as np

from rsna_task import SUBTYPES

Rng = np.random.Generator

NUM_SLICES = 28
FINDINGS_PER_STUDY = 3
BLOOD_SHARE = 0.5


@dataclass(frozen=True)
class Layout:
    """How one kind of finding may lie along z.

    Attributes:
        first, last: the slices between which it lies, both included.
        counts: smallest and largest number of slices that show it.
        pieces: smallest and largest number of slices in a piece of a mimic. Pieces of one slice
            are recognised by the two slices beside them; the middle of a longer piece looks
            with its neighbours as blood does.
        gap: slices without it between two pieces, at least.
    """

    first: int
    last: int
    counts: tuple[int, int]
    pieces: tuple[int, int]
    gap: int


LAYOUTS = {
    "epidural": Layout(2, 21, (6, 9), (3, 4), 2),
    "intraparenchymal": Layout(4, 20, (4, 6), (1, 1), 1),
    "intraventricular": Layout(4, 15, (3, 5), (1, 1), 1),
    "subarachnoid": Layout(6, 26, (6, 10), (3, 4), 2),
    "subdural": Layout(6, 26, (6, 10), (3, 4), 2),
}


@dataclass(frozen=True)
class Finding:
    """One finding of a study.

    Attributes:
        kind: the subtype that it is, or looks like.
        slices: int (n,), rising: the slices that show it.
    """

    kind: str
    is_blood: bool
    slices: np.ndarray


def draw_findings(rng: Rng) -> list[Finding]:
    """Return the findings of one study, of different kinds in the order of `SUBTYPES`."""
    kinds = rng.choice(len(SUBTYPES), FINDINGS_PER_STUDY, replace=False)
    return [draw_finding(SUBTYPES[kind], rng) for kind in sorted(kinds)]


def draw_finding(kind: str, rng: Rng) -> Finding:
    """Return a finding of one kind: blood or, as often, its mimic, with as many slices."""
    layout = LAYOUTS[kind]
    count = int(rng.integers(layout.counts[0], layout.counts[1] + 1))
    is_blood = bool(rng.random() < BLOOD_SHARE)
    lengths = [count] if is_blood else _split(count, *layout.pieces, rng)
    room = layout.last - layout.first + 1 - count - layout.gap * (len(lengths) - 1)
    assert room >= 0, f"{kind}: {lengths} do not fit"
    if is_blood:
        before = [_start_of_blood(room, count, rng)]
    else:
        # Any way to spread the free slices over the gaps is as likely as any other.
        marks = np.sort(rng.choice(room + len(lengths), len(lengths), replace=False))
        before = list(np.diff(marks, prepend=-1) - 1)
    slices: list[int] = []
    place = layout.first
    for number, (free, length) in enumerate(zip(before, lengths)):
        place += int(free) + (layout.gap if number else 0)
        slices += range(place, place + length)
        place += length
    return Finding(kind, is_blood, np.array(slices))


def _start_of_blood(room: int, count: int, rng: Rng) -> int:
    """Return how far above its lowest place a piece starts, at either end more often.

    A piece that started anywhere alike would shun the ends, and height would tell it from a mimic.
    """
    reach = count // 2
    return int(np.clip(rng.integers(-reach, room + reach + 1), 0, room))


def _split(count: int, shortest: int, longest: int, rng: Rng) -> list[int]:
    """Return lengths of at least two pieces that sum up to `count`, in random order."""
    numbers = [n for n in range(2, count + 1) if n * shortest <= count <= n * longest]
    lengths = np.full(int(rng.choice(numbers)), shortest)
    while lengths.sum() < count:
        open_pieces = np.flatnonzero(lengths < longest)
        lengths[rng.choice(open_pieces)] += 1
    return [int(length) for length in rng.permutation(lengths)]
