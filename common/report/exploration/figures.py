"""The figures of an exploration, drawn without matplotlib's global state."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.report.examples import window_strip, windows_text
from common.report.exploration.images import ChosenSlice, labels_of, montage, read_image
from common.report.plots import COLORS, Axes, Figure, label_axes, new_figure
from common.slices.table import SliceTable
from common.windows import READING_WINDOWS

_NUM_BINS = 60


class Picture:
    """A figure as a notebook shows it: a PNG of few dots, so that the notebook stays small."""

    def __init__(self, drawing: Figure, dpi: int = 72) -> None:
        self._drawing, self._dpi = drawing, dpi

    def __repr__(self) -> str:
        # The text beside the PNG must be the same on every run: no address.
        return "<Picture>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self._drawing.savefig(
            buffer, format="png", dpi=self._dpi, bbox_inches="tight", metadata={"Software": None}
        )
        return buffer.getvalue()


def label_figure(of_slices: pd.DataFrame, of_studies: pd.DataFrame) -> Figure:
    """Draw the share of positives of each label, of slices on the left, of studies on the right.

    Args:
        of_slices, of_studies: what `label_counts` returned.
    """
    drawing, both = new_figure(1, 2, (11, 3.2))
    for axes, counts, what in zip(both, (of_slices, of_studies), ("slices", "studies")):
        shares = 100 * counts["share"].fillna(0.0).to_numpy(dtype=np.float64)
        bars = axes.barh(range(len(counts)), shares, color=COLORS[0])
        told = zip(shares, counts["positive"], counts["known"])
        texts = [f" {share:.2g} % ({number:,})" if n else " unknown" for share, number, n in told]
        axes.bar_label(bars, texts, fontsize=8)
        axes.set_yticks(range(len(counts)), list(counts.index))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.35 * max(1.0, float(shares.max())))
        label_axes(axes, f"share of the labelled {what}", "%", "")
    return drawing


def matrix_figure(counts: pd.DataFrame, shares: pd.DataFrame, title: str) -> Figure:
    """Draw a matrix of labels: numbers of rows, coloured by the share of the row's label."""
    num_labels = len(counts)
    drawing, axes = new_figure(1, 1, (1.6 + 0.95 * num_labels, 1.2 + 0.6 * num_labels))
    axes.grid(False)
    numbers = counts.to_numpy(dtype=np.int64)
    values = shares.to_numpy(dtype=np.float64, na_value=np.nan)
    axes.imshow(np.nan_to_num(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(num_labels):
        for j in range(num_labels):
            share = values[i, j]
            text = f"{numbers[i, j]:,}"
            text += "" if np.isnan(share) else f"\n{100 * share:.0f} %"
            color = "white" if share > 0.6 else "#1c2530"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(num_labels), list(counts.columns), rotation=25, ha="right")
    axes.set_yticks(range(num_labels), list(counts.index))
    axes.set_title(title, fontsize=10)
    return drawing


def place_figure(shares: pd.DataFrame) -> Figure:
    """Draw the share of positives over the place in the series, as `share_by_place` returns it."""
    drawing, axes = new_figure(1, 1, (11, 3.4))
    for number, name in enumerate(shares.columns):
        color = COLORS[number % len(COLORS)]
        axes.plot(shares.index, 100 * shares[name], color=color, marker="o", ms=3, label=name)
    label_axes(axes, "positives by place in the series", "lowest slice 0, highest 1", "% of slices")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return drawing


def fold_figure(report: pd.DataFrame, label_names: Sequence[str]) -> Figure:
    """Draw the prevalence of each label per fold, a line at that of all folds.

    Args:
        report: what `fold_report` returned.
    """
    drawing, axes = new_figure(1, 1, (11, 3.4))
    folds = report.drop(index="all")
    width = 0.8 / max(1, len(folds))
    places = np.arange(len(label_names))
    values = 100 * folds[list(label_names)].to_numpy(dtype=np.float64)
    for number, (fold, shares) in enumerate(zip(map(str, folds.index), values)):
        offset = (number - (len(folds) - 1) / 2) * width
        color = COLORS[number % len(COLORS)]
        axes.bar(places + offset, shares, 0.92 * width, color=color, label=f"fold {fold}")
    overall = 100 * report.loc["all", list(label_names)].to_numpy(dtype=np.float64)
    axes.hlines(overall, places - 0.45, places + 0.45, color="#000000", lw=1, label="all")
    axes.set_xticks(places, list(label_names))
    label_axes(axes, "prevalence by fold", "", "% of slices")
    axes.legend(fontsize=8, ncols=6)
    return drawing


def geometry_figure(
    spacing_mm: ArrayLike, gaps_mm: ArrayLike, tilts_deg: ArrayLike, lengths: ArrayLike
) -> Figure:
    """Draw pixel spacing and gaps of slices, tilt and length of series, as histograms."""
    drawing, ((first, second), (third, fourth)) = new_figure(2, 2, (11, 6))
    _histogram(first, spacing_mm, "pixel spacing", "mm between rows", "slices")
    _histogram(second, gaps_mm, "gap to the slice before", "mm along the normal", "slices")
    _histogram(third, tilts_deg, "gantry tilt", "degrees", "series")
    _histogram(fourth, lengths, "length of a series", "slices", "series")
    return drawing


def intensity_figure(frame: pd.DataFrame) -> Figure:
    """Draw smallest, largest and mean HU and the share of brain of the slices in `frame`."""
    drawing, four = new_figure(2, 2, (11, 6))
    names = ("smallest HU", "largest HU", "mean HU", "share of the pixels in brain")
    columns = ("hu_min", "hu_max", "hu_mean", "brain_fraction")
    for axes, name, column in zip(np.ravel(four), names, columns):
        values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
        _histogram(axes, values, name, "HU" if "HU" in name else "", "slices")
    return drawing


def windows_figure(
    table: SliceTable, chosen: Sequence[ChosenSlice], label_names: Sequence[str]
) -> Figure:
    """Draw slices, one in a row, in the four windows, with their image ids and labels only."""
    drawing, grid = new_figure(max(1, len(chosen)), 1, (9.6, 2.75 * len(chosen) or 0.6))
    if not chosen:
        grid.text(0, 0.5, "no such slice", fontsize=9)
    for axes, choice in zip(np.ravel(grid), chosen):
        image_hu = read_image(table, choice.row)
        if image_hu is not None:
            axes.imshow(window_strip(image_hu), cmap="gray", vmin=0, vmax=255)
        what = f"{choice.label}{' (of the study)' if choice.of_study else ''}"
        labels = labels_of(table, choice.row, label_names)
        windows = windows_text(READING_WINDOWS)
        axes.set_title(f"{what}: {table.image_id(choice.row)} ({labels})\n{windows}", fontsize=8)
    for axes in np.ravel(grid):
        axes.axis("off")
    return drawing


def montage_figure(table: SliceTable, row: int) -> Figure:
    """Draw the whole series of a row, in order."""
    picture, shown = montage(table, row)
    height, width = picture.shape
    drawing, axes = new_figure(1, 1, (11, 11 * height / width))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    axes.set_title(f"{len(shown)} slices, from {table.image_id(shown[0])} up", fontsize=9)
    return drawing


def _histogram(axes: Axes, values: ArrayLike, title: str, x_name: str, y_name: str) -> None:
    """Draw the finite values between their 0.1 % quantiles; what lies beyond is told."""
    finite: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    num_all = len(finite)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        axes.text(0.5, 0.5, "unknown", ha="center", transform=axes.transAxes, fontsize=9)
        label_axes(axes, title, x_name, y_name)
        return
    low, high = np.quantile(finite, (0.001, 0.999), method="nearest")
    inside = finite[(finite >= low) & (finite <= high)]
    edges = np.linspace(low, high, _NUM_BINS) if high > low else np.array([low - 0.5, low + 0.5])
    axes.hist(inside, bins=edges.tolist(), color=COLORS[0])
    notes = [f"{len(finite) - len(inside):,} beyond"] if len(inside) < len(finite) else []
    notes += [f"{num_all - len(finite):,} unknown"] if len(finite) < num_all else []
    label_axes(axes, title + (f" ({', '.join(notes)})" if notes else ""), x_name, y_name)
