"""What preparing costs and needs is told; a full disk, few open files and kills do no harm."""

import contextlib
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prepared import contents, prepare_dicom, write_series_files

import common.slices.store
from common.cli import status_of
from common.errors import InputError
from common.preparation import estimates, prepare_dataset
from rsna.sources.dicom import DicomSource

NUM_KILLS = 20


def write_many(folder: Path, num_series: int, **options: Any) -> None:
    for number in range(num_series):
        write_series_files(folder, f"1.{number}", **options)


def slices_of(num_slices: int, file_bytes: int) -> pd.DataFrame:
    return pd.DataFrame({"rows": [512], "columns": [512], "size": [file_bytes]}).loc[
        [0] * num_slices
    ]


def test_what_it_will_take_is_told_before_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_many(tmp_path / "in", 2)
    with caplog.at_level(logging.INFO):
        prepare_dicom(tmp_path / "in", tmp_path / "out")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("8 files of 0.0 MB. If they are plain CT: about 1 s with 1 process,")
    assert "are free), 250.0 MB of memory" in lines[0]
    assert any(line.startswith("storing 8 slices: about 1 s, about 0.0 MB") for line in lines)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert not caplog.records


def test_estimates_grow_with_the_work_and_shrink_with_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**12))
    with caplog.at_level(logging.INFO):
        estimates.log_estimates(pd.DataFrame({"size": [525_000] * 752_803}), 8, tmp_path)
        estimates.check_space(slices_of(10_000, 525_000), 1, tmp_path)
        estimates.check_space(slices_of(10_000, 150_000), 1, tmp_path)
        estimates.check_space(slices_of(10_000, 525_000), 2, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "752803 files of 395.2 GB. If they are plain CT: about 10 min with 8 processes, 165.2 GB "
        "of disk (1000.0 GB are free), 5.4 GB of memory",
        "storing 10000 slices: about 46 s, about 2.2 GB of disk, 1000.0 GB are free",
        "storing 10000 slices: about 2 min, about 2.2 GB of disk, 1000.0 GB are free",
        "storing 10000 slices: about 23 s, about 2.2 GB of disk, 1000.0 GB are free",
    ]


def test_too_small_a_disk_is_told_before_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**9))
    with pytest.raises(InputError, match=r"need about 2.2 GB of disk, 1.0 GB are free: free some"):
        estimates.check_space(slices_of(10_000, 525_000), 1, tmp_path)
    with caplog.at_level(logging.WARNING):
        estimates.check_space(slices_of(6_000, 525_000), 1, tmp_path)
        assert "may become full" in caplog.text
        caplog.clear()
        estimates.check_space(slices_of(3_000, 525_000), 1, tmp_path)
        assert not caplog.text


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_many(tmp_path / "in", 4)
    num_written = 0

    def write_or_fail(path: Path, data: bytes) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(common.slices.store, "write_bytes", write_or_fail)
        status = status_of(lambda: prepare_dicom(tmp_path / "in", tmp_path / "out") and None)
    assert status == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the disk is full (")
    assert error.endswith("free some space, then run the same command again")
    assert len(list((tmp_path / "out" / "index" / "series").iterdir())) == 2
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    prepare_dicom(tmp_path / "in", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.long
def test_the_script_on_a_disk_that_becomes_full(project_root: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "in", 40, num_slices=8, size=64)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=1600k tmpfs {disk} || exit 99
        prepare() {{
            {sys.executable} {project_root}/preprocessing.py --pre_source dicom --n_jobs 1 \
                --pre_folder {tmp_path}/in --data_dataset x --data_input_folder {disk}
            echo "status $?" >&2
        }}
        prepare
        mount -o remount,size=64m {disk} || exit 99
        prepare
        cp -r {disk}/datasets/x {tmp_path}/made
    """
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if result.returncode == 99 or "unshare" in result.stderr:
        pytest.skip("a small disk can't be mounted here")
    first, _, second = result.stderr.partition("status 2\n")
    assert "error: the disk is full (" in first.splitlines()[-1], result.stderr
    assert "Traceback" not in result.stderr
    assert second.endswith("status 0\n")
    prepare_dicom(tmp_path / "in", tmp_path / "whole")
    made, whole = contents(tmp_path / "made"), contents(tmp_path / "whole")
    # The script asks for folds, which the manifest tells; there are none without training slices.
    assert made.pop("manifest.json") != whole.pop("manifest.json")
    assert made == whole


@pytest.mark.long
def test_many_series_need_few_open_files(project_root: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "in", 150, num_slices=1)
    code = f"""
import resource, sys
from pathlib import Path
sys.path[:0] = {[str(project_root), str(project_root / "tests" / "helpers")]!r}
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from prepared import prepare_dicom
from common.slices.table import SliceTable
prepare_dicom(Path({str(tmp_path / "in")!r}), Path({str(tmp_path / "out")!r}))
table = SliceTable.load(Path({str(tmp_path / "out")!r}))
print(sum(table.image_hu(row).shape == (16, 16) for row in range(len(table))))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "150"


def prepare_and_tell(folder: Path, dataset: Path, begun: Event, ended: Event) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    begun.set()
    prepare_dataset(DicomSource(folder), dataset, n_jobs=0)
    ended.set()


@pytest.mark.long
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """kill -9, each strictly between beginning and end, in processes that are forked at once."""
    write_many(tmp_path / "in", 12, num_slices=6)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(dataset: Path) -> tuple[Any, Event]:
        begun, ended = context.Event(), context.Event()
        arguments = (tmp_path / "in", dataset, begun, ended)
        process = context.Process(target=prepare_and_tell, args=arguments)
        process.start()
        assert begun.wait(120)
        return process, ended

    seconds = []
    for number in range(2):  # the first is slower: its imports
        process, _ = start(tmp_path / f"whole{number}")
        begun_s = time.monotonic()
        process.join()
        seconds.append(time.monotonic() - begun_s)
        assert process.exitcode == 0
    whole = contents(tmp_path / "whole0")
    assert contents(tmp_path / "whole1") == whole

    rng = np.random.default_rng(4667)
    stages = []
    for number in range(20 * NUM_KILLS):
        dataset = tmp_path / f"killed{number}"
        process, ended = start(dataset)
        time.sleep(rng.uniform(0, seconds[-1]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0 or ended.is_set():
            continue  # too late: it had ended
        assert process.exitcode == -signal.SIGKILL
        num_records = len(list(dataset.glob("index/series/*.json")))
        stages.append((bool(list(dataset.glob("index/headers*"))), num_records))
        prepare_dicom(tmp_path / "in", dataset)
        assert contents(dataset) == whole
        if len(stages) == NUM_KILLS:
            break
    assert len(stages) == NUM_KILLS
    # They were spread: before the headers were kept, among the series, or behind them.
    assert len(set(stages)) >= 3
