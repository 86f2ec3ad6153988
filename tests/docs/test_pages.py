"""The pages name what exists: links, flags, files, classes. So does the code that names a page."""

import re
from pathlib import Path

import pytest
from pages import CAMEL_CASE, FLAG, anchors, defined, files, links, pages

import config

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages(ROOT)
CURRENT = [name for name in PAGES if name not in ("docs/decisions.md", "CHANGELOG.md")]
"""Pages of the present; the others keep the names of their time."""
OTHER_PROGRAMS = {
    "torchrun": ("standalone", "nproc_per_node", "nnodes", "rdzv_backend", "rdzv_endpoint"),
    "slurm": ("nodes", "time", "requeue", "signal"),
    "dask": ("host", "port", "nthreads", "nworkers", "name"),
    "mkdocs, neptune, pip, uv": ("strict", "path", "extra", "constraints", "keep", "all", "long"),
    "jsonargparse": ("help", "print_config"),
}
NOT_OURS = {"DaskCluster", "PositiveClassRatioSampler"}
"""Classes of Kubernetes and of the 2019 framework."""
CODE = {
    path: path.read_text("utf-8")
    for pattern in ("*.py", "*.sh", "*/*.sh", "*/*.py", "*/*/*.py", "*/*/*/*.py", ".ci/run")
    for path in ROOT.glob(pattern)
    if path.relative_to(ROOT).parts[0] not in (".venv", "input", "output")
}
WORDS = set(re.findall(r"\w+", " ".join(CODE.values())))
KNOWN = {
    *(flag for kind in config.GROUPS.values() for flag in kind.__dataclass_fields__),
    *(flag for text in CODE.values() for flag in re.findall(r'"--(\w+)"', text)),
    *(flag for flags in OTHER_PROGRAMS.values() for flag in flags),
}


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name):
    for target in links(PAGES[name]):
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), f"{name}: {target}: no such file"
        assert not anchor or anchor in anchors(page.read_text("utf-8")), f"{name}: {target}"


@pytest.mark.parametrize("name", CURRENT)
def test_flags_exist(name):
    for flag, star in FLAG.findall(PAGES[name]):
        exists = any(other.startswith(flag) for other in KNOWN) if star else flag in KNOWN
        assert exists, f"{name} names --{flag}{star}: no such flag"


@pytest.mark.parametrize("name", CURRENT)
def test_files_exist(name):
    """The folders that a run makes are left out; test_generate_reference.py compares those."""
    places = (ROOT, (ROOT / name).parent)
    for path in files(PAGES[name]):
        if any((place / path.partition("/")[0]).exists() for place in places):
            found = path.startswith(("input/", "output/")) or any(
                [*place.glob(path)] for place in places
            )
            assert found, f"{name} names {path}: no such file"


@pytest.mark.parametrize("name", CURRENT)
def test_names_in_files_exist(name):
    for path, defined_name in defined(PAGES[name]):
        places = (ROOT / path, (ROOT / name).parent / path)
        text = next(place for place in places if place.exists()).read_text("utf-8")
        assert re.search(rf"(?:class|def) {defined_name}\b|^{defined_name}\b", text, re.M), (
            f"{name} places {defined_name} in {path}"
        )


@pytest.mark.parametrize("name", CURRENT)
def test_classes_exist(name):
    code = re.findall(r"`[^`\n]+`|^    .*$", PAGES[name], re.M)
    for word in CAMEL_CASE.findall(" ".join(code)):
        assert word in WORDS | NOT_OURS, f"{name} names {word}: no such class"


def test_code_names_pages_that_exist():
    for path, text in CODE.items():
        for page in re.findall(r"\b(?:docs/[\w/]+\.\w+|(?:\w+/)*README\.md)", text):
            beside = path.parent / page
            assert (ROOT / page).exists() or beside.exists(), f"{path} names {page}: no such file"
