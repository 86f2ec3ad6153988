"""The table of exporters' habits: each row has a test, and each test exists."""

import ast
import re
from pathlib import Path

from pages import defined

PAGE = Path("docs") / "reference" / "exports.md"
ROW = re.compile(r"^\| (?!habit|---)[^|]+\|([^|]*)\|.*$", re.MULTILINE)


def test_every_habit_has_tests_that_exist(project_root: Path) -> None:
    text = (project_root / PAGE).read_text("utf-8")
    rows = list(ROW.finditer(text))
    assert len(rows) > 40
    for row in rows:
        named = list(defined(row[0]))
        assert named, f"without a test: {row[0]}"
        for path, name in named:
            tree = ast.parse((project_root / path).read_text("utf-8"))
            tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in tests, f"{path}: no test {name}"


def test_the_cases_of_dicom_are_in_the_table(project_root: Path, test_data: Path) -> None:
    cases = {folder.name for folder in (test_data / "cases").iterdir()}
    text = (project_root / PAGE).read_text("utf-8")
    listed = {case for row in ROW.finditer(text) for case in re.findall(r"\w+", row[1])}
    assert listed <= cases
    assert cases <= listed
