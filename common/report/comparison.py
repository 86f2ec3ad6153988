"""The page of experiments that are compared on the same patients."""

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from common.report.page import figure, render
from common.report.plots import COLORS, Figure, label_axes, new_figure


def comparison_html(
    title: str,
    subtitle: str,
    found: pd.DataFrame,
    doubts: Mapping[str, Sequence[str]],
    left_out: Mapping[str, Mapping[str, int]],
    claims: Sequence[str],
    margin: tuple[str, float] | None,
) -> Markup:
    """Return the page.

    Args:
        found: a row for each unit, score, label and experiment, as comparison.csv has them, with
            `score_name`.
        doubts: why scores of an experiment may be too good.
        left_out: by unit, how many of each experiment others have not scored.
        claims: what the margin allows to say.
        margin: its score, and how much worse is still no loss.
    """
    names = list(doubts)
    units = {}
    what = f"differences to {names[0]} with their intervals"
    for unit, rows in found.groupby("unit", sort=False):
        cells = rows.astype(object).where(rows.notna(), None)
        drawing = figure(forest_figure(rows, names, margin), what)
        units[unit] = {"figure": drawing, "rows": cells.to_dict("records")}
    return render(
        "comparison.html",
        title=title,
        subtitle=subtitle,
        names=names,
        units=units,
        doubts=doubts,
        left_out=left_out,
        claims=claims,
    )


def forest_figure(
    rows: pd.DataFrame, names: Sequence[str], margin: tuple[str, float] | None
) -> Figure:
    """Draw the difference of each experiment to the first, a panel for each score."""
    scores = list(dict.fromkeys(rows["score"]))
    num_lines = max(rows[rows["score"] == kind]["label"].nunique(dropna=False) for kind in scores)
    height = 1.4 + 0.22 * num_lines * len(names)
    drawing, all_axes = new_figure(1, len(scores), (11, height))
    for kind, axes in zip(scores, all_axes):
        own = rows[rows["score"] == kind]
        labels = list(dict.fromkeys(own["label"].fillna("all labels")))
        step = 0.7 / max(1, len(names) - 1)
        for number, name in enumerate(names[1:]):
            of_name = own[own["experiment"] == name]
            values = of_name["difference"].to_numpy(dtype=float)
            ends = of_name[["difference_low", "difference_high"]].to_numpy(dtype=float).T
            places = [line + number * step - 0.35 + step / 2 for line in range(len(labels))]
            style = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
            style |= {"xerr": abs(ends - values), "color": COLORS[number % len(COLORS)]}
            axes.errorbar(values, places, label=name, **style)
        axes.axvline(0, color="#666666", linewidth=1)
        is_up = kind == "auc"
        if margin is not None and margin[0] == kind:
            end = -margin[1] if is_up else margin[1]
            axes.axvline(end, color="#D55E00", linewidth=1, linestyle=":", label="margin")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        side = "right" if is_up else "left"
        label_axes(axes, own["score_name"].iloc[0], f"difference to {names[0]}; better: {side}", "")
        axes.tick_params(axis="x", labelrotation=30)
    handles, texts = all_axes[-1].get_legend_handles_labels()
    if margin is not None:
        handles, texts = all_axes[scores.index(margin[0])].get_legend_handles_labels()
    drawing.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=8)
    return drawing
