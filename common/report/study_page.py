"""The page of one study: key slices, probabilities along z, labels, all slices to scroll through.

Everything is in the page, the slices as Hounsfield units: JavaScript unpacks them and shows them in
any window. `study_html` takes arrays, `stored_study_html` a study of a prepared dataset.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from common.files import without_nan
from common.report.examples import EXAMPLE_WINDOWS, window_strip, windows_text
from common.report.page import picture_uri, render
from common.report.plots import COLORS
from common.scoring.metrics import Floats
from common.slices.store import UnreadableSlice
from common.slices.study_labels import known_labels
from common.slices.table import SliceTable
from common.windows import AIR_HU
from common.words import count

SIDE = 256
"""Most rows and columns of a slice in a page."""
MAX_PIXELS = 256 * SIDE**2
"""Of all slices in a page, about 14 MB: series of more than 256 slices are shrunk further."""
NUM_KEY_SLICES = 4
_HIGHEST_HU = AIR_HU + np.iinfo(np.int16).max
"""So that all differences of two values are int16."""
_NO_REASONS: Mapping[int, str] = {}
_PLOT = {"width": 980, "height": 240, "left": 36, "right": 8, "top": 8, "bottom": 8}


class Ticks(NamedTuple):
    """Boxes to tick in a page, whose csv names the page and its slices by number alone.

    Attributes:
        page: what the csv calls the page.
        study: (k,) labels given to the study as a whole, 0, 1 or NaN.
    """

    page: str
    study: Floats


class StoredSlices(NamedTuple):
    """The slices of a stored volume that a page can show, from foot to head.

    Attributes:
        rows: (n,) of the table.
        images_hu: n slices with square pixels, at most `SIDE` in each direction.
        num_lost: slices that can't be read.
    """

    rows: NDArray[np.int64]
    images_hu: list[NDArray[np.int16]]
    num_lost: int


def study_html(
    images_hu: Iterable[NDArray[Any]],
    spacing_mm: tuple[float, float],
    positions_mm: ArrayLike,
    probabilities: Floats,
    study_probabilities: Floats,
    label_names: Sequence[str],
    *,
    number: int,
    labels: Floats | None = None,
    study_labels: Floats | None = None,
    notes: Sequence[str] = (),
    reasons: Mapping[int, str] = _NO_REASONS,
    ticks: Ticks | None = None,
) -> Markup:
    """Return the page of a study, which names it by a number alone.

    Args:
        images_hu: the n slices from foot to head, HU (rows, columns), read one at a time.
        spacing_mm: between rows and between columns; NaN where unknown.
        positions_mm: (n,) along the slice normal; NaN where unknown.
        probabilities: (n, k) of the slices.
        study_probabilities: (k,).
        label_names: the k labels; the last one is for any of the others.
        number: row of the study in studies.csv, from 1.
        labels: (n, k) 0, 1 or NaN; None where nothing is labelled.
        study_labels: (k,) of the same; None for what `labels` say.
        notes: sentences below the title.
        reasons: why slices are worth a look, by their place; the page opens at the first.
        ticks: None for a page without boxes; else they begin with `labels`.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n = len(probabilities)
    side = min(SIDE, int(np.sqrt(MAX_PIXELS / n)))
    volume_hu = np.stack([_shrunk(image_hu, spacing_mm, side) for image_hu in images_hu])
    assert len(volume_hu) == n, (len(volume_hu), n)
    if study_labels is None and labels is not None:
        study_labels = labels_of_study(labels)
    positions = np.asarray(positions_mm, dtype=np.float64)
    is_placed = bool(np.isfinite(positions).all()) and len(np.unique(positions)) > 1
    has_ends = np.isfinite(positions).sum() > 1
    feet = (
        "the first nearest the feet" if has_ends else "nothing tells which end is nearer the feet"
    )
    places = positions if is_placed else np.arange(1.0, n + 1)
    xs = _scaled(places, places.min(), np.ptp(places) or 1.0)
    key = dict(sorted({**key_slices(probabilities, labels), **reasons}.items()))
    data = {
        "size": volume_hu.shape,
        "x": xs.round(1).tolist(),
        "z": positions.round(2).tolist() if is_placed else None,
        "p": probabilities.round(4).tolist(),
        "labels": None if labels is None else np.asarray(labels, dtype=np.float64).tolist(),
        "start": next(iter(reasons), int(probabilities[:, -1].argmax())),
        "windows": [[name, *window] for name, window in EXAMPLE_WINDOWS.items()],
    }
    if ticks is not None:
        own: Any = {"page": ticks.page, "number": number, "names": list(label_names)}
        data["ticks"] = own | {"study": np.asarray(ticks.study, dtype=np.float64).tolist()}
    return render(
        "study.html",
        title=f"Study {number}",
        subtitle=f"Row {number} of studies.csv: {count(n, 'slice')}, {feet}.",
        along="From foot to head" if has_ends else "From the first slice to the last",
        notes=notes,
        names=list(label_names),
        colors=[COLORS[i % len(COLORS)] for i in range(len(label_names) - 1)] + ["#000000"],
        study_probabilities=[float(p) for p in study_probabilities],
        study_labels=None if study_labels is None else [_word(value) for value in study_labels],
        windows=EXAMPLE_WINDOWS,
        windows_text=windows_text(EXAMPLE_WINDOWS),
        plot=_PLOT,
        curves=[_path(xs, probabilities[:, k]) for k in range(len(label_names))],
        bars=[] if labels is None else _bars(xs, np.asarray(labels)),
        ticks=_ticks(places),
        unit="mm" if is_placed else "slice",
        key=[
            {
                "number": i + 1,
                "reason": reason,
                "picture": picture_uri(window_strip(volume_hu[i], EXAMPLE_WINDOWS, SIDE)),
                "values": zip(
                    label_names,
                    probabilities[i].tolist(),
                    [None] * len(label_names) if labels is None else np.asarray(labels)[i].tolist(),
                ),
            }
            for i, reason in key.items()
        ],
        boxes=ticks is not None,
        data=without_nan(data),
        packed=pack(volume_hu),
    )


def stored_slices(table: SliceTable, image_id: str, predicted: pd.Index) -> StoredSlices | None:
    """Return the predicted slices of the volume of an image; None where none of them has pixels.

    Args:
        predicted: image ids.
    """
    rows = table.group_rows(int(table.rows_of([image_id])[0]))
    rows = rows[table.frame["image_id"].iloc[rows].isin(predicted).to_numpy()]
    images, lost = [], []
    for row in rows:
        try:
            images.append(_shrunk(table.image_hu(int(row)), _spacing(table, row), SIDE))
        except UnreadableSlice:
            lost.append(row)
    rows = rows[~np.isin(rows, lost)]
    return StoredSlices(rows, images, len(lost)) if len(rows) else None


def stored_study_html(
    table: SliceTable,
    study: Mapping[Any, Any],
    predictions: pd.DataFrame,
    label_names: Sequence[str],
    *,
    study_labels: Floats | None = None,
    notes: Sequence[str] = (),
    slices: StoredSlices | None = None,
    **options: Any,
) -> Markup | None:
    """Return the page of a study of a prepared dataset; None where none of its slices has pixels.

    Args:
        study: a row of studies.csv: number, top_image_id and the labels.
        predictions: rows of a prediction table by image_id, one for each image.
        slices: `stored_slices` of top_image_id, where they are read already.
        label_names, study_labels, notes, options: see `study_html`.
    """
    top = study["top_image_id"]
    if pd.isna(top):
        return None
    slices = slices or stored_slices(table, top, predictions.index)
    if slices is None:
        return None
    rows, names = slices.rows, list(label_names)
    labels = None
    if set(names) <= set(table.frame):
        labels = known_labels(table, rows, names)
    lost = slices.num_lost
    left_out = [f"{count(lost, 'slice')} can't be read and are not shown."] if lost else []
    return study_html(
        slices.images_hu,
        (1.0, 1.0),  # they are shrunk to square pixels
        table.frame["position_mm"].to_numpy(dtype=np.float64, na_value=np.nan)[rows],
        predictions.loc[table.frame["image_id"].iloc[rows], names].to_numpy(dtype=np.float64),
        np.array([study[name] for name in names], dtype=np.float64),
        names,
        number=int(study["number"]),
        labels=None if labels is None or np.isnan(labels).all() else labels,
        study_labels=study_labels,
        notes=[*notes, *left_out],
        **options,
    )


def key_slices(probabilities: Floats, labels: Floats | None) -> dict[int, str]:
    """Return the slices to look at first, in order, and why each is there.

    The surest one; of labelled ones the least sure positive; then the next surest at some distance
    from those, and from each other.
    """
    p, n = probabilities[:, -1], len(probabilities)
    chosen = {int(p.argmax()): "highest probability"}
    positive = np.zeros(n, dtype=bool) if labels is None else np.asarray(labels)[:, -1] == 1
    if positive.any():
        row = int(np.where(positive, p, np.inf).argmin())
        chosen.setdefault(row, "labelled, with the lowest probability")
    for row in np.argsort(-p, kind="stable").tolist():
        if len(chosen) >= NUM_KEY_SLICES:
            break
        if min(abs(row - other) for other in chosen) >= max(1, n // 8):
            chosen[row] = "the next highest"
    return dict(sorted(chosen.items()))


def labels_of_study(labels: Floats) -> Floats:
    """Return (k,): 1 where a slice has a label, 0 where all are known not to, else NaN."""
    labels = np.asarray(labels, dtype=np.float64)
    is_unknown = np.isnan(labels).any(axis=0)
    return np.where((labels == 1).any(axis=0), 1.0, np.where(is_unknown, np.nan, 0.0))


def pack(volume_hu: NDArray[np.int16]) -> str:
    """Return int16 HU, no more than 32767 above air, as base64 of a zlib stream.

    It holds the difference to the pixel before, zigzag coded (0, -1, 1, ... as 0, 1, 2, ...), first
    the low bytes of all pixels, then the high ones. On a real head it takes 42 KB a slice of 256 x
    256 and 7 ms; raw values with deflate take 58 KB and 65 ms, PNG 52 to 59 KB.
    """
    values = volume_hu.ravel().astype(np.int32)
    steps: NDArray[np.int32] = np.subtract(values, np.concatenate(([0], values[:-1])))
    coded = ((steps << 1) ^ (steps >> 31)).astype("<u2")
    planes = coded.view(np.uint8).reshape(-1, 2).T.tobytes()
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return base64.b64encode(packer.compress(planes) + packer.flush()).decode("ascii")


def _spacing(table: SliceTable, row: int) -> tuple[float, float]:
    spacing = table.frame[["spacing_row", "spacing_column"]].iloc[[row]]
    rows, columns = spacing.to_numpy(dtype=np.float64, na_value=np.nan)[0]
    return float(rows), float(columns)


def _shrunk(
    image_hu: NDArray[Any], spacing_mm: tuple[float, float], side: int
) -> NDArray[np.int16]:
    """Return a slice with square pixels, at most `side` of them in each direction."""
    spacing = np.array(spacing_mm if np.isfinite(spacing_mm).all() else (1.0, 1.0))
    size = np.array(image_hu.shape) * spacing / spacing.min()
    rows, columns = np.maximum(1, np.rint(size * min(1.0, side / size.max()))).astype(int)
    image: NDArray[Any] = np.asarray(image_hu, dtype=np.float32)
    if image.shape != (rows, columns):
        image = cv2.resize(image, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(image, AIR_HU, _HIGHEST_HU)).astype(np.int16)


def _scaled(places: Floats, low: float, span: float) -> Floats:
    width = _PLOT["width"] - _PLOT["left"] - _PLOT["right"]
    return _PLOT["left"] + (places - low) / span * width


def _path(xs: Floats, p: Floats) -> str:
    """Return a curve as the path of an SVG; `h0` makes a dot of a single point."""
    height = _PLOT["height"] - _PLOT["top"] - _PLOT["bottom"]
    points = zip(xs, _PLOT["top"] + (1 - p) * height)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "h0"


def _bars(xs: Floats, labels: Floats) -> list[list[tuple[float, float]]]:
    """Return for each label x and width of a bar at every slice that has it."""
    middles = (xs[1:] + xs[:-1]) / 2
    starts, ends = np.concatenate([xs[:1], middles]), np.concatenate([middles, xs[-1:]])
    widths = np.maximum(ends - starts, 2.0)
    found = [np.flatnonzero(labels[:, k] == 1) for k in range(labels.shape[1])]
    return [[(float(starts[i]), float(widths[i])) for i in rows] for rows in found]


def _ticks(places: Floats) -> list[tuple[float, str]]:
    """Return x and text of the ends and the middle of the axis."""
    low, span = places.min(), np.ptp(places) or 1.0
    marks = np.unique(np.round(np.linspace(low, places.max(), 5)))
    marks = marks[(marks >= low) & (marks <= places.max())]
    return [(float(_scaled(mark, low, span)), f"{mark:g}") for mark in marks]


def _word(label: float) -> str:
    return "unknown" if np.isnan(label) else ("yes" if label else "no")
