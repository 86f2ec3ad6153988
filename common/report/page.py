"""A self-contained HTML page: text, tables and images without any outside resource."""

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2530; background: #f4f5f7; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 0 0 8px; }
section { background: #fff; border: 1px solid #dde1e6; border-radius: 8px; padding: 20px 24px;
          margin: 16px 0; overflow-x: auto; }
p { margin: 4px 0 12px; max-width: 85ch; }
.quiet { color: #5b6673; font-size: 14px; }
.notice { background: #fff6e0; border: 1px solid #e8c978; border-radius: 8px; padding: 10px 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 4px 0 12px; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid #e6e9ed;
         white-space: nowrap; }
th { color: #5b6673; font-weight: 600; font-size: 14px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; white-space: normal; }
figure { margin: 8px 0; }
figure img { max-width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 16px; }
.card { border: 1px solid #dde1e6; border-radius: 8px; overflow: hidden; background: #fff; }
.card img { display: block; width: 100%; background: #000; }
.card > div { padding: 8px 12px; }
.card code { font-size: 13px; overflow-wrap: anywhere; }
.labels { display: flex; flex-wrap: wrap; gap: 4px 6px; font-size: 13px; margin-top: 4px; }
.labels span { border-radius: 4px; padding: 0 6px; background: #eef0f3; color: #45505c; }
.labels .true { background: #b3261e; color: #fff; }
.labels .unknown { opacity: 0.6; }
@media (max-width: 560px) { .cards { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""


def shown(value: Any, digits: int = 3) -> str:
    """Returns a number as people read it; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def shown_interval(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Returns "low to high", or a dash for None."""
    return "–" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def paragraph(text: str, style: str = "") -> str:
    """Returns an escaped paragraph; styles are `quiet` and `notice`."""
    return f'<p class="{style}">{html.escape(text)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """Returns a table of escaped cells; the columns in `text` are words, the others numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        parts = []
        for column, cell in enumerate(cells):
            style = ' class="text"' if column in text else ""
            parts.append(f"<{tag}{style}>{html.escape(str(cell))}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(header, 'th')}</thead>\n<tbody>{body}</tbody></table>"


def image_uri(data: bytes, kind: str) -> str:
    """Returns an image (`svg+xml`, `png`, `jpeg`) as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def figure(drawing: "Figure", description: str) -> str:
    """Returns a matplotlib figure as an inline SVG image."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    uri = image_uri(buffer.getvalue(), "svg+xml")
    return f'<figure><img src="{uri}" alt="{html.escape(description, quote=True)}"></figure>'


def page(title: str, subtitle: str, notice: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns the whole page; each section is a heading and the HTML below it."""
    body = "\n".join(
        f"<section><h2>{html.escape(heading)}</h2>\n{content}</section>"
        for heading, content in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body><main>
<h1>{html.escape(title)}</h1>
{paragraph(subtitle, "quiet")}
{paragraph(notice, "notice")}
{body}
</main></body>
</html>
"""
