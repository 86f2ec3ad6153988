import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from prepared import prepare_dicom, write_series_files
from task_functions import (
    abort_on_three,
    hold_memory,
    send_sigint_to_itself,
    square_or_fail,
    square_slowly,
)

from common.dicom import SliceHeader
from common.preparation import DecodedImage, DicomReader, prepare_dataset
from common.preparation.workers import local
from common.preparation.workers.limits import MEMORY, TIMEOUT, Limits
from common.preparation.workers.runner import _OWN, TaskRunner, _run_on_worker
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource


class CrashingReader(DicomReader):
    """Kills its process, as a codec does, on the second slice of series 1.2."""

    def read_pixels(self, source_file: str) -> DecodedImage:
        if source_file == "1.2-2.dcm":
            os.abort()
        return super().read_pixels(source_file)


class CrashingHeaderReader(DicomReader):
    """Kills its process on the header of one file."""

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        if source_file == "1.2-2.dcm":
            os.abort()
        return super().read_headers(source_file)


class CrashingSource(DicomSource):
    reader_class: type[DicomReader] = CrashingReader

    @property
    def reader(self) -> DicomReader:
        return self.reader_class(self.folder)


def test_in_this_process_every_task_has_its_outcome() -> None:
    with TaskRunner(0) as runner:
        outcomes = list(runner.stream(square_or_fail, [1, 2, 4]))
    assert [(outcome.task, outcome.result) for outcome in outcomes] == [(1, 1), (2, 4), (4, 16)]


def test_an_exception_of_a_task_is_raised() -> None:
    with TaskRunner(0) as runner, pytest.raises(ArithmeticError):
        list(runner.stream(square_or_fail, [1, 3]))


@pytest.fixture
def imports_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process imports nothing but what its tasks need."""
    monkeypatch.setattr(local, "IMPORTED_FIRST", "common")


@pytest.fixture
def memory_of_worker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The memory limit of the Dask worker that this process stands for."""
    memory = SimpleNamespace(memory_limit=None)
    worker = SimpleNamespace(memory_manager=memory)
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    return memory


def test_a_task_has_no_more_memory_than_its_worker(
    memory_of_worker: SimpleNamespace, imports_little: None
) -> None:
    memory_of_worker.memory_limit = 150_000_000
    for limits in (Limits(), Limits(memory_mb=4000)):  # not their excess: tried again
        assert _run_on_worker(hold_memory, 300 << 20, limits) == (None, None)
    assert _run_on_worker(hold_memory, 300 << 20, Limits(memory_mb=100)) == (None, MEMORY)
    memory_of_worker.memory_limit = 4_000_000_000
    assert _run_on_worker(hold_memory, 300 << 20, Limits()) == (300 << 20, None)
    _OWN.close()


@pytest.mark.usefixtures("memory_of_worker", "imports_little")
def test_what_kills_a_task_on_a_worker_leaves_the_worker_alive() -> None:
    assert _run_on_worker(abort_on_three, 2, Limits()) == (4, None)
    assert _run_on_worker(abort_on_three, 3, Limits()) == (None, None)
    assert _run_on_worker(square_slowly, 60.0, Limits(seconds=0.2)) == (None, TIMEOUT)
    with pytest.raises(ArithmeticError, match="three"):
        _run_on_worker(square_or_fail, 3, Limits())
    _OWN.close()


@pytest.mark.usefixtures("imports_little")
def test_sigint_is_left_to_the_process_that_started_the_others() -> None:
    with TaskRunner(1) as runner:
        outcomes = list(runner.stream(send_sigint_to_itself, [1, 3, 2]))
    # The process that replaces a dead one behaves the same.
    assert {outcome.task: outcome.result for outcome in outcomes} == {1: 1, 2: 2, 3: None}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_crashing_codec_costs_its_own_series(tmp_path: Path) -> None:
    images_hu = {name: write_series_files(tmp_path / "in", name) for name in ("1.1", "1.2", "1.3")}
    source = CrashingSource(tmp_path / "in")
    prepared = prepare_dataset(source, tmp_path / "out", n_jobs=1)
    frame = pd.read_parquet(tmp_path / "out" / "slices.parquet")
    assert prepared.rejected == {"crashed": 4}
    assert set(frame.loc[frame["status"] == "crashed", "series_id"]) == {"1.2"}
    table = SliceTable.load(tmp_path / "out")
    for name in ("1.1", "1.3"):
        rows = table.rows_of([f"{name}.{k}" for k in range(4)])
        images = np.stack([table.image_hu(int(row)) for row in rows])
        np.testing.assert_array_equal(images, images_hu[name])

    # With a codec that works, the next run makes up for it.
    prepared, _ = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert (prepared.num_slices, prepared.rejected) == (12, {})


@pytest.mark.long
def test_a_header_that_kills_costs_its_own_file(tmp_path: Path) -> None:
    for series in ("1.1", "1.2"):
        write_series_files(tmp_path / "in", series)
    source = CrashingSource(tmp_path / "in")
    source.reader_class = CrashingHeaderReader
    prepared = prepare_dataset(source, tmp_path / "out", n_jobs=1)
    assert (prepared.num_slices, prepared.rejected) == (7, {"crashed": 1})
    prepared, _ = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert (prepared.num_slices, prepared.rejected) == (8, {})


def test_processes_and_one_process_make_the_same_dataset(tmp_path: Path) -> None:
    for series in ("1.1", "1.2", "1.3"):
        write_series_files(tmp_path / "in", series)
    (tmp_path / "in" / "broken.dcm").write_bytes(bytes(200))
    _, alone = prepare_dicom(tmp_path / "in", tmp_path / "alone")
    _, together = prepare_dicom(tmp_path / "in", tmp_path / "together", n_jobs=2)
    pd.testing.assert_frame_equal(alone, together)
    for store_file in alone["store_file"].dropna().unique():
        paths = (tmp_path / name / "store" / store_file for name in ("alone", "together"))
        first, second = (path.read_bytes() for path in paths)
        assert first == second


@pytest.mark.long
def test_two_at_once_do_not_get_in_each_others_way(recwarn) -> None:
    with TaskRunner(1) as one, TaskRunner(1) as other:
        for runner in (one, other):
            assert sorted(out.result for out in runner.stream(abs, [-1, 2])) == [1, 2]
    assert not [warning for warning in recwarn if "8787" in str(warning.message)]
