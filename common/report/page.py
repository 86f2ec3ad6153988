"""Self-contained HTML pages, made from the templates beside this module."""

import base64
import functools
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from common.report.plots import Figure

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> Markup:
    """Return the HTML of a template; values are escaped where they are not `Markup`."""
    return Markup(_environment().get_template(template).render(values))


def frame_table(
    frame: pd.DataFrame,
    percent: Collection[str] = (),
    index: bool = True,
    classes: str | None = None,
) -> Markup:
    """Return a frame as an HTML table; None and NaN become dashes.

    Args:
        percent: columns that are shares.
        index: whether the first column is the index.
        classes: `words` where the second column is text.
    """
    frame = frame.reset_index(names=[str(frame.index.name or "")]) if index else frame
    cells = {name: [_cell(value, str(name) in percent) for value in frame[name]] for name in frame}
    return Markup(pd.DataFrame(cells).to_html(index=False, border=0, classes=classes))


def figure(drawing: Figure, description: str) -> Markup:
    """Return a matplotlib figure as an inline SVG image."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return svg_figure(buffer.getvalue(), description)


def svg_figure(drawing: bytes, description: str) -> Markup:
    """Return an SVG as an inline image."""
    uri = _data_uri(drawing, "svg+xml")
    return Markup('<figure><img src="{}" alt="{}"></figure>').format(uri, description)


def picture_uri(picture: NDArray[np.uint8] | None) -> str | None:
    """Return a grey picture (rows, columns) as the data URI of a JPEG; None for None."""
    if picture is None:
        return None
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return _data_uri(encoded.tobytes(), "jpeg")


def number(value: Any, digits: int = 3) -> str:
    """Return a number as people read it; a dash for what is not known."""
    if value is None or jinja2.is_undefined(value):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def decision(value: Any) -> str:
    """Return a call, 1, 0 or unknown, or the word of a decision, as people read it."""
    if isinstance(value, str):
        return value.replace("_", " ")
    return "none" if pd.isna(value) else ("yes" if value else "no")


def _estimate(found: Mapping[str, Any] | None, digits: int = 2, with_counts: bool = False) -> str:
    """Return an estimate of metrics.json with its interval, or why there is none; and of how many
    studies it is.
    """
    if not found or found["value"] is None:
        return f"– ({found['reason']})" if found and found["reason"] else "–"
    text = _within(found["value"], found["interval"], digits)
    if not found["interval"] and found["reason"]:
        text += f" ({found['reason']})"
    if not with_counts:
        return text
    return f"{text}, {found['num_found']:,} of {found['num_studies']:,}"


def _within(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Return a value with its interval behind it, where it has one."""
    return number(value, digits) + (f" ({_interval(interval, digits)})" if interval else "")


def _interval(interval: Sequence[float] | None, digits: int = 3, reason: str | None = None) -> str:
    """Return an interval as people read it; a dash, and why, where there is none."""
    if interval:
        return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
    return f"– ({reason})" if reason else "–"


def _ratio(metrics: dict[str, Any], prior_name: str = "prior") -> float | None:
    """Return the loss in units of that of a prior: `prior` (of the training) or `scored_prior`."""
    loss, prior = metrics["weighted_log_loss"], metrics.get(f"{prior_name}_weighted_log_loss")
    return None if loss is None or not prior else loss / prior


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: not (name or "").endswith(".jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": _interval, "ratio": _ratio}
    environment.filters |= {"within": _within, "estimate": _estimate, "decision": decision}
    return environment


def _cell(value: Any, is_percent: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if is_percent:
        return f"{100 * value:.2f} %"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.3f}"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
