"""The figures of a report, drawn without matplotlib's global state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.report.plots import COLORS, Axes, Figure, label_axes, new_figure
from common.scoring import metrics
from common.scoring.metrics import Floats

NUM_RELIABILITY_POINTS = 10
_MOST_POINTS = 400
_MOST_SCHEDULE_POINTS = 2000


def curves_figure(labels: Floats, probabilities: Floats, label_names: Sequence[str]) -> Figure:
    """Draw the ROC curves and the precision-recall curves of all labels, (n, k) arrays."""
    drawing, (left, right) = new_figure(1, 2, (11, 4.8))
    for column, name in enumerate(label_names):
        y, p, color = labels[:, column], probabilities[:, column], COLORS[column % len(COLORS)]
        area, precision = metrics.auc(y, p), metrics.average_precision(y, p)
        left.plot(*_thinned(*metrics.roc_curve(y, p)), color=color, label=_legend(name, area))
        recall_precision = _thinned(*metrics.precision_recall_curve(y, p))
        right.plot(*recall_precision, color=color, label=_legend(name, precision))
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
    label_axes(left, "ROC (area)", "false positive rate", "true positive rate")
    label_axes(right, "precision and recall (average precision)", "recall", "precision")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        # Below: precision leaves no corner free.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize=8)
    return drawing


def reliability_figure(
    labels: Floats, sets: Mapping[str, Floats], label_names: Sequence[str]
) -> Figure:
    """Draw, per label, the share of positives over the predicted probability.

    Each point is a tenth of the rows by probability, so that rare labels show their small
    probabilities too; the axes end a little above the largest value.

    Args:
        labels: (n, k).
        sets: one or two sets of probabilities (n, k) by name; the first of two is grey.
    """
    drawing, all_axes = _panels(len(label_names))
    for column, (label, axes) in enumerate(zip(label_names, all_axes)):
        own = COLORS[column % len(COLORS)]
        end, title = 0.01, label
        for (name, p), color in zip(sets.items(), [own] if len(sets) == 1 else ["#8a94a0", own]):
            x, share, _ = metrics.reliability_by_rank(
                labels[:, column], p[:, column], NUM_RELIABILITY_POINTS
            )
            error = metrics.expected_calibration_error(labels[:, column], p[:, column])
            text = f"(ECE {'–' if error is None else f'{error:.3f}'})"
            title = f"{label} {text}" if len(sets) == 1 else label
            style: Any = {"marker": "o", "markersize": 4, "linewidth": 1}
            axes.plot(x, share, color=color, label=f"{name} {text}", **style)
            end = 1.1 * max([end / 1.1, *x, *share])
        axes.plot([0, end], [0, end], color="#999999", linewidth=1, linestyle=":")
        label_axes(axes, title, "predicted probability", "share of positives")
        axes.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end))
        if len(sets) > 1:
            axes.legend(fontsize=8)
    return drawing


def learning_figure(
    records: Sequence[Mapping[str, Any]],
    loss_names: Sequence[str],
    auc_names: Sequence[str],
    baseline: float | None = None,
) -> Figure:
    """Draw the lines of metrics.jsonl over the iteration: losses on the left, AUCs on the right.

    Args:
        loss_names, auc_names: the values to draw; those that never occur are left out.
        baseline: a constant to compare the losses with, or None.
    """
    drawing, (left, right) = new_figure(1, 2, (11, 4))
    for axes, names in ((left, loss_names), (right, auc_names)):
        for number, name in enumerate(names):
            points = _points(records, name)
            if points:
                many: Any = {"linewidth": 1} if len(points) > 30 else {"marker": "o", "ms": 3}
                axes.plot(*zip(*points), color=COLORS[number], label=name, **many)
    if baseline is not None:
        left.axhline(baseline, color="#999999", linestyle=":", label="constant prior")
    label_axes(left, "loss", "iteration", "")
    label_axes(right, "AUC on the validation rows", "iteration", "")
    left.set_ylim(bottom=0)
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return drawing


def schedule_figure(
    rate: Callable[[int], float],
    num_steps: int,
    lowest_scale: float = 1.0,
    swa_start: int | None = None,
    records: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Draw the learning rate of every iteration of a training, planned and used.

    Args:
        rate, num_steps, lowest_scale, swa_start: as of `PlannedSchedule`.
        records: lines of metrics.jsonl, for what was used; those without are left out.
    """
    drawing, axes = new_figure(1, 1, (11, 3.4))
    steps = np.unique(np.linspace(0, num_steps - 1, _MOST_SCHEDULE_POINTS).round().astype(int))
    rates = np.array([rate(int(step)) for step in steps])
    label = "schedule" if lowest_scale == 1 else "last layer"
    axes.step(steps + 1, rates, where="mid", color=COLORS[0], label=label)
    if lowest_scale != 1:
        lowest, label = rates * lowest_scale, f"first layer ({lowest_scale:.2g} of it)"
        axes.step(steps + 1, lowest, where="mid", color=COLORS[6], linewidth=1, label=label)
        axes.fill_between(
            steps + 1, lowest, rates, step="mid", color=COLORS[6], alpha=0.15, linewidth=0
        )
    if swa_start is not None:
        label = "stochastic weight averaging begins"
        axes.axvline(swa_start, color="#999999", linestyle=":", label=label)
    if used := _points(records, "train_learning_rate"):
        thinned = _thinned(*(np.array(values) for values in zip(*used)))
        style = {"linestyle": "none", "marker": ".", "markersize": 5}
        axes.plot(*thinned, color=COLORS[4], label="used", **style)
    label_axes(axes, "learning rate", "iteration", "")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return drawing


def decision_figure(
    point: Mapping[str, Any] | None, curve: Mapping[str, Any], label: str
) -> Figure:
    """Draw predictive values over prevalence, and the decision curve, of one label.

    Args:
        point: of `study.operating_points` in metrics.json; None where there is no threshold.
        curve: of `study.decision_curve`.
        label: its name.
    """
    drawing, (left, right) = new_figure(1, 2, (11, 4))
    if point is None:
        left.axis("off")
        left.text(0.5, 0.5, "no operating point (--ev_rule)", ha="center", color="#5b6673")
    else:
        over = point["over_prevalence"]
        for name, color in (("ppv", COLORS[0]), ("npv", COLORS[4])):
            _band(left, over["prevalence"], over[name], color, name.upper())
        if point["prevalence"] is not None:
            text = f"--ev_prevalence {point['prevalence']:g}"
            left.axvline(point["prevalence"], color="#999999", linestyle=":", label=text)
        left.set(xlim=(0, None), ylim=(-0.02, 1.02))
        left.legend(fontsize=8, loc="lower right")
    label_axes(left, f"predictive values of {label}", "prevalence", "share")
    _band(right, curve["threshold"], curve["net_benefit"], COLORS[0], "called by the network")
    treat_all, gains = curve["treat_all"]["value"], curve["net_benefit"]["value"]
    right.plot(curve["threshold"], _floats(treat_all), color="#999999", label="all called")
    right.axhline(0, color="#000000", linewidth=1, label="none called")
    top = np.nanmax(np.append(_floats(gains), 0.0)) or 0.1
    right.set(xlim=(0, 1), ylim=(-0.3 * top, 1.3 * top))
    right.legend(fontsize=8)
    label_axes(right, f"decision curve of {label}", "threshold probability", "net benefit")
    return drawing


def study_reliability_figure(tables: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the share of positive studies, with intervals, over the mean probability of each bin.

    Args:
        tables: `study.reliability` of metrics.json, of the labels to draw.
    """
    drawing, all_axes = _panels(len(tables))
    for (label, table), axes, color in zip(tables.items(), all_axes, COLORS):
        x, y = _floats(table["mean_probability"]), _floats(table["value"])
        low, high = _floats(table["low"]), _floats(table["high"])
        axes.vlines(x, low, high, color=color, linewidth=1.2)
        axes.scatter(x, y, s=16, color=color)
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        label_axes(axes, label, "predicted probability", "share of positive studies")
    return drawing


def _points(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return iteration and value of the records that have a value."""
    return [(each["iteration"], each[name]) for each in records if each.get(name) is not None]


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many axes, three in a row."""
    num_rows, num_columns = (number + 2) // 3, min(3, number)
    drawing, all_axes = new_figure(num_rows, num_columns, (11 / 3 * num_columns, 3.4 * num_rows))
    for axes in np.ravel(all_axes)[number:]:
        axes.axis("off")
    return drawing, list(np.ravel(all_axes)[:number])


def _band(axes: Axes, x: Sequence[float], curve: Mapping[str, Any], color: str, name: str) -> None:
    axes.plot(x, _floats(curve["value"]), color=color, label=name)
    low, high = _floats(curve["low"]), _floats(curve["high"])
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)


def _legend(name: str, value: float | None) -> str:
    return f"{name} (undefined)" if value is None else f"{name} {value:.3f}"


def _thinned(x: Floats, y: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return at most a few hundred of the points, the first and the last among them."""
    if len(x) <= _MOST_POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).astype(int))
    return x[chosen], y[chosen]
