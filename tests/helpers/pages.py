"""The Markdown pages of the project, read for what they name: links, flags, files, classes."""

import re
from collections.abc import Iterator
from pathlib import Path

from markdown.extensions.toc import slugify

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)(?![\w-])(\*?)")
DEFINED = re.compile(r"`([\w/]+\.py)`: ((?:`\w+`(?:, | and )?)+)")
CAMEL_CASE = re.compile(r"\b[A-Z]+[a-z]\w*[A-Z]\w*[a-z]\w*\b")
LOCAL = ("input", "output")
"""Folders of which git has the README.md alone."""


def pages(root: Path) -> dict[str, str]:
    """Return the text of every page by its path below `root`."""
    paths = [*root.glob("*.md"), *root.glob(".github/**/*.md")]
    for folder in root.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            paths += folder.glob("*.md" if folder.name in LOCAL else "**/*.md")
    return {str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(paths)}


def links(text: str) -> Iterator[str]:
    """Yield the targets of the links that stay inside the project."""
    return (target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target))


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as MkDocs makes them."""
    return {slugify(heading.replace("`", ""), "-") for heading in HEADING.findall(text)}


def files(text: str) -> Iterator[str]:
    """Yield the paths in code, `a/{b,c}.py` as two; a `*` stays."""
    for code in CODE.findall(text):
        found = re.search(r"\{(.*?)\}", code)
        names = [code.replace(found[0], part) for part in found[1].split(",")] if found else [code]
        yield from (name for name in names if re.fullmatch(r"[\w.*/-]*/[\w.*-]*", name))


def defined(text: str) -> Iterator[tuple[str, str]]:
    """Yield file and name of every ``file.py`: `Name``."""
    for path, names in DEFINED.findall(text):
        yield from ((path, name) for name in CODE.findall(names))
