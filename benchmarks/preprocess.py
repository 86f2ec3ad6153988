"""What preparing DICOM costs, against reading, decoding and compressing it and nothing else.

    python benchmarks/preprocess.py [--folder <folder with one DICOM series>] [--num_series 10]

The bare way is pydicom's header pass, pydicom's pixels and one Blosc2 array per series. Preparing
adds checks, Hounsfield units, order, measures, checksums, records and tables. Processor time of
one process is compared, so that other work on the machine does not matter much; the best of
`--num_rounds` rounds counts, which alternate. Passes at a ratio of at most 2.

With `--num_processes n` the wall time and the memory of `n` processes are shown as well.
"""

import argparse
import contextlib
import io
import resource
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

from common.dicom import quiet_pydicom  # noqa: E402
from common.preparation import prepare_dataset  # noqa: E402
from sources.dicom import DicomSource  # noqa: E402

LARGEST_RATIO = 2.0


def main() -> int:
    """Prints the ratio; the exit status is 0 where it is small enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared/data/ge_head")
    parser.add_argument("--num_series", type=int, default=10)
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--num_processes", type=int, default=0)
    arguments = parser.parse_args()
    quiet_pydicom()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        num_slices = copy_series(arguments.folder, work / "in", arguments.num_series)
        bare, prepared = [], []
        for number in range(arguments.num_rounds + 1):
            bare.append(cpu_ms(lambda: read_decode_compress(work / "in"), num_slices))
            target = work / f"out{number}"
            prepared.append(cpu_ms(lambda to=target: prepare(work / "in", to, 0), num_slices))
        ratio = min(prepared[1:]) / min(bare[1:])
        print(f"{num_slices} slices in {arguments.num_series} series, ms of processor per slice")
        print(f"read headers, decode, compress: {min(bare[1:]):.2f}")
        print(f"prepare:                        {min(prepared[1:]):.2f}")
        print(f"ratio {ratio:.2f}, allowed {LARGEST_RATIO}")
        if arguments.num_processes:
            start = time.perf_counter()
            prepare(work / "in", work / "many", arguments.num_processes)
            seconds = time.perf_counter() - start
            largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{arguments.num_processes} processes: {num_slices / seconds:.0f} slices/s with "
                f"their start, largest process {largest:.0f} MiB"
            )
    return int(ratio > LARGEST_RATIO)


def copy_series(folder: Path, target: Path, num_series: int) -> int:
    """Writes copies of the series in `folder` with ids of their own; returns all slices."""
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
    """Reads all headers, then decodes and compresses series by series."""
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
                "codec": blosc2.Codec.ZSTD,
                "clevel": 1,
                "filters": [blosc2.Filter.SHUFFLE],
                "nthreads": 1,
            },
        )
        with tempfile.NamedTemporaryFile() as file:
            file.write(array.to_cframe())


def prepare(folder: Path, target: Path, num_processes: int) -> None:
    """Prepares the folder; its progress is not shown."""
    with contextlib.redirect_stderr(io.StringIO()):
        prepare_dataset(DicomSource(folder), target, n_jobs=num_processes)


def cpu_ms(function: Callable[[], object], num_slices: int) -> float:
    """Returns the processor time of a call in ms per slice."""
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start) / num_slices


if __name__ == "__main__":
    sys.exit(main())
