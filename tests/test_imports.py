"""Importing a module, or asking for --help, makes no folder and no file and opens no connection."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("common", "flags", "rsna", "scripts")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(
        [*ROOT.glob("*.py"), *(p for name in FOLDERS for p in ROOT.glob(f"{name}/**/*.py"))]
    )
]
STRACE = shutil.which("strace")
SCRIPTS = [
    "train.py",
    "preprocessing.py",
    "evaluate.py",
    "predict.py",
    "deliver.py",
    "lr_finder.py",
    "ensemble.py",
    "scripts.resend",
    "scripts.monitor",
    "scripts.pseudo_label",
    "scripts.second_level",
]


# What Python itself reports, where strace (which also sees native code) is not installed.
AUDITED = """
import os, runpy, sys
trace = open(sys.argv[1], "w")
def note(event, arguments):
    changing = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC
    if event == "open" and arguments[0] != os.devnull and (arguments[2] or 0) & changing:
        print(event, arguments[0], file=trace, flush=True)
    if event in ("os.mkdir", "os.rename", "os.remove", "socket.connect", "socket.sendto"):
        print(event, arguments, file=trace, flush=True)
sys.addaudithook(note)
sys.path.insert(0, os.getcwd())
if sys.argv[2] == "-c":
    program, sys.argv[:] = sys.argv[3], sys.argv[2:3] + sys.argv[4:]
    exec(program)
elif sys.argv[2] == "-m":
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def changes(arguments: list[str], trace: Path, strace: str | None = STRACE) -> list[str]:
    """What Python run with `arguments` makes, changes or connects to."""
    if strace is None:
        command = [sys.executable, "-c", AUDITED, str(trace), *arguments]
        pattern = ""
    else:
        calls = "openat,creat,mkdir,mkdirat,rename,renameat,unlink,unlinkat,connect,sendto"
        # The filter stops the process at these calls alone, not at every one.
        command = [strace, "-f", "--seccomp-bpf", "-e", f"trace={calls}", "-o", str(trace)]
        command += [sys.executable, *arguments]
        pattern = r"O_CREAT|mkdir|creat\(|rename|unlink|AF_INET|sendto\("
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = trace.read_text().splitlines()
    return [line for line in lines if re.search(pattern, line) and '"/dev/null"' not in line]


def test_importing_every_module_changes_nothing(tmp_path):
    program = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)"
    assert changes(["-c", program], tmp_path / "trace.txt") == []


def test_help_changes_nothing(tmp_path):
    """One process asks every script, so that what they share is imported once."""
    program = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    start = runpy.run_path if script.endswith(".py") else runpy.run_module
    try:
        start(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
    else:
        raise AssertionError(script)
"""
    assert changes(["-c", program, *SCRIPTS], tmp_path / "trace.txt") == []


def test_help_of_a_module_is_looked_at_without_strace_too(tmp_path):
    assert changes(["-m", "scripts.resend", "--help"], tmp_path / "trace.txt", None) == []


@pytest.mark.parametrize("strace", [STRACE, None])
def test_what_is_looked_for_is_found(strace, tmp_path):
    program = f"import os; os.mkdir({str(tmp_path / 'made')!r})"
    assert changes(["-c", program], tmp_path / "trace.txt", strace)
