"""scripts/setup.sh, with an interpreter that only writes down what it is asked to do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INTERPRETER = """#!/usr/bin/env bash
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip "*) echo "$*" >>pip.log; [[ "$*" != *"${FAILING:-nothing}"* ]] ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, project_root: Path) -> Path:
    """A checkout of the requirements, with an interpreter of its own."""
    shutil.copy(project_root / "requirements.txt", tmp_path)
    for name in ("requirements", "scripts"):
        shutil.copytree(project_root / name, tmp_path / name)
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def set_up(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = "source scripts/setup.sh && ensure_environment requirements/dev.txt"
    environment = {"PATH": os.environ["PATH"], "PYTHON": "./python", **variables}
    return subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True
    )


def asked(folder: Path) -> list[str]:
    """The installations, each from its last flag of pip itself on."""
    log = folder / "pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.partition("--disable-pip-version-check ")[2] for line in lines]


def test_everything_is_installed_once_at_the_locked_versions(folder: Path) -> None:
    first = set_up(folder)
    assert first.returncode == 0 and "TORCH=cpu" in first.stderr
    wanted = "--constraint requirements/lock.txt --requirement requirements/dev.txt"
    assert asked(folder) == [wanted]
    second = set_up(folder)
    assert (second.returncode, second.stderr) == (0, "") and len(asked(folder)) == 1
    (folder / "requirements" / "lock.txt").write_text("torch==9.9\n")
    assert set_up(folder).returncode == 0 and asked(folder) == [wanted] * 2
    assert set_up(folder, LOCK="").returncode == 0
    assert asked(folder)[2:] == ["--requirement requirements/dev.txt"]


def test_the_torch_of_a_machine_without_gpu_comes_first(folder: Path) -> None:
    done = set_up(folder, TORCH="cpu")
    assert done.returncode == 0 and "3 GB" not in done.stderr
    torch, rest = asked(folder)
    assert torch == (
        "--constraint requirements/lock.txt --no-deps torch torchvision"
        " --index-url https://download.pytorch.org/whl/cpu"
    )
    assert "--index-url" not in rest and "dev.txt" in rest


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TORCH": "rocm"}, "error: TORCH=rocm: give TORCH=cpu"),
        ({"TORCH": "cpu", "FAILING": "--index-url"}, "error: pip could not install torch from"),
        ({"FAILING": "dev.txt"}, "error: pip could not install requirements/dev.txt"),
    ],
)
def test_a_refusal_says_what_to_do_and_the_next_time_goes_on(
    folder: Path, variables: dict[str, str], message: str
) -> None:
    done = set_up(folder, **variables)
    assert done.returncode == 2 and message in done.stderr
    before = len(asked(folder))
    assert set_up(folder).returncode == 0 and len(asked(folder)) == before + 1
