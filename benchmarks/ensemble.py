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

from benchmarks.index import made_up_slices, peak_mb  # noqa: E402
from common.scoring.predictions import build_predictions, write_predictions  # noqa: E402
from common.slices.folds import is_in  # noqa: E402
from rsna_task import LABEL_WEIGHTS, LABELS  # noqa: E402

LIMITS = {
    "submission_s": 120.0,
    "submission_peak_mb": 4096.0,
    "weights_s": 600.0,
    "weights_peak_mb": 8192.0,
}
NUM_FOLDS, SEED = 5, 4667


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


def run_step(step: str, folder: Path, num_members: int) -> dict[str, Any]:
    """Run `measure` in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--members", str(num_members)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(num_test: int, num_rows: int, num_members: int) -> dict[str, Any]:
    """Return the figures of both steps."""
    figures: dict[str, Any] = {"members": num_members}
    for step, size in (("submission", num_test), ("weights", num_rows)):
        with tempfile.TemporaryDirectory() as name:
            make_tables(Path(name), size, num_members, SEED)
            figures |= run_step(step, Path(name), num_members)
    missed = [name for name, limit in LIMITS.items() if figures[name] > limit]
    return {**figures, "limits_missed": missed}


def main() -> None:
    """Print the table and the line of JSON."""
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
