"""The reference is generated from the code and is not stale; its files are those of real runs."""

from fnmatch import fnmatch

import pytest
import yaml

from common.errors import CheckFailed, InputError
from docs import generate_reference


def test_the_pages_are_not_stale(monkeypatch):
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    generate_reference.main()


def test_a_stale_page_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    made = generate_reference.pages() | {"flags.md": "# Flags\n"}
    monkeypatch.setattr(generate_reference, "pages", lambda: made)
    with pytest.raises(CheckFailed) as found:
        generate_reference.main()
    command = "run python docs/generate_reference.py"
    assert found.value.findings == [f"docs/reference/flags.md is stale: {command}"]


def test_names_without_a_meaning_and_meanings_without_a_name_are_refused():
    with pytest.raises(InputError, match="studies: b: add a meaning"):
        generate_reference.require_same("studies", ["a", "b"], ["a"])
    with pytest.raises(InputError, match="studies: c: remove the meaning"):
        generate_reference.require_same("studies", ["a"], ["a", "c"])


def test_files_of_earlier_runs_are_listed(project_root):
    """Every file of the saved dataset, experiments and blend matches a pattern of files.md."""
    meanings = yaml.safe_load((generate_reference.FOLDER / "meanings.yaml").read_text("utf-8"))
    saved = project_root / "tests" / "saved_runs" / "runs"
    places = {"dataset": saved / "input" / "datasets", "experiment": saved / "output" / "results"}
    for place, folder in places.items():
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert names
        for name in names:
            inside = "/".join(name.parts[1:])
            patterns = meanings["files"][place]
            assert any(fnmatch(inside, pattern) for pattern in patterns), f"{place}: {inside}"
