"""MkDocs makes a site of the pages without a warning; it loads nothing from the network."""

import re
import subprocess
import sys
from pathlib import Path

from pages import pages

EXTERNAL = {
    "*.html": re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//"""),
    "*.css": re.compile(r"""(?:url\(|@import)["' ]*(?:https?:)?//"""),
}


def test_the_site_is_whole_and_loads_nothing_from_the_network(project_root: Path, tmp_path: Path):
    command = ["mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", str(tmp_path)]
    command = [sys.executable, "-m", *command]
    result = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in pages(project_root):
        if name.startswith(".github/"):
            continue  # for who changes the code, read at its place
        page = tmp_path / name
        is_index = page.stem == "README"
        page = page.with_name("index.html") if is_index else page.with_suffix(".html")
        assert page.exists(), f"{name} is no page of the site: add it to docs/mkdocs.yml"
    for pattern, external in EXTERNAL.items():
        for path in tmp_path.rglob(pattern):
            assert not external.search(path.read_text("utf-8")), path
