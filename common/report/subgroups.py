"""The section of a page about groups of studies: which are worse, a forest plot, all numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from common.report.page import figure, render
from common.report.plots import COLORS, Figure, new_figure

SHOWN = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
SIGNIFICANT = 0.05
_ROW_INCHES = 0.21
_LONGEST_NAME = 36


def subgroup_section(subgroups: Mapping[str, Any], words: Callable[[str], str]) -> Markup:
    """Return the HTML of `subgroups` of metrics.json.

    Args:
        words: the name of a grouping as the page shows it.
    """
    groups = {words(title): each for title, each in subgroups["groups"].items()}
    own = [group for each in groups.values() for group in each.values()]
    values = [name for name in SHOWN if any(name in group for group in own)]
    with_loss = [title for title, each in groups.items() if "log_loss" in next(iter(each.values()))]
    drawing = forest_figure(groups, values) if values else None
    return render(
        "subgroups.html",
        subgroups=subgroups,
        groups=groups,
        with_loss=with_loss,
        values={name: SHOWN[name] for name in values},
        left_out={words(title): why for title, why in subgroups["left_out"].items()},
        forest=drawing and figure(drawing, "each group with its interval"),
    )


def forest_figure(groups: Mapping[str, Mapping[str, Any]], values: list[str]) -> Figure:
    """Draw each value of each group with its interval, filled where it differs beyond chance.

    Args:
        groups: by the names of grouping and group, as in metrics.json.
        values: which of SHOWN.
    """
    # A line for the name of each grouping, above its groups.
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for title, each in groups.items():
        lines += [(title, None), *((f"   {name}", group) for name, group in each.items())]
    height = _ROW_INCHES * len(lines) + 0.7
    drawing, all_axes = new_figure(1, len(values), (11, height))
    for number, (axes, value) in enumerate(zip(np.ravel(all_axes), values)):
        for place, (_, group) in enumerate(lines):
            if group is not None and group.get(value, {}).get("value") is not None:
                _mark(axes, place, group, value)
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlim=(-0.02, 1.02))
        axes.set_title(SHOWN[value], fontsize=10)
        axes.grid(visible=False, axis="y")
        names = [_plain(name) for name, _ in lines] if number == 0 else [""] * len(lines)
        axes.set_yticks(range(len(lines)), names, ha="left" if number == 0 else "right")
        axes.tick_params(axis="y", length=0, pad=170 if number == 0 else 2)
        for text, (_, group) in zip(axes.get_yticklabels(), lines):
            text.set_parse_math(False)
            text.set_fontweight("bold" if group is None else "normal")
    return drawing


def _mark(axes: Any, place: int, group: Mapping[str, Any], value: str) -> None:
    p_value = group["difference"].get(value, {}).get("adjusted_p_value")
    is_beyond = p_value is not None and p_value <= SIGNIFICANT
    color = COLORS[4] if is_beyond else COLORS[0]
    if group[value]["interval"]:
        axes.plot(group[value]["interval"], [place, place], color=color, linewidth=1.5)
    fill = color if is_beyond else "white"
    axes.plot(group[value]["value"], place, "o", color=color, markerfacecolor=fill, markersize=4.5)


def _plain(name: str) -> str:
    """Return a name as the figure's font has it: headers hold any text."""
    text = name.encode("ascii", "replace").decode("ascii")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
