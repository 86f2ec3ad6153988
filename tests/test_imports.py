"""Importing a module, or asking for --help, makes no folder and no file and opens no connection."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(
        [*ROOT.glob("*.py"), *ROOT.glob("common/**/*.py"), *ROOT.glob("sources/**/*.py")]
    )
]
SCRIPTS = ["train.py", "preprocessing.py", "evaluate.py", "predict.py", "resend.py"]


def changes(arguments: list[str], trace: Path) -> list[str]:
    """System calls that make, change or connect something, of Python run with `arguments`."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    calls = "openat,creat,mkdir,mkdirat,rename,renameat,unlink,unlinkat,connect,sendto"
    command = ["strace", "-f", "-e", f"trace={calls}", "-o", str(trace), sys.executable, *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pattern = r"O_CREAT|mkdir|creat\(|rename|unlink|AF_INET|sendto\("
    return [line for line in trace.read_text().splitlines() if re.search(pattern, line)]


def test_importing_every_module_changes_nothing(tmp_path):
    program = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)"
    assert changes(["-c", program], tmp_path / "trace.txt") == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_changes_nothing(script, tmp_path):
    assert changes([script, "--help"], tmp_path / "trace.txt") == []
