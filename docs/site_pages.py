"""Hook of MkDocs: the pages of the site, at the places that they have in the repository."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "rsna/sources", "transforms", "notebooks", "recipes", "input", "output")
"""Folders whose README.md is a page; the root's is the first page."""
LINKED = ("docs/*.png", "docs/*.py", "docs/*.css", "docs/how_to/*/*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the pages and what they link to, beside the files of the theme."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    pages += [ROOT / folder / "README.md" for folder in FOLDERS]
    pages += sorted((ROOT / "docs").rglob("*.md"))
    for pattern in LINKED:
        pages += sorted(ROOT.glob(pattern))
    kept = [file for file in files if not file.is_documentation_page()]
    own = [_file(path.relative_to(ROOT).as_posix(), config) for path in pages]
    return Files([*kept, *own])


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with each flag as one word that does not break."""
    return re.sub(r"(?<![\w-])--\w[\w-]*", r'<span class="flag">\g<0></span>', html)


def _file(path: str, config: MkDocsConfig) -> File:
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)
