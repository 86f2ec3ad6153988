"""Measure what the tests of the numerical modules notice: a random sample of planted errors.

Each mutant is one small change of one module (cosmic-ray: an operator, a comparison, a number, a
loop that does not run; and here: a call that is left out). It is tried with the module's own tests
alone: killed where a test fails or does not end in time, else it survived. Changes of type
annotations are left out. A module has one mutant per place in its text at most.

    pip install cosmic-ray==8.7.0
    python benchmarks/mutation.py --seed 13 --number 14

Prints the table and the survivors; --results keeps each outcome, and a second call with the same
file goes on. The tests run in copies of the tree, in processes forked from one that has the large
libraries imported. Linux only.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import unified_diff
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "common/callbacks/averages.py", "common/datasets/samplers.py",
    "common/datasets/weighted_samplers.py", "common/dicom/grouping.py",
    "common/dicom/hounsfield.py", "common/dicom/order.py", "common/ensembling/blending.py",
    "common/networks/network.py", "common/scoring/calibration.py", "common/scoring/metrics.py",
    "common/scoring/shrinkage.py", "common/scoring/submission.py", "common/slices/folds.py",
    "common/slices/leakage.py", "common/statistics/intervals.py",
)  # fmt: skip
"""Those of the table in docs/explanation/mutation.md."""

MORE_TESTS = {
    "common/dicom/order.py": ["common/dicom/test_grouping.py"],
    "common/networks/network.py": [
        "common/networks/test_skipped_steps.py", "common/networks/test_resume.py",
    ],
    "common/scoring/shrinkage.py": ["common/scoring/test_calibration.py"],
    "common/slices/folds.py": ["common/slices/test_subset.py"],
}  # fmt: skip
"""Module to its tests in other files than its own, below tests/."""

LIBRARIES = (
    "albumentations", "hypothesis.strategies", "pandas.testing", "pyarrow.parquet", "pydicom",
    "pytest", "scipy.optimize", "scipy.stats", "sklearn.isotonic", "sklearn.metrics", "timm",
    "torch", "torchvision",
)  # fmt: skip
"""Imported once, before processes are forked; none of the project's own modules."""

SPARE_S = 30.0
"""A mutant has this and five times what the tests take without one."""


@dataclass(frozen=True)
class Mutant:
    """One change; `occurrence` counts the places that the operator could change."""

    module: str
    line: int
    column: int
    operator: str
    occurrence: int


def _remove_call() -> Any:
    """Return a cosmic-ray operator that leaves out a statement that is only a call."""
    tree = import_module("parso.python.tree")

    class RemoveCall(import_module("cosmic_ray.operators.operator").Operator):  # type: ignore[misc]
        def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
            call = node.children[0] if node.type == "simple_stmt" else None
            if call is not None and call.type == "atom_expr":
                last = call.children[-1]
                if last.type == "trailer" and last.children[0].value == "(":
                    yield call.start_pos, call.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            first = node.get_first_leaf()
            node.children[0] = tree.Keyword("pass", first.start_pos, first.prefix)
            return node

        @classmethod
        def examples(cls) -> Sequence[Any]:
            return ()

    return RemoveCall()


@cache
def operators() -> dict[str, Any]:
    """Return the operators by name; those that need names as arguments are left out."""
    plugins = import_module("cosmic_ray.plugins")
    names = sorted(n for n in plugins.operator_names() if "Variable" not in n and "NoOp" not in n)
    return {name: plugins.get_operator(name)() for name in names} | {"RemoveCall": _remove_call()}


def tests_of(module: str) -> list[str]:
    """Return the tests of a module, below tests/."""
    path = Path(module)
    own = str(path.with_name(f"test_{path.name}"))
    tests = [own] * (ROOT / "tests" / own).exists() + MORE_TESTS.get(module, [])
    if not tests:
        raise SystemExit(f"--modules {module}: there is no tests/{own}")
    return tests


def mutants_of(module: str) -> list[Mutant]:
    """Return all mutants of a module that change no annotation, by place."""
    parse = import_module("cosmic_ray.ast")
    source = (ROOT / module).read_text(encoding="utf-8")
    skipped = list(_annotations(source))
    nodes = list(parse.ast_nodes(parse.get_ast(source)))
    found = []
    for name, operator in operators().items():
        places = [place for node in nodes for place, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(places):
            if not any(begin <= (line, column) < end for begin, end in skipped):
                found.append(Mutant(module, line, column, name, occurrence))
    return sorted(found, key=lambda m: (m.line, m.column, m.operator, m.occurrence))


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def is_possible(mutant: Mutant) -> bool:
    """Return whether cosmic-ray can make it: it cannot replace an exception with a dotted name."""
    try:
        return bool(mutated(mutant))
    except AttributeError:
        return False


def sample(module: str, number: int, seed: int) -> list[Mutant]:
    """Return `number` mutants of a module: places drawn at random, and one mutant of each."""
    by_place: dict[tuple[int, int], list[Mutant]] = {}
    for mutant in mutants_of(module):
        by_place.setdefault((mutant.line, mutant.column), []).append(mutant)
    draw = random.Random(f"{seed} {module}")
    places = draw.sample(sorted(by_place), len(by_place))
    drawn = (draw.choice(by_place[place]) for place in places)
    chosen = list(islice(filter(is_possible, drawn), number))
    return sorted(chosen, key=lambda m: (m.line, m.column))


def mutated(mutant: Mutant) -> str:
    """Return the text of the module with the change."""
    mutating = import_module("cosmic_ray.mutating")
    source = (ROOT / mutant.module).read_text(encoding="utf-8")
    text = mutating.mutate_code(source, operators()[mutant.operator], mutant.occurrence)
    assert text is not None and text != source, mutant
    return str(text)


def copy_tree(folder: Path) -> None:
    """Copy what git tracks or would track."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def _run_tests(tree: Path, tests: Sequence[str]) -> None:
    """Run in a forked process: pytest in a copy of the tree; the exit status is pytest's."""
    os.setsid()
    os.chdir(tree)
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    sys.path[:] = [str(tree)] + [path for path in sys.path if path not in ("", str(ROOT))]
    paths = [f"tests/{name}" for name in tests]
    options = ["-x", "-n0", "--tb=no", f"--basetemp={tree / 'temporary'}"]
    os._exit(int(import_module("pytest").main([*options, *paths])))


@dataclass
class Job:
    """A process that runs the tests of one mutant."""

    mutant: Mutant | None
    module: str
    tree: Path
    limit_s: float

    def __post_init__(self) -> None:
        if self.mutant is not None:
            text = mutated(self.mutant)
            (self.tree / self.module).write_text(text, encoding="utf-8")
        self.began = time.monotonic()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_run_tests, args=(self.tree, tests_of(self.module)))
        self.process.start()

    def outcome(self) -> str | None:
        """Return how it ended, None while it runs; the module is as before afterwards."""
        is_late = time.monotonic() - self.began > self.limit_s
        if self.process.is_alive() and not is_late:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        shutil.copyfile(ROOT / self.module, self.tree / self.module)
        if is_late:
            return "late"
        return "survived" if self.process.exitcode == 0 else "killed"


def run_all(
    mutants: Sequence[Mutant], num_processes: int, results: Path | None
) -> dict[Mutant, str]:
    """Return the outcome of each mutant; each module's tests pass without one first."""
    for name in LIBRARIES:
        import_module(name)
    done: dict[Mutant, str] = {}
    if results and results.is_file():
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        done = {Mutant(**line["mutant"]): line["outcome"] for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / str(number) for number in range(num_processes)]
        for tree in trees:
            copy_tree(tree)
        modules = dict.fromkeys(m.module for m in mutants if m not in done)
        for module in modules:
            left = [m for m in mutants if m.module == module and m not in done]
            limit_s = 5 * _baseline_s(module, trees[0]) + SPARE_S
            for mutant, outcome in _in_turn(left, trees, limit_s):
                done[mutant] = outcome
                if results:
                    with results.open("a", encoding="utf-8") as file:
                        file.write(
                            json.dumps({"mutant": asdict(mutant), "outcome": outcome}) + "\n"
                        )
    return {mutant: done[mutant] for mutant in mutants}


def _baseline_s(module: str, tree: Path) -> float:
    job = Job(None, module, tree, limit_s=900)
    while (outcome := job.outcome()) is None:
        time.sleep(0.1)
    if outcome != "survived":
        raise SystemExit(f"{module}: its tests fail without any change, correct them first")
    return time.monotonic() - job.began


def _in_turn(
    left: list[Mutant], trees: Sequence[Path], limit_s: float
) -> Iterator[tuple[Mutant, str]]:
    left, free = list(left), list(trees)
    running: list[Job] = []
    while left or running:
        while left and free:
            mutant = left.pop(0)
            running.append(Job(mutant, mutant.module, free.pop(), limit_s))
        time.sleep(0.05)
        for job in list(running):
            outcome = job.outcome()
            if outcome is not None and job.mutant is not None:
                running.remove(job)
                free.append(job.tree)
                yield job.mutant, outcome


def show(outcomes: dict[Mutant, str]) -> None:
    """Print the table by module, and each survivor with the line before and after."""
    print("| module | mutants | killed | too slow | survived |\n|---|---|---|---|---|")
    rows: dict[str, list[str]] = {}
    for mutant, outcome in outcomes.items():
        rows.setdefault(mutant.module, []).append(outcome)
    for name, found in (rows | {"all": list(outcomes.values())}).items():
        numbers = [found.count(outcome) for outcome in ("killed", "late", "survived")]
        print(f"| {name} | {len(found)} | {' | '.join(map(str, numbers))} |")
    for mutant, outcome in outcomes.items():
        if outcome == "survived":
            before = (ROOT / mutant.module).read_text(encoding="utf-8").splitlines()
            after = mutated(mutant).splitlines()
            print(f"\n{mutant.module}:{mutant.line} {mutant.operator}")
            changes = unified_diff(before, after, n=0, lineterm="")
            print("\n".join(line for line in changes if line[:2] not in ("--", "++", "@@")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=13, help="of the sample")
    parser.add_argument("--number", type=int, default=14, help="of mutants of each module")
    parser.add_argument("--modules", nargs="+", default=MODULES, help="with tests of their own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON lines, one per mutant, to go on from")
    parser.add_argument("--list", action="store_true", help="count the mutants and run none")
    arguments = parser.parse_args()
    try:
        import_module("cosmic_ray")
    except ImportError:
        raise SystemExit("cosmic-ray is missing: pip install cosmic-ray==8.7.0") from None
    if arguments.list:
        for module in arguments.modules:
            found = mutants_of(module)
            print(module, len(found), len({(m.line, m.column) for m in found}))
        return
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ.setdefault("ICH_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    chosen = [
        m for name in arguments.modules for m in sample(name, arguments.number, arguments.seed)
    ]
    show(run_all(chosen, arguments.processes, arguments.results))


if __name__ == "__main__":
    main()
