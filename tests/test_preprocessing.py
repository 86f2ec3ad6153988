"""preprocessing.py as users run it: statuses, last line, and what a kill leaves behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import warm
from prepared import contents, prepare_dicom, write_rsna_folder, write_series_files

NUM_SERIES = 40


def command(project_root: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(project_root / "preprocessing.py"), *map(str, arguments)]


def run(project_root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return warm.run([project_root / "preprocessing.py", *arguments])


def flags(tmp_path: Path, source: str = "dicom") -> list[object]:
    return ["--pre_source", source, "--pre_folder", tmp_path / "in", "--data_dataset", "x",
            "--data_input_folder", tmp_path / "input"]  # fmt: skip


@pytest.fixture
def many_series(tmp_path: Path) -> Path:
    for number in range(NUM_SERIES):
        write_series_files(tmp_path / "in", f"1.{number}", num_slices=8, size=64)
    return tmp_path


def num_records(dataset: Path) -> int:
    return len(list((dataset / "index" / "series").glob("*.json")))


def start_and_wait(project_root: Path, tmp_path: Path, moment: str) -> subprocess.Popen[str]:
    """Start the script and return when it reads headers, or when some series are stored."""
    dataset = tmp_path / "input" / "datasets" / "x"
    process = subprocess.Popen(
        command(project_root, *flags(tmp_path), "--n_jobs", 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if moment == "headers" and (dataset / "manifest.json").exists():
            break
        if moment == "pixels" and num_records(dataset) >= 3:
            break
        time.sleep(0.002)
    return process


def children_of(pid: int) -> list[int]:
    """Return the child processes where /proc tells them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("moment", [pytest.param("headers", marks=pytest.mark.long), "pixels"])
def test_a_killed_run_goes_on_to_the_same_dataset(
    moment: str, project_root: Path, many_series: Path
) -> None:
    dataset = many_series / "input" / "datasets" / "x"
    process = start_and_wait(project_root, many_series, moment)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # The kill fell between start and end.
    assert (dataset / "manifest.json").exists()
    assert not (dataset / "slices.parquet").exists()
    assert num_records(dataset) < NUM_SERIES
    if moment == "pixels":
        assert num_records(dataset) >= 3
        assert children or not Path("/proc").exists()

    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)

    prepare_dicom(many_series / "in", dataset)
    prepare_dicom(many_series / "in", many_series / "input" / "datasets" / "uninterrupted")
    whole = contents(many_series / "input" / "datasets" / "uninterrupted")
    assert contents(dataset) == whole


@pytest.mark.parametrize(
    ("number", "status"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)],
)
def test_a_signal_stops_with_the_command_that_goes_on(
    number: int, status: int, project_root: Path, many_series: Path
) -> None:
    process = start_and_wait(project_root, many_series, "pixels")
    # The terminal sends SIGINT to all processes; others send SIGTERM to the one they know.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "To go on: python" in stderr
    assert "Traceback" not in stderr
    assert num_records(many_series / "input" / "datasets" / "x") < NUM_SERIES


def test_the_challenge_end_to_end(project_root: Path, tmp_path: Path) -> None:
    write_rsna_folder(tmp_path / "in")
    (tmp_path / "in" / "stage_2_test" / "broken.dcm").write_bytes(b"nothing")
    result = run(project_root, *flags(tmp_path, "rsna"), "--pre_num_folds", 2, "--n_jobs", 0)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.endswith("read 16 files, stored 15 slices in 5 series, rejected 1 (1 not_dicom)")
    assert "differs from that of all slices by at most" in result.stdout
    assert "Traceback" not in result.stderr
    # Patients stay in the dataset folder.
    assert "ID_study" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--pre_source", "dicom"], "--pre_folder"),
        (["--pre_source", "dicom", "--pre_folder", "/nowhere"], "/nowhere"),
        (["--pre_source", "nothing"], "--pre_source"),
    ],
)
def test_unusable_flags_are_one_line_and_status_2(
    arguments: list[str], word: str, project_root: Path, tmp_path: Path
) -> None:
    result = run(project_root, *arguments, "--data_input_folder", tmp_path / "input")
    assert result.returncode == 2
    assert word in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "input").exists()


def test_nothing_usable_is_status_2(project_root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(np.zeros(500, np.uint8).tobytes())
    result = run(project_root, *flags(tmp_path), "--n_jobs", 0)
    assert result.returncode == 2
    assert "1 not_dicom" in result.stderr
