"""Measure the cost of tables as large as those of RSNA 2019: folds, index, dataset object.

    python benchmarks/index.py [--rows 752803] [--repeats 5]

The rows are made up: ids, geometry and shares of the labels like those of the challenge, no
pixels. Each figure is the median of as many processes as `--repeats` says, so that one does not
warm up the next; memory is what the process holds more after a step than before it, with the
libraries already imported. Seconds are those of the clock, beside them (`_cpu_s`) those of the
processor, which other work on the machine changes less. Ends with one line of JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from common.files import write_parquet  # noqa: E402
from common.preparation.fold_making import fold_report, make_folds, make_split  # noqa: E402
from common.slices.table import SLICE_COLUMNS, SLICES_FILE  # noqa: E402
from rsna_task import LABELS, SUBTYPES  # noqa: E402

# Of the 752,803 training slices: 18,938 patients, 21,744 series.
SLICES_PER_SERIES = 752_803 / 21_744
SERIES_PER_PATIENT = 21_744 / 18_938
# Share of the series that have a label, and of their slices that do (domain knowledge of RSNA
# 2019: 0.42, 4.8, 3.5, 4.7 and 6.3 % of the slices).
SERIES_SHARE = dict(zip(SUBTYPES, (0.016, 0.224, 0.162, 0.162, 0.163)))
SLICE_SHARE = dict(zip(SUBTYPES, (0.26, 0.214, 0.215, 0.29, 0.384)))
LIMITS = {"folds_s": 60.0, "load_s": 2.0, "load_mb": 500.0, "dataset_s": 1.0}
NUM_FOLDS, SEED = 5, 4667


def made_up_slices(num_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return a table of slices in the order that preparing writes them."""
    rng = np.random.default_rng(seed)
    num_series = max(2 * NUM_FOLDS, round(num_rows / SLICES_PER_SERIES))
    num_patients = max(2 * NUM_FOLDS, round(num_series / SERIES_PER_PATIENT))
    patient_of = np.sort(np.r_[np.arange(num_patients), rng.integers(
        0, num_patients, max(0, num_series - num_patients))])  # fmt: skip
    series = np.sort(np.r_[np.arange(len(patient_of)), rng.integers(
        0, len(patient_of), num_rows - len(patient_of))])  # fmt: skip
    sizes = np.bincount(series)
    rank = np.arange(num_rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    labels = {}
    for name in SUBTYPES:
        has_it = rng.random(len(sizes)) < SERIES_SHARE[name]
        share = rng.beta(1.5, 1.5 / SLICE_SHARE[name] - 1.5, len(sizes)) * has_it
        labels[name] = (rng.random(num_rows) < share[series]).astype(np.float32)
    labels["any"] = np.max(list(labels.values()), axis=0)
    image_ids = _hex_ids("ID_", num_rows, 9)
    stored = {
        "image_id": image_ids,
        "patient_id": _hex_ids("ID_", num_patients, 8)[patient_of[series]],
        "study_id": _hex_ids("ID_", len(sizes), 10)[series],
        "series_id": _hex_ids("ID_", len(sizes), 10)[series],
        "split": "train",
        "source_file": "stage_2_train/" + pd.Series(image_ids) + ".dcm",
        "status": "ok",
        "position_mm": rank * 5.0 + 0.123,
        "rank": rank,
        "num_slices": sizes[series],
        "store_file": (pd.Series(_hex_ids("", len(sizes), 24)) + ".b2nd").to_numpy()[series],
        "store_index": rank,
        "rows": 512,
        "columns": 512,
        "spacing_row": 0.488281,
        "spacing_column": 0.488281,
        "tilt_deg": np.round(rng.uniform(0, 25, len(sizes)), 3)[series],
        "bits_stored": 16,
        "pixel_representation": 1,
        "rescale_slope": 1.0,
        "rescale_intercept": -1024.0,
        "window_center": 30.0,
        "window_width": 80.0,
        "hu_min": -1024,
        "hu_max": rng.integers(100, 3071, num_rows),
        "hu_mean": np.round(rng.normal(-500, 100, num_rows), 3),
        "brain_fraction": np.round(rng.uniform(0, 0.4, num_rows), 6),
        "num_padding": rng.integers(0, 60_000, num_rows),
        "keep_for_training": True,
        "label_source": "slices",
    }
    frame = pd.DataFrame(dict.fromkeys(SLICE_COLUMNS) | stored | labels, index=range(num_rows))
    return frame.astype(SLICE_COLUMNS)[[*SLICE_COLUMNS, *LABELS]]


def _hex_ids(prefix: str, count: int, digits: int) -> np.ndarray:
    """Return scattered ids of hexadecimal digits, each once."""
    numbers = (np.arange(count, dtype=object) * 0x9E3779B97F4A7C15F39CC0605) % (1 << 4 * digits)
    return np.array([f"{prefix}{number:0{digits}x}" for number in numbers], dtype=object)


def measure(step: str, folder: Path) -> dict[str, float]:
    """Run one step in this process; return seconds and megabytes by name."""
    found: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        before, start, start_cpu = resident_mb(), time.perf_counter(), time.process_time()
        result = function()
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_cpu_s"] = time.process_time() - start_cpu
        found[f"{name}_mb"] = resident_mb() - before
        return result

    if step in ("folds", "split"):
        import iterstrat.ml_stratifiers  # noqa: F401

        frame = pd.read_parquet(folder / SLICES_FILE)
        make, of = (make_folds, NUM_FOLDS) if step == "folds" else (make_split, 0.1)
        folds = timed(step, lambda: make(frame, LABELS, of, SEED))
        found[f"{step}_deviation"] = fold_report(folds, frame, LABELS)[1]
        if step == "folds":
            folds.to_csv(folder / "folds.csv", index=False)
        return found
    from common.slices.folds import folds_path, read_folds, split_rows
    from common.slices.table import SliceTable
    from common.transforms import load_transform
    from rsna_dataset import RSNADataset

    transform = load_transform(ROOT / "transforms" / "valid_small.json")
    pd.read_parquet(folder / "warm.parquet")
    table = timed("load", lambda: SliceTable.load(folder))
    found["load_peak_mb"] = peak_mb()
    given = timed("read_folds", lambda: read_folds(folds_path(folder, 0)))
    train_rows, _ = timed("split_rows", lambda: split_rows(table, given, 0, LABELS))
    dataset = timed("dataset", lambda: RSNADataset(table, train_rows, transform))
    assert len(dataset) == len(train_rows)
    return found


def run_step(step: str, folder: Path) -> dict[str, float]:
    """Run `measure` in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def resident_mb() -> float:
    """Return the memory that this process holds, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("no VmHWM in /proc/self/status")


def compare(num_rows: int, repeats: int) -> dict[str, Any]:
    """Return the medians of all steps, each in processes of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = made_up_slices(num_rows)
        write_parquet(folder / SLICES_FILE, frame)
        write_parquet(folder / "warm.parquet", frame.head(1))
        figures: dict[str, Any] = {"rows": num_rows, "num_patients": frame.patient_id.nunique()}
        for step in ("folds", "split", "load"):
            runs = []
            for _ in range(repeats if step == "load" else 1):
                runs.append(run_step(step, folder))
            for key in runs[0]:
                figures[key] = round(statistics.median(run[key] for run in runs), 4)
    return figures


def main() -> None:
    """Print the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=752_803)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure(arguments.step, arguments.folder)))
        return
    figures = compare(arguments.rows, arguments.repeats)
    for name, value in figures.items():
        limit = f"(at most {LIMITS[name]:g})" if name in LIMITS else ""
        print(f"{name:<20}{value:>12} {limit}".rstrip())
    missed = [name for name, limit in LIMITS.items() if figures[name] > limit]
    print(f"limits missed: {', '.join(missed) or 'none'}")
    print(json.dumps({**figures, "limits_missed": missed}))


if __name__ == "__main__":
    main()
