"""The package: its lists of requirements agree, and its wheel works outside the checkout."""

import os
import re
import signal
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.checkpoint import load_checkpoint
from common.requirements import EXTRAS
from scripts import ich

TINY = [
    *("--net_model", "test_efficientnet", "--net_pretrained", "0", "--data_img_size", "32"),
    *("--mlflow_enabled", "0", "--dev_enabled", "1", "--dev_iteration_num", "3"),
]


@pytest.fixture(scope="module")
def project(project_root: Path) -> dict:
    return tomllib.loads((project_root / "pyproject.toml").read_text())["project"]


def listed(path: Path) -> set[str]:
    """The packages of a requirements file, those of the files it names included."""
    found: set[str] = set()
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            found |= listed(path.parent / line[3:]) - {path.name}
        elif not line.startswith("#"):
            found.add(line)
    return found


def test_pyproject_and_requirements_files_list_the_same(project_root: Path, project: dict) -> None:
    needed = set(project["dependencies"])
    assert listed(project_root / "requirements.txt") == needed
    extras = project["optional-dependencies"]
    folder = project_root / "requirements"
    assert {path.stem for path in folder.glob("*.txt")} - {"lock"} == set(extras)
    for name, packages in extras.items():
        wanted = {p for p in packages if not p.startswith(project["name"])}
        for other in re.findall(r"\w+", "".join(p for p in packages if p not in wanted)):
            wanted |= set(extras.get(other, ()))
        assert listed(folder / f"{name}.txt") - needed == wanted, name
    for extra, (package, _) in EXTRAS.items():
        assert package in {Requirement(line).name for line in extras[extra]}


def test_the_lock_has_every_package_at_a_version_that_is_allowed(
    project_root: Path, project: dict
) -> None:
    lines = (project_root / "requirements" / "lock.txt").read_text().splitlines()
    locked = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.!+]+( ; .+)?", line) for line in locked)
    assert not [line for line in lines if "://" in line or "+cpu" in line or "+cu" in line]
    pins = [Requirement(line) for line in locked]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    for python in ("3.11", "3.12", "3.13"):
        here = {"python_version": python, "python_full_version": f"{python}.1"}
        here |= {"sys_platform": "linux", "platform_machine": "x86_64"}
        versions = {
            canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
            for pin in pins
            if pin.marker is None or pin.marker.evaluate(here)
        }
        for requirement in map(Requirement, wanted):
            if requirement.name != project["name"]:
                version = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), requirement


def test_the_readme_names_the_locked_torch(project_root: Path) -> None:
    lock = (project_root / "requirements" / "lock.txt").read_text()
    locked = re.findall(r"^(?:torch|torchvision)==[\d.]+$", lock, re.MULTILINE)
    assert len(locked) == 2
    readme = (project_root / "README.md").read_text()
    assert f"pip install {' '.join(locked)} --index-url" in readme


@pytest.fixture(scope="module")
def installed(project_root: Path, tmp_path_factory) -> Path:
    """The command of the wheel in an environment of its own, which borrows only packages."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    environment = folder / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python3*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "borrowed.pth").write_text(ours)
    subprocess.run([sys.executable, "-m", "pip", *build, str(project_root)], check=True)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    assert {path.name for path in packages.iterdir() if path.is_dir()} == {
        "ich",
        f"{wheel.name.partition('-py3')[0]}.dist-info",
    }
    return environment / "bin" / "ich"


def run(command: Path, folder: Path, *arguments: str, **options):
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*options.pop("before", [command]), *arguments],
        cwd=folder,
        env={**kept, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


@pytest.mark.long
def test_the_wheel_from_data_to_prediction_in_an_empty_folder(
    installed: Path, tmp_path: Path, ct_folder: Path
) -> None:
    # A folder with names of ours in it: modules are taken from the package, not from here.
    (tmp_path / "common").mkdir()
    (tmp_path / "config.py").write_text("raise SystemExit('not this one')")
    found = run(installed, tmp_path, "--version")
    assert (found.returncode, found.stdout) == (0, "ich 0.1.0\n")
    prepare = ["--pre_source", "dicom", "--pre_folder", str(ct_folder), "--data_dataset", "own"]
    found = run(installed, tmp_path, "prepare", *prepare, "--n_jobs", "2")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "input" / "datasets" / "own" / "slices.parquet").is_file()
