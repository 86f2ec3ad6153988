"""The command `ich` in a checkout: its commands, its help, what it says to mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from config import Config
from flags.help import SCRIPTS
from scripts import ich


def run(*arguments: str, cwd: Path = warm.ROOT) -> subprocess.CompletedProcess[str]:
    return warm.run(["-m", "scripts.ich", *arguments], cwd=cwd)


def test_every_script_is_a_command_and_has_a_help(project_root: Path) -> None:
    modules = {command.module for command in ich.COMMANDS.values()}
    scripts = {path.stem for path in project_root.glob("*.py") if "run_script(" in path.read_text()}
    others = {f"scripts.{path.stem}" for path in (project_root / "scripts").glob("*.py")}
    others -= {"scripts.__init__", "scripts.ich"}
    assert modules == scripts | others
    named = {module.rpartition(".")[2] for module in modules}
    assert named - {"monitor", "completion"} == set(SCRIPTS) - {"monitor"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_flags_that_there_are_and_examples_that_parse(script: str) -> None:
    from importlib import import_module

    from config import parse_config

    command = next(c for c in ich.COMMANDS.values() if c.module.rpartition(".")[2] == script)
    groups = import_module(command.module).GROUPS
    own = {name for group in groups for name in vars(getattr(Config(), group))}
    shown = SCRIPTS[script].flags.split()
    assert len(shown) == len(set(shown)) <= 22
    assert set(shown) <= own
    for example in SCRIPTS[script].examples:
        given = parse_config("", groups, example.split()).given
        assert len(given) == example.count("--")


def test_help_is_short_and_help_all_is_whole() -> None:
    short, whole = (run("train", flag).stdout for flag in ("--help", "--help_all"))
    assert "usage: python -m scripts.ich train" in short
    assert "python -m scripts.ich train --experiment_id 0001 --tr_resume 1" in short
    assert "--net_model" in short
    assert "--net_study_heads" not in short
    from train import GROUPS

    # With a second spelling a comma follows (from Python 3.13 on).
    names = [name for group in GROUPS for name in vars(getattr(Config(), group))]
    assert all(f"--{name} " in whole or f"--{name}, " in whole for name in names)


@pytest.mark.parametrize("script", ["train", "preprocessing", "predict", "evaluate", "deliver"])
def test_help_imports_none_of_what_takes_long_to_import(script: str, project_root: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['{script}.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: print({'torch', 'albumentations', 'scipy', 'pandas'} & {*sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("trian",), "error: trian is no command: did you mean train?"),
        (("xyz",), "error: xyz is no command: see --help for those there are"),
        (
            ("train", "--tr_batchsize", "8"),
            "error: --tr_batchsize is no flag of python -m scripts.ich train: "
            "did you mean --tr_batch_size?",
        ),
        (
            ("evaluate", "--qqq=8"),
            "error: --qqq is no flag of python -m scripts.ich evaluate: "
            "--help_all shows those there are",
        ),
    ],
)
def test_a_mistype_is_answered_in_one_line(arguments: tuple[str, ...], line: str) -> None:
    found = run(*arguments)
    assert (found.returncode, found.stdout, found.stderr) == (2, "", f"{line}\n")


def test_messages_name_the_command_as_it_was_called(tmp_path: Path) -> None:
    found = run("evaluate", "--experiment_id", "0007", cwd=tmp_path)
    assert found.returncode == 2
    assert "no experiment at output/results/0007" in found.stderr
    found = run("train", cwd=tmp_path)
    assert found.returncode == 2
    assert "python -m scripts.ich prepare" in found.stderr
    assert ".py" not in found.stderr.splitlines()[-1]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused_in_one_line(system: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SystemExit) as stop:
        ich.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {ich.ONLY_LINUX}\n"


def test_the_shell_scripts_refuse_other_systems(project_root: Path, tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for script in ("train.sh", "test.sh"):
        found = subprocess.run(
            [project_root / script], env=environment, capture_output=True, text=True, check=False
        )
        assert (found.returncode, found.stderr) == (2, f"error: {ich.ONLY_LINUX}\n")


def test_completion_completes_commands_flags_and_values() -> None:
    script = run("completion", "bash").stdout
    ask = """
    ask() {
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _shtab_ich
        echo ${COMPREPLY[@]}
    }
    ask ich pre; ask ich train --net_mod; ask ich prepare --pre_source cq
    """
    found = subprocess.run(["bash"], input=script + ask, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["prepare", "predict", "--net_model", "cq500"]
    assert run("completion", "fish").returncode == 2
