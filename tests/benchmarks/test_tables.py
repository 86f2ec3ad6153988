"""The page of performance has the figures of benchmarks/figures.jsonl."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables

TEMPLATE = "<!-- table: b\n| way | ms |\n|---|---|\n| {x:.1f} | {deep/1/k: v:.0%} |\n-->\n"
OLD, NEW = (
    {"benchmark": "b", "date": day, "machine": "m", "commit": "c", "figures": figures}
    for day, figures in (
        ("2026-01-01", {"x": 1}),
        ("2026-01-02", {"x": 2, "deep": [0, {"k: v": 0.5}]}),
    )
)


def test_the_page_agrees_with_the_lines() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    shown = {match[1] for match in tables.TABLE.finditer(page)}
    lines = tables.read_lines()
    assert tables.with_tables(page, lines) == page, "run: python benchmarks/tables.py"
    assert {line["benchmark"] for line in lines} <= shown
    assert (
        page.count("<!-- table: ") == page.count("<!-- end -->") == len(tables.TABLE.findall(page))
    )
    for match in tables.TABLE.finditer(page):
        assert match[1] == "gpu" or tables.NOTHING not in match[0], match[1]


def test_every_table_names_its_benchmark(project_root: Path) -> None:
    for match in tables.TABLE.finditer(tables.PAGE.read_text(encoding="utf-8")):
        assert (project_root / "benchmarks" / f"{match[1]}.py").is_file(), match[1]


def test_the_newest_line_fills_the_template() -> None:
    page = f"before\n{TEMPLATE}old\n\nrows\n<!-- end -->\nafter"
    made = tables.with_tables(page, [OLD, NEW])
    rows = "| way | ms |\n|---|---|\n| 2.0 | 50% |\n\n*2026-01-02, m, commit c*"
    assert made == f"before\n{TEMPLATE}\n{rows}\n\n<!-- end -->\nafter"
    assert tables.with_tables(made, [OLD, NEW]) == made
    assert "| 1.0 | not measured |" in tables.with_tables(made, [OLD])
    assert "**No figures yet.**" in tables.with_tables(made, [])


def test_a_changed_figure_is_noticed() -> None:
    made = tables.with_tables(f"{TEMPLATE}\n<!-- end -->", [NEW])
    assert tables.with_tables(made.replace("| 2.0 |", "| 3.0 |"), [NEW]) == made


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Add the output of a benchmark to a page and lines of their own."""
    page, lines = tmp_path / "page.md", tmp_path / "figures.jsonl"
    page.write_text(f"{TEMPLATE}\n<!-- end -->\n")
    lines.write_text("")
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "FIGURES", lines)

    def add(output: str, *flags: str) -> tuple[str, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(output))
        monkeypatch.setattr(sys, "argv", ["tables.py", *flags])
        tables.main()
        return page.read_text(), tables.read_lines()

    return add


def test_output_is_added_with_its_origin(add: Any) -> None:
    page, lines = add('a table\n{"x": 7}\n', "b", "--machine", "two idle cores")
    assert "| 7.0 | not measured |" in page and ", two idle cores, commit " in page
    assert lines[0]["figures"] == {"x": 7} and lines[0]["machine"] == "two idle cores"
    assert lines[0]["commit"] == tables.commit()
    assert add("")[1] == lines  # fills, and adds nothing
    page, lines = add(json.dumps({"x": 8, "machine": "GPU"}), "b")
    assert len(lines) == 2 and "| 8.0 |" in page and ", GPU, " in page


def test_a_machine_is_needed(add: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        add('{"x": 7}', "b")
    assert "--machine: say which machine it was" in capsys.readouterr().err
    assert tables.read_lines() == []
