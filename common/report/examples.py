"""Example slices: which ones are worth a look, and their pictures."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.report.page import image_uri
from common.scoring.metrics import Floats

# (name, center, width) in HU; the usual reading windows of head CT.
READING_WINDOWS = (("brain", 40, 80), ("subdural", 80, 200), ("bone", 600, 2800))
_HEIGHT = 224


@dataclass(frozen=True)
class Example:
    """A row of the predictions and why it is shown."""

    row: int
    reason: str


def choose_examples(
    labels: Floats, probabilities: Floats, label_names: Sequence[str], num_random: int, seed: int
) -> list[Example]:
    """Returns rows to show: per label a find, a miss and a false alarm, then some at random.

    The find is the surest positive, the miss the least sure one, the false alarm the surest
    negative. No row comes twice; labels without a positive have neither find nor miss.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k).
        label_names: the k columns' names.
        num_random: rows drawn from what is left.
        seed: of that draw.
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
    height: int = _HEIGHT,
    windows: Sequence[tuple[str, float, float]] = READING_WINDOWS,
) -> NDArray[np.uint8]:
    """Returns int16 HU (rows, columns) in `windows` side by side, grey, `height` high."""
    scale = height / image_hu.shape[0]
    size = (max(1, round(image_hu.shape[1] * scale)), height)
    small = cv2.resize(image_hu.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    panels = [np.clip((small - (center - width / 2)) / width, 0, 1) for _, center, width in windows]
    return np.round(np.concatenate(panels, axis=1) * 255).astype(np.uint8)


def example_card(
    example: Example,
    image_id: str,
    image_hu: NDArray[np.int16] | None,
    labels: Floats,
    probabilities: Floats,
    label_names: Sequence[str],
) -> str:
    """Returns the HTML of one slice: windows, image id, true labels (red) and probabilities.

    Args:
        example: which row, and why.
        image_id: all that is told of its origin.
        image_hu: its pixels; None where they can't be read.
        labels, probabilities: (k,) of the row.
        label_names: their names.
    """
    tags = []
    for name, truth, probability in zip(label_names, labels, probabilities, strict=True):
        state = "unknown" if np.isnan(truth) else "true" if truth else "false"
        tags.append(f'<span class="{state}">{html.escape(name)} {probability:.2f}</span>')
    picture = '<p class="quiet">its pixels can not be read</p>'
    if image_hu is not None:
        jpeg = cv2.imencode(".jpg", window_strip(image_hu), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
        picture = f'<img src="{image_uri(jpeg.tobytes(), "jpeg")}" alt="{html.escape(image_id)}">'
    return (
        f'<div class="card">{picture}<div><strong>{html.escape(example.reason)}</strong> '
        f"<code>{html.escape(image_id)}</code>"
        f'<div class="labels">{"".join(tags)}</div></div></div>'
    )


def example_cards(
    examples: Sequence[Example],
    image_ids: Sequence[str],
    read_image_hu: Callable[[int], NDArray[np.int16] | None],
    labels: Floats,
    probabilities: Floats,
    label_names: Sequence[str],
) -> str:
    """Returns the cards of `examples`; arrays are of all rows, `read_image_hu` takes a row."""
    cards = [
        example_card(
            example,
            image_ids[example.row],
            read_image_hu(example.row),
            labels[example.row],
            probabilities[example.row],
            label_names,
        )
        for example in examples
    ]
    return f'<div class="cards">{"".join(cards)}</div>'
