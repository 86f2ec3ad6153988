"""A large dataset of small slices, made up and prepared in one go: rate and peak memory.

    python benchmarks/preprocess_100k.py [--num_slices 100000] [--n_jobs 2] [--work <folder>]

Series of 32 slices of 16 x 16 pixels in the layout of the RSNA challenge, with labels and folds; a
tenth of the slices has blood. What is measured is what slices cost beside their pixels: files,
headers, order, records, tables, folds. The memory of a run with a tenth of the slices is shown
beside it: what they differ by is the table. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.filebase import DicomBytesIO  # noqa: E402
from pydicom.filewriter import dcmwrite  # noqa: E402
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from rsna_task import LABELS  # noqa: E402

SLICES_PER_SERIES = 32
SIZE = 16
WATCH_S = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_slices", type=int, default=100_000)
    parser.add_argument("--n_jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, help="an empty folder; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        peak_mb: float | None = None
        for num_slices in (max(1, arguments.num_slices // 10), arguments.num_slices):
            work = Path(name) / str(num_slices)
            start = time.perf_counter()
            write_challenge(work / "in", num_slices)
            print(f"{num_slices} slices written in {time.perf_counter() - start:.0f} s", flush=True)
            found = measure(work, num_slices, arguments.n_jobs)
            print(json.dumps({**found, "peak_rss_mb_of_a_tenth": peak_mb}), flush=True)
            peak_mb = found["peak_rss_mb"]
    return 0


def measure(work: Path, num_slices: int, n_jobs: int) -> dict[str, float]:
    """Run preprocessing.py over `work / in`, and again; return rates, times and memory."""
    flags = {
        "pre_source": "rsna",
        "pre_folder": work / "in",
        "data_dataset": "many",
        "data_input_folder": work,
        "n_jobs": n_jobs,
    }
    command = [sys.executable, str(ROOT / "preprocessing.py")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    first = run(command, work)
    again = run(command, work)
    return {
        "num_slices": num_slices,
        "slices_per_second": round(num_slices / first["seconds"], 1),
        "seconds": round(first["seconds"], 1),
        "seconds_again": round(again["seconds"], 1),
        "peak_rss_mb": round(first["peak_mb"], 1),
        "peak_rss_mb_processes": round(first["peak_others_mb"], 1),
    }


def run(command: list[str], work: Path) -> dict[str, float]:
    """Run a command; return its wall time and the peak memory of it and of its processes."""
    import psutil

    start = time.perf_counter()
    with open(work / "log.txt", "a") as log:
        process = subprocess.Popen(
            command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=work
        )
        watched, main_mb, others_mb = psutil.Process(process.pid), 0.0, 0.0
        while process.poll() is None:
            time.sleep(WATCH_S)
            try:
                main_mb = max(main_mb, watched.memory_info().rss / 1e6)
                children = watched.children(recursive=True)
                others_mb = max([others_mb, *(c.memory_info().rss / 1e6 for c in children)])
            except psutil.NoSuchProcess:
                continue
    if process.returncode != 0:
        raise SystemExit((work / "log.txt").read_text()[-2000:])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": main_mb, "peak_others_mb": others_mb}


def write_challenge(folder: Path, num_slices: int) -> None:
    """Write `num_slices` files and their labels as the RSNA challenge has them.

    Files are copies of one in which ids, position and pixels are put in at their places.
    """
    rng = np.random.default_rng(4667)
    template = _template()
    places = {key: template.index(key) for key in (b"ID_IMAGE____", b"ID_PATIENT__")}
    places |= {key: template.index(key) for key in (b"ID_STUDY____", b"ID_SERIES___", b"POSITION")}
    target = folder / "stage_2_train"
    target.mkdir(parents=True)
    rows = ["ID,Label"]
    for number in range(num_slices):
        series, index = divmod(number, SLICES_PER_SERIES)
        data = bytearray(template)
        values = {
            b"ID_IMAGE____": f"ID_{number:09d}",
            b"ID_PATIENT__": f"ID_P{series // 2:08d}",
            b"ID_STUDY____": f"ID_T{series:08d}",
            b"ID_SERIES___": f"ID_S{series:08d}",
            b"POSITION": f"{5 * index:08.2f}",
        }
        for key, value in values.items():
            data[places[key] : places[key] + len(key)] = value.encode()
        data[-2 * SIZE * SIZE :] = rng.integers(0, 2000, SIZE * SIZE, dtype=np.int16).tobytes()
        (target / f"ID_{number:09d}.dcm").write_bytes(data)
        has_blood = rng.random() < 0.1
        subtypes = rng.integers(0, 2, len(LABELS) - 1) if has_blood else [0] * (len(LABELS) - 1)
        labels = [*map(int, subtypes), int(max(subtypes))]
        rows += [f"ID_{number:09d}_{name},{label}" for name, label in zip(LABELS, labels)]
    (folder / "stage_2_train.csv").write_text("\n".join(rows) + "\n")


def _template() -> bytes:
    """Return a file whose ids and position are texts to be replaced by others as long."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    values = {
        "Modality": "CT",
        "PatientID": "ID_PATIENT__",
        "SOPInstanceUID": "ID_IMAGE____",
        "StudyInstanceUID": "ID_STUDY____",
        "SeriesInstanceUID": "ID_SERIES___",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SIZE,
        "Columns": SIZE,
        "PixelSpacing": [0.5, 0.5],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "WindowCenter": 30,
        "WindowWidth": 80,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.ImagePositionPatient = ["-125", "-125", "88888888"]
    dataset.PixelData = bytes(2 * SIZE * SIZE)
    dataset["PixelData"].VR = "OW"
    buffer = DicomBytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    data = buffer.getvalue()
    if data[128:132] != b"DICM":
        data = bytes(128) + b"DICM" + data
    return data.replace(b"88888888", b"POSITION")


if __name__ == "__main__":
    sys.exit(main())
