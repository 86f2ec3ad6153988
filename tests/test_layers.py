"""The layout: layers import one way, modules are short, one owner of files, the root is small."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the lowest layer to the highest; a module imports from its own and from lower ones.
LAYERS = (
    ("common",),
    ("rsna_task", "rsna_dataset", "rsna_model", "rsna_network"),
    ("flags",),
    ("config",),
    ("rsna",),
    ("scripts", "train", "preprocessing", "evaluate", "predict", "deliver")
    + ("ensemble", "lr_finder"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MOST_LINES = 400
MOST_ROOT_ENTRIES = 34


def modules(root: Path) -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    paths = [*root.glob("*.py")]
    for name in ("common", "flags", "rsna", "scripts"):
        paths += (root / name).rglob("*.py")
    named = {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def imported(path: Path, names: frozenset[str], top_level_only: bool) -> Iterator[str]:
    """Yield the modules among `names` that a file imports, those inside functions too or not.

    Imports for type checkers alone (`if TYPE_CHECKING`) count as inside.
    """
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for item in node.names:
                whole = f"{node.module}.{item.name}"
                yield from {whole if whole in names else str(node.module)} & names
        elif isinstance(node, ast.Import):
            yield from {item.name for item in node.names} & names


def test_layers_import_one_way(project_root: Path) -> None:
    found = modules(project_root)
    for name, path in found.items():
        level = LEVEL[name.partition(".")[0]]
        for other in imported(path, frozenset(found), top_level_only=False):
            assert LEVEL[other.partition(".")[0]] <= level, (
                f"{name} imports {other}, which is above"
            )


def test_no_circle(project_root: Path) -> None:
    found = modules(project_root)
    names = frozenset(found)
    needs = {name: set(imported(path, names, True)) - {name} for name, path in found.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(needs[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(found):
        visit(name, ())


def test_modules_are_short(project_root: Path) -> None:
    for path in modules(project_root).values():
        name = str(path.relative_to(project_root))
        most = 300 if name == "config.py" else MOST_LINES
        assert len(path.read_text().splitlines()) <= most, f"{name} has more than {most} lines"


def test_common_does_not_know_the_task(project_root: Path) -> None:
    for path in sorted((project_root / "common").rglob("*.py")):
        assert "rsna_" not in path.read_text(), f"{path} names a module of the task"


def test_the_root_is_small(project_root: Path) -> None:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    entries = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    entries = {name for name in entries if (project_root / name).exists() and name[0] != "."}
    assert len(entries) <= MOST_ROOT_ENTRIES, sorted(entries)


# Names in an experiment folder, which `common.experiment` alone joins to a path.
EXPERIMENT_NAMES = {
    *("results", "predictions", "checkpoints", "evaluations", "features", "predictor"),
    *("config.yaml", "metrics.json", "metrics.jsonl", "report.html", "predictor.json"),
    *("oof.parquet", "valid.parquet", "test.parquet", "blend.json"),
}
EXPERIMENT_NAMES |= {f"{name}.parquet" for name in ("valid_best", "oof_best", "studies")}


def joined_names(path: Path) -> Iterator[str]:
    """Yield the constant strings that a file joins to a path by `/`, joinpath or with_name."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = node.args if node.func.attr in ("joinpath", "with_name") else []
        yield from (part.value for part in parts if isinstance(part, ast.Constant))


def test_one_module_owns_the_experiment_folder(project_root: Path) -> None:
    found = modules(project_root)
    owner = found.pop("common.experiment")
    assert EXPERIMENT_NAMES & set(joined_names(owner)) >= {"predictions", "metrics.json"}
    for path in found.values():
        names = EXPERIMENT_NAMES & set(joined_names(path))
        assert not names, f"{path} joins {names}: ask common.experiment.Experiment"


def first_set_outside_init(classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """Yield attributes of `self` that no class body and no `__init__` declares, bases included."""

    def lineage(name: str) -> Iterator[ast.ClassDef]:
        if name in classes:
            yield classes[name]
            for base in classes[name].bases:
                yield from lineage(ast.unparse(base).partition("[")[0].rpartition(".")[2])

    def set_in(function: ast.AST) -> set[str]:
        targets = (node for node in ast.walk(function) if isinstance(node, ast.Attribute))
        return {
            node.attr
            for node in targets
            if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        }

    for name, definition in classes.items():
        known: set[str] = set()
        for each in lineage(name):
            for node in each.body:
                if isinstance(node, ast.AnnAssign):
                    known.add(ast.unparse(node.target))
                elif isinstance(node, ast.Assign):
                    known |= {ast.unparse(target) for target in node.targets}
                elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    known |= set_in(node)
        for node in definition.body:
            if isinstance(node, ast.FunctionDef):
                yield from (f"{name}.{found}" for found in sorted(set_in(node) - known))


def test_attributes_are_born_in_init(project_root: Path):
    classes: dict[str, ast.ClassDef] = {}
    for path in modules(project_root).values():
        found = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
        ]
        classes |= {node.name: node for node in found}
    assert list(first_set_outside_init(classes)) == []
