"""Example slices: which ones are worth a look, and their pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.scoring.metrics import Floats
from common.windows import READING_WINDOWS, Window, windowed

EXAMPLE_WINDOWS = {name: READING_WINDOWS[name] for name in ("brain", "subdural", "bone")}
_HEIGHT = 224


@dataclass(frozen=True)
class Example:
    """A row of the predictions and why it is shown."""

    row: int
    reason: str


def choose_examples(
    labels: Floats, probabilities: Floats, label_names: Sequence[str], num_random: int, seed: int
) -> list[Example]:
    """Return rows to show: per label a find, a miss and a false alarm, then some at random.

    The find is the surest positive, the miss the least sure one, the false alarm the surest
    negative. No row comes twice; labels without a positive have neither find nor miss.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k).
    """
    chosen: dict[int, str] = {}
    for column, name in enumerate(label_names):
        y, p = labels[:, column], probabilities[:, column]
        for wanted, order, reason in (
            (y == 1, -p, f"surest find of {name}"),
            (y == 1, p, f"worst miss of {name}"),
            (y == 0, -p, f"worst false alarm of {name}"),
        ):
            candidates = np.setdiff1d(np.flatnonzero(wanted), list(chosen))
            if len(candidates):
                chosen[int(candidates[np.argmin(order[candidates])])] = reason
    left = np.setdiff1d(np.arange(len(labels)), list(chosen))
    rng = np.random.default_rng(seed)
    for row in rng.choice(left, min(num_random, len(left)), replace=False):
        chosen[int(row)] = "drawn at random"
    return [Example(row, reason) for row, reason in chosen.items()]


def window_strip(
    image_hu: NDArray[np.int16],
    windows: Mapping[str, Window] = READING_WINDOWS,
    height: int = _HEIGHT,
) -> NDArray[np.uint8]:
    """Return int16 HU (rows, columns) in `windows` side by side, grey, `height` high."""
    scale = height / image_hu.shape[0]
    size = (max(1, round(image_hu.shape[1] * scale)), height)
    small = cv2.resize(image_hu.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.concatenate([windowed(small, *window) for window in windows.values()], axis=1)


def windows_text(windows: Mapping[str, Window]) -> str:
    """Return the names of windows with center and width."""
    return ", ".join(f"{name} {w.center:g}/{w.width:g}" for name, w in windows.items())
