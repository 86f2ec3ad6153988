"""Packages that only some flags need: how to install them."""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

DISTRIBUTION = "head-ct-hemorrhage"
FOLDER = Path(__file__).resolve().parent.parent / "requirements"


def install_command(extra: str) -> str:
    """Return the pip command that installs an optional part, such as `boosting`.

    A checkout has a file for it; an installed package names the packages, since pip could not find
    its own name in a registry.
    """
    if (FOLDER / f"{extra}.txt").is_file():
        return f"pip install -r requirements/{extra}.txt"
    try:
        listed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        listed = []
    mark = f"extra == '{extra}'"
    packages = [line.partition(";")[0].strip() for line in listed if mark in line]
    return "pip install " + " ".join(f"'{package}'" for package in packages)
