"""The package: its lists of requirements agree, and its wheel works outside the checkout."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prepared import write_series_files
from tiny_dataset import make_tiny_dataset
from train_script import FLAGS

from common.requirements import EXTRAS


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
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for lines in extras for line in lines)]
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


def run(
    command: Path, folder: Path, *arguments: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*(before or [command]), *arguments],
        cwd=folder,
        env={**kept, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder outside the checkout; modules are not taken from it though they have our names."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "common").mkdir()
    for name in ("common/__init__.py", "config.py", "train.py"):
        (folder / name).write_text("raise SystemExit('the module of the user')")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    return folder


@pytest.mark.long
def test_the_wheel_knows_its_version_and_what_is_missing(
    installed: Path, place: Path, project: dict
) -> None:
    found = run(installed, place, "--version")
    assert (found.returncode, found.stdout) == (0, f"ich {project['version']}\n")
    found = run(installed, place, "doctor")
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "Ready."), found.stdout
    assert "pip install 'kaggle<3,>=2'" in found.stdout
    found = run(installed, place, "train", "--data_dataset", "none")
    assert found.returncode == 2
    assert "ich prepare" in found.stderr.splitlines()[-1]


@pytest.mark.long
def test_the_wheel_prepares_with_workers(installed: Path, place: Path, tmp_path: Path) -> None:
    write_series_files(tmp_path / "scans", num_slices=6)
    flags = ["--pre_source", "dicom", "--pre_folder", str(tmp_path / "scans")]
    found = run(installed, place, "prepare", *flags, "--data_dataset", "own", "--n_jobs", "2")
    assert found.returncode == 0, found.stderr
    table = pd.read_parquet(place / "input" / "datasets" / "own" / "slices.parquet")
    assert list(table["status"]) == ["ok"] * 6


@pytest.mark.long
def test_the_wheel_prepares_on_dask_workers(installed: Path, place: Path, tmp_path: Path) -> None:
    write_series_files(tmp_path / "scans", num_slices=6)
    (package,) = installed.parents[1].glob("lib/python3*/site-packages/ich")
    python = installed.parent / "python"
    code = (
        "import subprocess, sys\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c:\n"
        "        command = [*sys.argv[1:], '--pre_address', c.scheduler_address]\n"
        "        sys.exit(subprocess.run(command).returncode)\n"
    )
    (tmp_path / "cluster.py").write_text(code)
    flags = ["--pre_source", "dicom", "--pre_folder", str(tmp_path / "scans")]
    found = run(
        *(installed, place, str(installed), "prepare", *flags, "--data_dataset", "by_dask"),
        before=(str(python), str(tmp_path / "cluster.py")),
        PYTHONPATH=str(package),
    )
    assert found.returncode == 0, found.stderr
    table = pd.read_parquet(place / "input" / "datasets" / "by_dask" / "slices.parquet")
    assert list(table["status"]) == ["ok"] * 6


@pytest.mark.long
def test_the_wheel_trains_evaluates_and_predicts(
    installed: Path, place: Path, tmp_path: Path
) -> None:
    found = run(installed, place, "demo", *FLAGS, "--n_jobs", "2")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("0001\n")
    results = place / "output" / "results" / "0001"
    assert (results / "report.html").is_file()
    assert "ich predict --experiment_id 0001" in found.stdout
    write_series_files(tmp_path / "scans", num_slices=6, size=24)
    flags = ["--pr_input", str(tmp_path / "scans"), "--pr_output", str(tmp_path / "out")]
    found = run(installed, place, "predict", "--experiment_id", "0001", *flags, "--n_jobs", "2")
    assert found.returncode == 0, found.stderr
    assert len(pd.read_parquet(tmp_path / "out" / "predictions.parquet")) == 6


@pytest.mark.long
def test_torchrun_starts_the_wheel(installed: Path, place: Path) -> None:
    python = str(installed.parent / "python")
    torchrun = (python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    found = run(
        *(installed, place, "-m", "ich", "train", *FLAGS, "--n_jobs", "1"),
        *("--experiment_id", "two", "--tr_batch_size", "4"),
        before=torchrun,
    )
    assert (found.returncode, found.stdout) == (0, "two\n"), found.stderr


@pytest.mark.long
def test_a_stopped_demo_hands_the_signal_on(installed: Path, place: Path) -> None:
    flags = [*FLAGS, "--tr_iteration_num", "100000", "--experiment_id", "stopped"]
    process = subprocess.Popen(
        [installed, "demo", *flags], cwd=place, stderr=subprocess.PIPE, text=True
    )
    metrics = place / "output" / "results" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "ich train --experiment_id stopped --tr_resume 1" in err.splitlines()[-1]


@pytest.mark.long
def test_a_folder_that_cannot_be_written_is_named_in_one_line(installed: Path, place: Path) -> None:
    flags = ["train", *FLAGS, "--output_dir", "/proc/output", "--n_jobs", "0"]
    found = run(installed, place, *flags)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("error: ")
    assert "/proc/output" in found.stderr.splitlines()[-1]
