"""Compare preparing DICOM with reading, decoding and compressing it and nothing else.

    python benchmarks/preprocess.py [--folder <folder with one DICOM series>] [--num_series 30]
                                    [--baseline <checkout of another commit>]

The bound is pydicom's header pass, pydicom's pixels and one Blosc2 array per series, as plain loops
in the same process. Preparing adds checks, Hounsfield units, order, measures, checksums, records
and tables. Processor time is compared, so that other work on the machine does not matter much: the
median over rounds of the ratio of neighbours, which alternate. The last line is JSON:

    slices_per_second   prepared by one process, by its processor time
    fraction_of_bound   rate of preparing / rate of the bound; at least 0.8 passes
    ratio_vs_reread     rate of reading the store, checksums included / rate of decoding the files
    ratio_vs_baseline   processor time of preparing here / in the other checkout, each in a process
                        of its own that has warmed up, median of interleaved pairs; at most 1.05
                        passes; null without --baseline
    speedup_2_workers   wall time with 1 process / with 2, started beforehand, median of
                        interleaved pairs; at least 1.6 passes; null with --num_pairs 0

Wall times say little on a machine with other work: run the pairs on one that is idle.
"""

import argparse
import contextlib
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import blosc2  # noqa: E402
import numpy as np  # noqa: E402
import pydicom  # noqa: E402

from benchmarks.figures import print_figures  # noqa: E402
from common.cli import run_script  # noqa: E402
from common.dicom import quiet_pydicom  # noqa: E402
from common.errors import InputError  # noqa: E402
from common.preparation import prepare_dataset  # noqa: E402
from common.preparation.workers.runner import TaskRunner  # noqa: E402
from common.slices.table import SliceTable  # noqa: E402
from rsna.sources.dicom import DicomSource  # noqa: E402

LEAST_FRACTION = 0.8
LEAST_SPEEDUP = 1.6
MOST_VS_BASELINE = 1.05
TIMED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from common.preparation import prepare_dataset
from rsna.sources.dicom import DicomSource
for number in range(3):
    start = time.process_time()
    prepare_dataset(DicomSource(Path(sys.argv[2])), Path(sys.argv[3]) / str(number), n_jobs=0)
    print(time.process_time() - start)
"""


def main() -> int:
    """Print a table and a line of JSON; the exit status is 0 where both bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared/data/ge_head")
    parser.add_argument("--num_series", type=int, default=30)
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--num_pairs", type=int, default=3)
    parser.add_argument("--baseline", type=Path)
    arguments = parser.parse_args()
    if not any(arguments.folder.glob("*")):
        raise InputError(f"--folder {arguments.folder}: no files there: name a DICOM series")
    quiet_pydicom()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        num_slices = copy_series(arguments.folder, work / "in", arguments.num_series)
        found = one_process(work, num_slices, arguments.num_rounds)
        ratio = versus(arguments.baseline, work, arguments.num_rounds)
        speedup = two_processes(work, num_slices, arguments.num_pairs)
    print(
        f"{num_slices} slices in {arguments.num_series} series, ms of processor per slice, median"
    )
    for what in ("bound", "prepare", "reread", "store"):
        print(f"{what:10}{found[what]:8.2f}")
    figures = {
        "slices_per_second": 1000 / found["prepare"],
        "fraction_of_bound": found["fraction"],
        "ratio_vs_reread": found["reread"] / found["store"],
        "ratio_vs_baseline": ratio,
        "speedup_2_workers": speedup,
    }
    print_figures({k: v if v is None else round(v, 3) for k, v in figures.items()})
    too_slow = speedup is not None and speedup < LEAST_SPEEDUP
    too_slow |= ratio is not None and ratio > MOST_VS_BASELINE
    return int(found["fraction"] < LEAST_FRACTION or too_slow)


def one_process(work: Path, num_slices: int, num_rounds: int) -> dict[str, float]:
    """Return ms of processor per slice of each way, and the median ratio of bound to preparing."""
    target = work / "out"
    ways: dict[str, Callable[[], object]] = {
        "bound": lambda: read_decode_compress(work / "in"),
        "prepare": lambda: prepare(work / "in", target),
        "store": lambda: read_store(target),
        "reread": lambda: decode(work / "in"),
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds + 1):
        shutil.rmtree(target, ignore_errors=True)
        for name, way in ways.items():
            cost = cpu_ms(way, num_slices)
            if number:  # the first round warms up
                costs[name].append(cost)
    ratios = [bound / made for bound, made in zip(costs["bound"], costs["prepare"])]
    found = {name: statistics.median(values) for name, values in costs.items()}
    return found | {"fraction": statistics.median(ratios)}


def versus(baseline: Path | None, work: Path, num_rounds: int) -> float | None:
    """Return processor time of preparing here, divided by that in another checkout."""
    if baseline is None:
        return None
    ratios = []
    for _ in range(num_rounds):
        seconds = []
        for checkout in (ROOT, baseline):
            shutil.rmtree(work / "versus", ignore_errors=True)
            folders = map(str, (checkout, work / "in", work / "versus"))
            command = [sys.executable, "-c", TIMED, *folders]
            done = subprocess.run(command, cwd=checkout, capture_output=True, check=True)
            _, *times = map(float, done.stdout.split())  # the first warms up
            seconds.append(min(times))
        ratios.append(seconds[0] / seconds[1])
        print(f"s of processor here and in the baseline: {seconds[0]:.3f} and {seconds[1]:.3f}")
    return statistics.median(ratios)


def two_processes(work: Path, num_slices: int, num_pairs: int) -> float | None:
    """Return how many times faster 2 processes are than 1: the median of interleaved pairs."""
    if num_pairs == 0:
        return None
    speedups = []
    with TaskRunner(1) as one, TaskRunner(2) as two:
        for number in range(num_pairs + 1):
            seconds = []
            for runner in (one, two):
                target = work / "pair"
                shutil.rmtree(target, ignore_errors=True)
                start = time.perf_counter()
                prepare(work / "in", target, runner)
                seconds.append(time.perf_counter() - start)
            if number:  # the first pair starts the processes and their imports
                speedups.append(seconds[0] / seconds[1])
                rates = " and ".join(f"{num_slices / value:.0f}" for value in seconds)
                print(f"slices/s with 1 and 2 processes: {rates}")
    return statistics.median(speedups)


def copy_series(folder: Path, target: Path, num_series: int) -> int:
    """Write copies of the series in `folder` with ids of their own; return all slices."""
    num_slices = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        dataset = pydicom.dcmread(file)
        for number in range(num_series):
            dataset.SOPInstanceUID = f"1.2.{number}.{num_slices}"
            dataset.SeriesInstanceUID = dataset.StudyInstanceUID = f"1.2.{number}"
            path = target / str(number) / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path)
            num_slices += 1
    return num_slices


def read_decode_compress(folder: Path) -> None:
    """Read all headers, then decode and compress series by series."""
    folders = sorted(folder.iterdir())
    for series in folders:
        for file in sorted(series.iterdir()):
            pydicom.dcmread(file, stop_before_pixels=True)
    for series in folders:
        stored = np.stack([pydicom.dcmread(file).pixel_array for file in sorted(series.iterdir())])
        array = blosc2.asarray(
            stored.astype(np.int16),
            chunks=(1, *stored.shape[1:]),
            blocks=(1, *stored.shape[1:]),
            cparams={
                "codec": blosc2.Codec.LZ4HC,
                "clevel": 1,
                "filters": [blosc2.Filter.SHUFFLE],
                "nthreads": 1,
            },
        )
        with tempfile.NamedTemporaryFile() as written:
            written.write(array.to_cframe())


def decode(folder: Path) -> None:
    for series in sorted(folder.iterdir()):
        for file in sorted(series.iterdir()):
            pydicom.dcmread(file).pixel_array  # noqa: B018


def read_store(dataset: Path) -> None:
    table = SliceTable.load(dataset)
    for row in np.flatnonzero(table.readable):
        table.image_hu(int(row))


def prepare(folder: Path, target: Path, runner: TaskRunner | None = None) -> None:
    """Prepare the folder; its progress is not shown."""
    with contextlib.redirect_stderr(io.StringIO()):
        prepare_dataset(DicomSource(folder), target, n_jobs=0, runner=runner)


def cpu_ms(function: Callable[[], object], num_slices: int) -> float:
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start) / num_slices


if __name__ == "__main__":
    run_script(lambda: sys.exit(main()))
