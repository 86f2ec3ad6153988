"""The linter, the formatter and the type checker find nothing; imports and --help do nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
}


@pytest.mark.parametrize(
    "check",
    # On a fresh clone the type checker takes most of a minute: .ci/run asks for it each time.
    [pytest.param(name, marks=pytest.mark.long if name == "types" else ()) for name in CHECKS],
)
def test_tools_find_nothing(check, project_root: Path):
    tool, *arguments = CHECKS[check]
    command = [sys.executable, "-m", tool, *arguments]
    result = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
