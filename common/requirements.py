"""Packages that are needed, and those that only some flags need: how to install them."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

DISTRIBUTION = "head-ct-hemorrhage"
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"

# Extra -> its package, and the flag that needs it.
EXTRAS = {
    "tensorboard": ("tensorboard", "--tensorboard_enabled 1"),
    "neptune": ("neptune", "--nml_enabled 1"),
    "boosting": ("lightgbm", "--sl_method boosting"),
    "kaggle": ("kaggle", "--pr_submit"),
    "engine": ("openvino", "--pr_engine openvino, scripts/export.py"),
    "clinic": ("highdicom", "deliver.py, scripts/worker.py"),
}


def install_command(extra: str) -> str:
    """Return the pip command that installs an optional part, such as `boosting`.

    A checkout has a file for it; an installed package names the packages, since pip could not find
    its own name in a registry.
    """
    if (FOLDER / f"{extra}.txt").is_file():
        return f"pip install -r requirements/{extra}.txt"
    mark = f"extra == '{extra}'"
    packages = [line.partition(";")[0].strip() for line in _listed() if mark in line]
    return "pip install " + " ".join(f"'{package}'" for package in packages)


def required_packages() -> list[str]:
    """Return the requirements of every command, such as `numpy>=2.0`."""
    file = ROOT / "requirements.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else _listed()
    return [line for line in lines if not line.startswith("#") and "extra ==" not in line]


def program_version() -> str:
    """Return the version: of the checkout that this file lies in, or of the installed package."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return version(DISTRIBUTION)


def _listed() -> list[str]:
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
