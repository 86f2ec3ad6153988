"""Measure blending at full size: a submission of ten members, and weights fitted on ten.

    python benchmarks/ensemble.py [--test 121232] [--rows 752803] [--members 10]

The tables are made up by a seeded generator: ids, folds and labels like those of the challenge,
members of different quality that err partly alike. Two steps, each in a process of its own:

    submission   ten test tables read, blended with weights per label, consistent, written as a
                 prediction table; the submission of 6 rows an image built, checked and written,
                 and read again to see that it is whole
    weights      ten out-of-fold tables read, weights per label under constraints and a temperature
                 fitted across five folds and on all rows, and the score

Seconds are those of the clock, beside them (`_cpu_s`) those of the processor, which other work on
the machine changes less; memory is the peak of the process. Ends with one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy.special import expit, logit  # noqa: E402

from common.scoring.predictions import build_predictions, write_predictions  # noqa: E402
from common.slices.folds import is_in  # noqa: E402
from rsna_task import LABEL_WEIGHTS, LABELS, SUBTYPES  # noqa: E402

# Of the 752,803 training slices: 18,938 patients, 21,744 series.
SLICES_PER_SERIES = 752_803 / 21_744
SERIES_PER_PATIENT = 21_744 / 18_938
# Share of the series that have a label, and of their slices that do (domain knowledge of RSNA
# 2019: 0.42, 4.8, 3.5, 4.7 and 6.3 % of the slices).
SERIES_SHARE = dict(zip(SUBTYPES, (0.016, 0.224, 0.162, 0.162, 0.163)))
SLICE_SHARE = dict(zip(SUBTYPES, (0.26, 0.214, 0.215, 0.29, 0.384)))
LIMITS = {
    "submission_s": 120.0,
    "submission_peak_mb": 4096.0,
    "weights_s": 600.0,
    "weights_peak_mb": 8192.0,
}
NUM_FOLDS, SEED = 5, 4667


def made_up_slices(num_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return ids and labels of slices in the order that preparing writes them."""
    rng = np.random.default_rng(seed)
    num_series = max(2 * NUM_FOLDS, round(num_rows / SLICES_PER_SERIES))
    num_patients = max(2 * NUM_FOLDS, round(num_series / SERIES_PER_PATIENT))
    patient_of = np.sort(np.r_[np.arange(num_patients), rng.integers(
        0, num_patients, max(0, num_series - num_patients))])  # fmt: skip
    series = np.sort(np.r_[np.arange(len(patient_of)), rng.integers(
        0, len(patient_of), num_rows - len(patient_of))])  # fmt: skip
    sizes = np.bincount(series)
    labels = {}
    for name in SUBTYPES:
        has_it = rng.random(len(sizes)) < SERIES_SHARE[name]
        share = rng.beta(1.5, 1.5 / SLICE_SHARE[name] - 1.5, len(sizes)) * has_it
        labels[name] = (rng.random(num_rows) < share[series]).astype(np.float32)
    labels["any"] = np.max(list(labels.values()), axis=0)
    ids = {
        "image_id": _hex_ids("ID_", num_rows, 9),
        "patient_id": _hex_ids("ID_", num_patients, 8)[patient_of[series]],
        "study_id": _hex_ids("ID_", len(sizes), 10)[series],
        "series_id": _hex_ids("ID_", len(sizes), 10)[series],
    }
    return pd.DataFrame(ids | labels)


def _hex_ids(prefix: str, count: int, digits: int) -> np.ndarray:
    """Return scattered ids of hexadecimal digits, each once."""
    numbers = (np.arange(count, dtype=object) * 0x9E3779B97F4A7C15F39CC0605) % (1 << 4 * digits)
    return np.array([f"{prefix}{number:0{digits}x}" for number in numbers], dtype=object)


def make_tables(folder: Path, num_rows: int, num_members: int, seed: int) -> None:
    """Write member_<i>.parquet, labels.npy and frame.parquet; members are of rising noise."""
    frame = made_up_slices(num_rows, seed)
    labels = frame[list(LABELS)].to_numpy(dtype=np.float64)
    np.save(folder / "labels.npy", labels)
    codes, _ = pd.factorize(frame["patient_id"])
    fold = codes % NUM_FOLDS
    prior = labels.mean(axis=0)
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 1.2, labels.shape)
    order = rng.permutation(num_rows)
    for number in range(num_members):
        own = rng.normal(0, 0.6 + 0.15 * number, labels.shape)
        logits = logit(prior) - 1 + 4.5 * labels + shared + own
        table = build_predictions(frame, logits, LABELS, 0, f"{number:04d}")
        table["fold"] = pd.array(fold, dtype="Int64")
        if number % 2:
            table = table.iloc[order]
        write_predictions(folder / f"member_{number}.parquet", table, LABELS)
    ids = frame["image_id"].to_numpy(dtype=object)
    names = np.array([f"{image}_{label}" for image in ids[order] for label in LABELS], dtype=object)
    pd.DataFrame({"ID": names, "Label": 0.5}).to_csv(folder / "sample.csv", index=False)


def measure(step: str, folder: Path, num_members: int) -> dict[str, Any]:
    """Run one step in this process; return seconds, peak memory and what shows that it worked."""
    import sklearn.linear_model  # noqa: F401

    start, start_cpu = time.perf_counter(), time.process_time()
    paths = [folder / f"member_{number}.parquet" for number in range(num_members)]
    found = _submission(folder, paths) if step == "submission" else _weights(folder, paths)
    return {
        f"{step}_s": round(time.perf_counter() - start, 2),
        f"{step}_cpu_s": round(time.process_time() - start_cpu, 2),
        f"{step}_peak_mb": round(peak_mb(), 1),
        **found,
    }


def _submission(folder: Path, paths: list[Path]) -> dict[str, Any]:
    from common.ensembling.blend_tables import read_members
    from common.ensembling.blending import Blender, BlendOptions
    from common.scoring.calibration import ConsistentCalibration
    from common.scoring.submission import build_submission, read_sample, write_submission

    sample = read_sample(folder / "sample.csv", LABELS)
    tables = read_members(paths, LABELS, all_rows=True)
    rng = np.random.default_rng(SEED)
    weights = rng.dirichlet(np.ones(len(paths)), len(LABELS))
    blender = Blender(BlendOptions("weights"), tuple(map(tuple, weights)), (0.0,) * len(LABELS))
    frame = build_predictions(
        tables.frame,
        blender.apply(tables.probabilities),
        LABELS,
        None,
        "blend",
        calibration=ConsistentCalibration(None),
    )
    write_predictions(folder / "test.parquet", frame, LABELS)
    submission, missing = build_submission(sample, frame, np.full(len(LABELS), 0.1), LABELS)
    write_submission(folder / "submission.csv", submission, sample)
    assert not missing
    written = pd.read_csv(folder / "submission.csv")
    assert is_in(written["ID"], pd.Series(sample.ids)).all() and len(written) == len(sample.ids)
    return {"submission_rows": len(written), "submission_images": len(sample.image_ids)}


def _weights(folder: Path, paths: list[Path]) -> dict[str, Any]:
    from common.ensembling.blend_tables import read_members
    from common.ensembling.blending import BlendOptions
    from common.ensembling.cross_fitting import BlendPlan, BlendRows, cross_fit, fit_blend
    from common.scoring.metrics import weighted_log_loss

    tables = read_members(paths, LABELS)
    labels = np.load(folder / "labels.npy")
    patients, studies = (
        tables.frame[name].to_numpy(dtype=object) for name in ("patient_id", "study_id")
    )
    rows = BlendRows(labels, tables.folds, patients, studies)
    plan = BlendPlan(BlendOptions("weights"), "temperature", consistent=True, studies=True)
    fitted = cross_fit(plan, tables.probabilities, rows)
    kept = fit_blend(plan, tables.probabilities, rows)
    best = min(weighted_log_loss(labels, p, LABEL_WEIGHTS) or 9 for p in tables.probabilities)
    score = weighted_log_loss(labels, expit(fitted.logits), LABEL_WEIGHTS)
    assert score is not None and score < best
    return {
        "weights_rows": len(labels),
        "weights_best_member": round(best, 5),
        "weights_score": round(score, 5),
        "weights_of_any": [round(weight, 3) for weight in kept.blender.weights[-1]],
    }


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("no VmHWM in /proc/self/status")


def run_step(step: str, folder: Path, num_members: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--members", str(num_members)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(num_test: int, num_rows: int, num_members: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"members": num_members}
    for step, size in (("submission", num_test), ("weights", num_rows)):
        with tempfile.TemporaryDirectory() as name:
            make_tables(Path(name), size, num_members, SEED)
            figures |= run_step(step, Path(name), num_members)
    missed = [name for name, limit in LIMITS.items() if figures[name] > limit]
    return {**figures, "limits_missed": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--test", type=int, default=121_232)
    parser.add_argument("--rows", type=int, default=752_803)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.step:
        print(json.dumps(measure(flags.step, flags.folder, flags.members)))
        return
    figures = run(flags.test, flags.rows, flags.members)
    for name, value in figures.items():
        limit = f"(at most {LIMITS[name]:g})" if name in LIMITS else ""
        print(f"{name:<24}{value!s:>14} {limit}".rstrip())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
