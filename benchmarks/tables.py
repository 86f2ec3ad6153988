"""Fill the tables of docs/explanation/performance.md from the lines of benchmarks/figures.jsonl.

A line holds the figures of one run of a benchmark with its date, machine and commit; the newest of
a benchmark counts. In the page, a table stands between two comments, and the first one holds its
template: rows with {key/key/...:format}, of Python's formats.

    python benchmarks/loader.py | python benchmarks/tables.py loader --machine "two idle cores"
    python benchmarks/tables.py

The first command adds the last line of the benchmark's output and fills its tables, the second one
fills them all, as after a change of a template.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
FIGURES = Path(__file__).with_name("figures.jsonl")
TABLE = re.compile(r"<!-- table: (\w+)\n(.*?)\n-->\n.*?\n<!-- end -->", re.DOTALL)
CELL = re.compile(r"\{([^{}]+):([^:{}]*)\}")
NOTHING = "not measured"


def commit() -> str | None:
    """Return the commit that is checked out, None without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def filled(template: str, figures: Any) -> str:
    """Return a template with its values; those that the figures lack are `not measured`."""

    def value(match: re.Match[str]) -> str:
        found = figures
        for key in match[1].split("/"):
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return NOTHING if found is None else format(found, match[2])

    return CELL.sub(value, template)


def with_tables(page: str, lines: list[dict[str, Any]]) -> str:
    """Return a page with its tables filled from the newest line of each benchmark."""
    newest = {line["benchmark"]: line for line in lines}

    def table(match: re.Match[str]) -> str:
        name, template = match[1], match[2]
        body = "**No figures yet.**"
        if name in newest:
            line = newest[name]
            origin = f"*{line['date']}, {line['machine']}, commit {line['commit']}*"
            body = f"{filled(template, line['figures'])}\n\n{origin}"
        return f"<!-- table: {name}\n{template}\n-->\n\n{body}\n\n<!-- end -->"

    return TABLE.sub(table, page)


def read_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FIGURES.read_text(encoding="utf-8").splitlines()]


def show(name: str, figures: dict[str, Any]) -> None:
    """Print the tables of a benchmark as the page would have them."""
    for match in TABLE.finditer(PAGE.read_text(encoding="utf-8")):
        if match[1] == name:
            print(f"{filled(match[2], figures)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("benchmark", nargs="?", help="its output is read from the standard input")
    parser.add_argument("--machine", help="which, and what else it did; default: from the figures")
    arguments = parser.parse_args()
    if arguments.benchmark:
        figures = json.loads(sys.stdin.read().splitlines()[-1])
        machine = arguments.machine or figures.get("machine")
        if not machine:
            parser.error("--machine: say which machine it was, and what else ran on it")
        line = {
            "benchmark": arguments.benchmark,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine,
            "commit": commit(),
            "figures": figures,
        }
        with FIGURES.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, read_lines()), encoding="utf-8")


if __name__ == "__main__":
    main()
