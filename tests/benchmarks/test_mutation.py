"""The mutation benchmark: its tests exist, and it notices what they notice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mutation
from benchmarks.mutation import Mutant, show

MODULE = "common/scoring/submission.py"
PROGRAM = f"""
import sys
from benchmarks import mutation

text = (mutation.ROOT / "{MODULE}").read_text()
texts = ["raise ImportError", text, text.replace("values >= 0", "values >= -1")]
mutants = [mutation.Mutant("{MODULE}", 1, 0, "none", number) for number in range(3)]
mutation.mutated = lambda mutant: texts[mutant.occurrence]
sys.dont_write_bytecode = True
found = mutation.run_all(mutants, 2, None)
print("outcomes", *[found[mutant] for mutant in mutants])
"""


def test_every_module_and_its_tests_exist(project_root: Path) -> None:
    for module in (*mutation.MODULES, *mutation.MORE_TESTS):
        assert (project_root / module).is_file()
        tests = mutation.tests_of(module)
        assert tests and all((project_root / "tests" / name).is_file() for name in tests)


def test_a_module_without_tests_of_its_own_is_refused() -> None:
    with pytest.raises(
        SystemExit, match=r"--modules common/a\.py: there is no tests/common/test_a"
    ):
        mutation.tests_of("common/a.py")


def test_changes_of_annotations_are_known() -> None:
    text = "def f(a: int | None = 1) -> float | None:\n    b: int | str = a | 2\n    return b\n"
    ranges = list(mutation._annotations(text))
    marked = sorted(text.splitlines()[begin[0] - 1][begin[1] : end[1]] for begin, end in ranges)
    assert marked == ["float | None", "int | None", "int | str"]


def test_the_table_counts_by_module(capsys, monkeypatch) -> None:
    text = (mutation.ROOT / MODULE).read_text(encoding="utf-8").splitlines()
    changed = "\n".join([*text[:9], "from os import path", *text[10:]])
    monkeypatch.setattr(mutation, "mutated", lambda mutant: changed)
    outcomes = ["killed", "survived", "late", "killed"]
    show({Mutant(MODULE, 10, 0, "core/Some", k): outcome for k, outcome in enumerate(outcomes)})
    table, survivor = capsys.readouterr().out.split("\n\n")
    assert f"| {MODULE} | 4 | 2 | 1 | 1 |" in table and "| all | 4 | 2 | 1 | 1 |" in table
    assert survivor.splitlines()[0] == f"{MODULE}:10 core/Some"
    assert "+from os import path" in survivor


@pytest.mark.long
def test_what_the_tests_notice_is_killed(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "outcomes killed survived killed" in done.stdout, done.stdout + done.stderr
