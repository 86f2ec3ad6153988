"""Limits of time and memory per series: what exceeds them is killed alone, and stays so."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared import prepare_dicom, write_series_files

from common.dicom import SliceHeader
from common.preparation import DecodedImage, DicomReader, Limits, prepare_dataset
from common.preparation.headers import is_raised
from common.preparation.pixels import read_record, record_exceeding, series_tasks
from common.preparation.workers.limits import MEMORY, TIMEOUT
from common.preparation.workers.runner import TaskRunner
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource


@dataclass(frozen=True)
class HostileReader(DicomReader):
    """Hangs on a slice of series 1.1, and takes much memory on one of 1.2, with the lock held."""

    header: str = ""

    def read_headers(self, source_file: str) -> list[SliceHeader]:
        if source_file == self.header:
            hang()
        return super().read_headers(source_file)

    def read_pixels(self, source_file: str) -> DecodedImage:
        if source_file == "1.1-2.dcm":
            hang()
        if source_file == "1.2-2.dcm":
            swell()
        return super().read_pixels(source_file)


class HostileSource(DicomSource):
    header = ""

    @property
    def reader(self) -> DicomReader:
        return HostileReader(self.folder, sort_out=True, header=self.header)


def hang() -> None:
    while True:
        time.sleep(60)


def swell() -> None:
    held = []
    while True:
        held.append(np.ones(10_000_000))
        time.sleep(0.01)


def test_what_exceeded_a_limit_is_tried_again_only_if_that_is_raised(tmp_path: Path) -> None:
    assert is_raised(TIMEOUT, 10, Limits(11, 1))
    assert is_raised(MEMORY, 10, Limits(1, 0))
    assert not is_raised(TIMEOUT, 10, Limits(10, 99))
    assert not is_raised(MEMORY, 10, None)

    write_series_files(tmp_path / "in", "1.1")
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    headers = frame.assign(frame=-1, num_frames=1, size=1, mtime_ns=1)
    (task,) = series_tasks(headers, DicomReader(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out" / "store" / task.store_file).unlink()
    slices = record_exceeding(task, TIMEOUT, Limits(10, 5))
    assert {(result.status, result.reason) for result in slices} == {
        ("timeout", "storing the series took more than 10 s, the limit")
    }
    assert read_record(task, Limits(10, 99)) == slices
    assert read_record(task, None) == slices
    assert read_record(task, Limits(11, 5)) is None


def test_in_this_process_nothing_is_limited() -> None:
    assert TaskRunner(0, limits=Limits(1, 1)).limits is None
    limits = TaskRunner(1, limits=Limits(7, 0)).limits
    assert limits is not None
    assert limits.seconds == 7
    assert limits.memory_mb > 0


@pytest.mark.long
def test_a_series_that_exceeds_a_limit_costs_only_itself(tmp_path: Path) -> None:
    names = ("1.1", "1.2", "1.3", "1.4")
    images_hu = {name: write_series_files(tmp_path / "in", name) for name in names}
    source = HostileSource(tmp_path / "in")
    source.header = "1.4-1.dcm"
    limits = Limits(seconds=30, memory_mb=600)
    prepared = prepare_dataset(source, tmp_path / "out", n_jobs=2, limits=limits)
    assert prepared.rejected == {"timeout": 5, "memory": 4}
    frame = pd.read_parquet(tmp_path / "out" / "slices.parquet")
    reasons = {
        tuple(row) for row in frame.loc[frame["status"] != "ok", ["status", "reason"]].values
    }
    assert reasons == {
        ("timeout", "storing the series took more than 30 s, the limit"),
        ("memory", "storing the series took more than 600 MB of memory, the limit"),
        ("timeout", "reading the header took more than 30 s, the limit"),
    }
    table = SliceTable.load(tmp_path / "out")
    rows = table.rows_of([f"1.3.{k}" for k in range(4)])
    images = np.stack([table.image_hu(int(row)) for row in rows])
    np.testing.assert_array_equal(images, images_hu["1.3"])

    # The same again: nothing is tried, or this would hang, as it is done in this process.
    again = prepare_dataset(source, tmp_path / "out", n_jobs=0)
    assert again.rejected == prepared.rejected
    # A reader that works, and limits that are higher.
    source.header = ""
    mended = DicomSource(tmp_path / "in")
    kept = prepare_dataset(mended, tmp_path / "out", n_jobs=1, limits=limits)
    assert kept.rejected == prepared.rejected
    higher = Limits(seconds=600, memory_mb=0)
    prepared = prepare_dataset(mended, tmp_path / "out", n_jobs=1, limits=higher)
    assert (prepared.num_slices, prepared.rejected) == (16, {})
