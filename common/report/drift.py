"""The page of new studies compared with a reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from common.report.page import figure, render
from common.report.plots import COLORS, Figure, label_axes, new_figure
from common.scoring.drift import Found
from common.slices.summaries import HU_BINS, HU_RANGE, HU_STEP

_NUM_PANELS = 12
_SIDES = (("reference", COLORS[0]), ("new", COLORS[4]))


def drift_html(title: str, verdict: Sequence[str], found: Found) -> Markup:
    """Return the page.

    Args:
        verdict: what was compared, and what came of it, in words.
        found: all of it.
    """
    columns = found.columns.astype(object).where(found.columns.notna(), None)
    pictures = []
    if set(HU_BINS) <= set(found.reference):
        pictures.append(figure(histogram_figure(found), "HU of reference and new studies"))
    what = f"the {_NUM_PANELS} columns that differ most"
    pictures.append(figure(columns_figure(found), what))
    return render(
        "drift.html",
        title=title,
        subtitle=verdict[0],
        verdict=verdict[1:],
        columns=columns.to_dict("records"),
        pictures=pictures,
    )


def histogram_figure(found: Found) -> Figure:
    """Draw the mean histogram of HU of both sides, with the middle half of the patients."""
    drawing, axes = new_figure(1, 1, (11, 3.4))
    middles = np.arange(*HU_RANGE, HU_STEP) + HU_STEP / 2
    for name, color in _SIDES:
        shares: Any = getattr(found, name)[HU_BINS].to_numpy(dtype=float)
        axes.plot(middles, np.nanmean(shares, axis=0), color=color, marker="o", label=name)
        low, high = np.nanquantile(shares, [0.25, 0.75], axis=0)
        axes.fill_between(middles, low, high, color=color, alpha=0.2, linewidth=0)
    label_axes(axes, "HU from soft tissue to fresh blood", "HU", "share of pixels")
    axes.legend(fontsize=8)
    return drawing


def columns_figure(found: Found) -> Figure:
    """Draw both sides' histograms of the columns that differ most; shares as bars."""
    shown = found.columns[found.columns["p_value"].notna()].head(_NUM_PANELS)
    num_rows = max(1, -(-len(shown) // 4))
    drawing, all_axes = new_figure(num_rows, 4, (11, 2.3 * num_rows))
    for axes in np.ravel(all_axes)[len(shown) :]:
        axes.axis("off")
    for row, axes in zip(shown.to_dict("records"), np.ravel(all_axes)):
        sides = [getattr(found, name)[row["column"]].dropna() for name, _ in _SIDES]
        if row["is_share"]:
            axes.bar(["reference", "new"], [s.mean() for s in sides], color=[c for _, c in _SIDES])
            axes.set_ylim(0, 1)
        else:
            edges = np.histogram_bin_edges(pd.concat(sides), bins=15)
            for side, (name, color) in zip(sides, _SIDES, strict=True):
                weights = np.full(len(side), 1 / len(side))
                axes.hist(side, edges, weights=weights, color=color, alpha=0.5, label=name)
        label_axes(axes, f"{row['column']} (p {row['p_value']:.3g})", "", "share of patients")
    return drawing
