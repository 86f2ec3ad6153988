"""The linter, the formatter and the type checker find nothing; the wording is plain."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Looking for garbage takes mypy a quarter of its time and finds little; 2 GB are held without.
WITHOUT_GC = "import gc; gc.enable = gc.disable; gc.disable(); import mypy.__main__ as m"
CHECKS = {
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-c", f"{WITHOUT_GC}; m.console_entry()"],
}

# Folders and modules that are written in plain words.
PLAIN = (
    "benchmarks",
    "common/callbacks",
    "common/datasets",
    "common/dicom",
    "common/models",
    "common/networks",
    "common/optim",
    "common/preparation",
    "common/scoring",
    "common/slices",
    "common/statistics",
    "common/transforms",
    "recipes",
    "rsna/phantom",
    "rsna/preparation",
    "rsna/sources",
    "rsna/training",
    "scripts",
    "transforms",
    "rsna_dataset.py",
    "rsna_model.py",
    "rsna_network.py",
    "rsna_task.py",
)
DIALECT = re.compile(
    r'"""What |^\s*# What |\b(?:told|said|tells the log|passed over)\b|'
    r"(?:\b|_)(?:un)?heard\b|\b_(?:hear|say|telling)",
    re.IGNORECASE | re.MULTILINE,
)


def dialect_in(text: str) -> list[str]:
    """Return the words and openings that plain wording has no use for."""
    return [match.group().strip() for match in DIALECT.finditer(text)]


@pytest.mark.parametrize("place", PLAIN)
def test_wording_is_plain(place: str, project_root: Path) -> None:
    path = project_root / place
    files = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.sh")]
    assert files, f"{place} has no code: correct the list"
    for file in files:
        assert not dialect_in(file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize(
    "text",
    [
        '"""What a network says."""',
        "x = 1\n# What follows",
        "the log is told",
        "Tells the log how many",
        "a neighbour is passed over",
        "def _unheard(self):",
        "self._say(line)",
    ],
)
def test_the_dialect_is_found(text: str) -> None:
    assert dialect_in(text)


@pytest.mark.parametrize("check", CHECKS)
def test_tools_find_nothing(check, project_root: Path):
    command = [sys.executable, *CHECKS[check]]
    result = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_that_are_begun_first_exist(request: pytest.FixtureRequest, project_root: Path):
    conftest = request.config.pluginmanager.get_plugin(str(project_root / "tests" / "conftest.py"))
    assert set(conftest.LONGEST) <= {path.name for path in project_root.glob("tests/**/test_*.py")}
