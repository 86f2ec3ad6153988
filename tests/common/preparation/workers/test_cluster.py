"""The same preprocessing on a Dask cluster: a real scheduler, and workers of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client
from prepared import contents, write_series_files

from common.errors import InputError
from common.preparation import DecodedImage, DicomReader, Limits, prepare_dataset
from common.preparation.workers import cluster
from rsna.sources.dicom import DicomSource


class Scheduler:
    """`dask scheduler` and its workers, started as a user does."""

    def __init__(self, project_root: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.root = project_root
        self.processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.start(
            "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"
        )

        self.wait_until_it_listens()

    def wait_until_it_listens(self) -> None:
        port, deadline = int(self.address.rpartition(":")[2]), time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    return
        raise AssertionError("no scheduler")

    def start(self, what: str, *arguments: str, path: str | None = None) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        tests = Path(__file__).parent
        found = [self.root, self.root / "tests" / "helpers", tests] if path is None else [path]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, found))
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", what, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def worker(self, path: str | None = None) -> subprocess.Popen[bytes]:
        arguments = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
        return self.start("worker", self.address, *arguments, path=path)

    def close(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def scheduler(project_root: Path, tmp_path: Path) -> Iterator[Scheduler]:
    started = Scheduler(project_root, tmp_path / "scratch")
    yield started
    started.close()


class DyingReader(DicomReader):
    """Kills the worker as by kill -9 at a slice of series 1.2, once; 1.3 crashes, 1.4 hangs."""

    def read_pixels(self, source_file: str) -> DecodedImage:
        died = self.folder.parent / "died"
        if source_file == "1.2-2.dcm" and not died.exists():
            died.write_text(str(os.getppid()))
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if source_file == "1.3-2.dcm":
            os.abort()
        if source_file == "1.4-2.dcm":
            time.sleep(3600)
        return super().read_pixels(source_file)


class DyingSource(DicomSource):
    @property
    def reader(self) -> DicomReader:
        return DyingReader(self.folder)


def test_nothing_at_the_address_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    write_series_files(tmp_path / "in")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            prepare_dataset(
                DicomSource(tmp_path / "in"), tmp_path / "out", n_jobs=0, address=address
            )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_a_worker_may_lack_is_told() -> None:
    here = {
        "host": "here",
        "code": {"common": "a"},
        "versions": {"Python": "3.11", "pydicom": "3.0.2"},
        "source": True,
        "dataset": True,
    }
    assert list(cluster._problems(here, here)) == []
    there = here | {
        "host": "far",
        "code": {"common": None},
        "versions": {"Python": "3.12", "pydicom": None},
        "source": False,
        "dataset": False,
    }
    problems = " ".join(cluster._problems(here, there))
    for words in (
        "the worker on far has no package common: start it with PYTHONPATH=",
        "has 3.12 for Python 3.11",
        "has nothing for pydicom 3.0.2",
        "mount --pre_folder",
        "share it",
    ):
        assert words in problems
    other = " ".join(cluster._problems(here, here | {"code": {"common": "b"}}))
    assert "other code in common" in other


@pytest.mark.long
def test_a_cluster_makes_the_same_dataset_though_a_worker_is_killed(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 120)
    for number in range(8):
        write_series_files(tmp_path / "in", f"1.{number}")
    for _ in range(2):
        scheduler.worker()
    with Client(scheduler.address) as client:
        client.wait_for_workers(2, timeout=120)
    source, limits = DyingSource(tmp_path / "in"), Limits(seconds=10, memory_mb=2000)
    prepared = prepare_dataset(
        source, tmp_path / "out", n_jobs=0, address=scheduler.address, limits=limits
    )
    assert (prepared.num_slices, prepared.rejected) == (24, {"crashed": 4, "timeout": 4})
    # A worker was killed, and it was none of the processes of this test.
    died = int((tmp_path / "died").read_text())
    assert died != os.getpid()
    assert not psutil.pid_exists(died)
    prepare_dataset(source, tmp_path / "local", n_jobs=1, limits=limits)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@pytest.mark.long
def test_the_script_on_a_cluster_and_workers_that_lack_something(
    scheduler: Scheduler, project_root: Path, tmp_path: Path
) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        flags = {
            "pre_source": "dicom",
            "pre_folder": tmp_path / "in",
            "data_dataset": "x",
            "data_input_folder": tmp_path / "input",
            "pre_address": scheduler.address,
        }
        command = [sys.executable, str(project_root / "preprocessing.py")]
        command += [f"--{name}={value}" for name, value in flags.items()]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    write_series_files(tmp_path / "in")
    result = run()
    assert result.returncode == 2
    assert "has no workers" in result.stderr
    bare = scheduler.worker(path="/nowhere")
    result = run()
    assert result.returncode == 2
    assert "has no package common: start it with PYTHONPATH=" in result.stderr
    assert "Traceback" not in result.stderr
    bare.terminate()
    bare.wait()
    scheduler.worker()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (result := run()).returncode != 0:
        continue
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("stored 4 slices in 1 series, rejected 0\n")
