"""Measure an evaluation at full size: 752,803 slices of 21,744 studies, with all intervals.

    python benchmarks/evaluation.py [--rows 752803]

The rows are those of `benchmarks/ensemble.py`, with headers for groups; the probabilities are out
of fold. evaluate.py scores them with a rule, a triage and a prevalence, and writes metrics.json,
report and model card; no pixels are at hand. Seconds are those of the clock, beside them those of
the processor; memory is the peak of the process. Ends with one line of JSON; status 3 above LIMITS.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.special import logit

from benchmarks.ensemble import NUM_FOLDS, SEED, made_up_slices, peak_mb
from benchmarks.figures import print_figures
from common.cli import run_script
from common.errors import CheckFailed
from common.experiment import FORMAT_VERSION, Experiment
from common.files import write_json
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SLICE_COLUMNS, SliceTable
from common.tables import write_parquet
from config import Config
from flags.evaluation import EvaluationConfig
from rsna.evaluation.deciding import Deciding
from rsna.evaluation.evaluation import evaluate_experiment
from rsna_task import LABEL_WEIGHTS, LABELS

DATASET = "large"
LIMITS = {"cpu_s": 180.0, "peak_mb": 6000.0}
HEADERS: dict[str, Sequence[str] | Sequence[float]] = {
    "kvp": [100.0, 120.0, 140.0],
    "manufacturer": list("ABC"),
    "kernel": list("abcdefgh"),
    "sex": ["F", "M"],
    "age_decade": range(20, 100, 10),
    "slice_thickness": [1, 5],
}


def make_experiment(root: Path, num_rows: int) -> Experiment:
    """Write a dataset, and an experiment of all folds that has predicted it; no weights."""
    rng, frame = np.random.default_rng(SEED), made_up_slices(num_rows, SEED)
    codes, ids = frame["series_id"].factorize()
    rank = frame.groupby("series_id").cumcount()
    frame = frame.assign(status="ok", split="train", label_source="slices", store_index=rank)
    frame = frame.assign(store_file=frame["series_id"] + ".b2nd", rank=rank, position_mm=5.0 * rank)
    for name, values in HEADERS.items():
        frame[name] = rng.choice(values, len(ids))[codes]
    frame = frame.astype({name: kind for name, kind in SLICE_COLUMNS.items() if name in frame})
    frame = frame.assign(**{name: None for name in SLICE_COLUMNS if name not in frame})
    write_parquet(root / "datasets" / DATASET / "slices.parquet", frame)
    folder = root / "results" / "0001"
    flags = {"data_dataset": DATASET, "data_input_folder": str(root), "data_fold": "all"}
    labels = frame[list(LABELS)].to_numpy(dtype=np.float64)
    prior = labels.mean(axis=0)
    noise = rng.normal(0, 1, labels.shape) + rng.normal(0, 1, (len(ids), 1))[codes]
    table = build_predictions(frame, logit(prior) + 3 * labels + noise, LABELS, 0, "0001")
    table["fold"] = frame["patient_id"].factorize()[0] % NUM_FOLDS
    write_predictions(
        folder / "predictions" / "oof.parquet", table.astype({"fold": "Int64"}), LABELS
    )
    (folder / "config.yaml").write_text(Config().with_flags(**flags).to_yaml())
    info: dict[str, Any] = {"format_version": FORMAT_VERSION, "kind": "folds", "threshold": 0.5}
    info |= {
        "label_names": LABELS,
        "label_weights": LABEL_WEIGHTS,
        "calibration": None,
        "model": {},
    }
    info |= {"prior": dict(zip(LABELS, prior)), "calibration": None}
    info["training"] = {"dataset": DATASET, "fold": "all"}
    (folder / "predictor").mkdir()
    write_json(folder / "predictor" / "predictor.json", info)
    return Experiment(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=752_803)
    asked = EvaluationConfig(ev_rule="sensitivity:0.95", ev_error=0.05, ev_prevalence=0.1)
    with tempfile.TemporaryDirectory() as name:
        experiment = make_experiment(Path(name), parser.parse_args().rows)
        start, start_cpu = time.perf_counter(), time.process_time()
        table = SliceTable.load(Path(name) / "datasets" / DATASET)
        found = evaluate_experiment(experiment.folder, table, Deciding.from_flags(asked))
        figures = {
            "num_slices": found.metrics["num_slices"],
            "num_studies": found.metrics["num_studies"],
            "wall_s": round(time.perf_counter() - start, 1),
            "cpu_s": round(time.process_time() - start_cpu, 1),
            "peak_mb": round(peak_mb()),
        }
    print_figures(figures)
    if missed := [name for name, limit in LIMITS.items() if figures[name] > limit]:
        raise CheckFailed(missed)


if __name__ == "__main__":
    run_script(main)
