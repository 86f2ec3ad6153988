"""Ground of every figure: colours, axes, names."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # matplotlib makes a folder for its cache: it is imported when a figure is drawn
    Axes = Figure = Any

# Distinguishable with the common forms of colour blindness (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#000000", "#56B4E9", "#A58B00")


def new_figure(num_rows: int, num_columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure of `size` inches in the style of the reports, and its axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=size, layout="constrained")
    all_axes = drawing.subplots(num_rows, num_columns)
    for axes in np.ravel(all_axes):
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return drawing, all_axes


def label_axes(axes: Axes, title: str, x_name: str, y_name: str) -> None:
    """Set the title and the names of both axes."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_name, fontsize=9)
    axes.set_ylabel(y_name, fontsize=9)
