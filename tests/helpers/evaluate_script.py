"""An experiment as training leaves it, and evaluate.py over it."""

import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from predictor_factory import make_dataset, make_predictor

import evaluate
from common.cli import status_of
from common.scoring.metrics import training_prior
from common.scoring.predictions import build_predictions, write_predictions
from config import Config
from rsna_model import RSNAModel
from rsna_task import LABELS


def make_experiment(root: Path) -> Path:
    """An experiment on dataset `own` beside a dataset `other`, as training leaves it."""
    shutil.copytree(_made().name, root, dirs_exist_ok=True)
    folder = root / "output" / "results" / "0001"
    place = {"data_dataset": "own", "data_input_folder": str(root / "input")}
    config = Config().with_flags(**place, mlflow_enabled=0)  # seconds of a start
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


@functools.cache
def _made() -> tempfile.TemporaryDirectory[str]:
    """Return a folder, made once, with all but the flags, which name the folder."""
    made = tempfile.TemporaryDirectory()
    root = Path(made.name)
    own = make_dataset(root / "input" / "datasets" / "own", num_patients=6)
    make_dataset(root / "input" / "datasets" / "other", num_patients=4)
    folder = root / "output" / "results" / "0001"
    folder.mkdir(parents=True)
    lines = [{"iteration": 10, "train_loss": 0.6}, {"iteration": 10, "valid_auc.any": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    network = RSNAModel("test_resnet")
    labels = own.labels(np.arange(len(own)), LABELS)
    make_predictor(
        network=network,
        model=network.specification,
        prior=training_prior(labels),
        training={"dataset": "own", "fold": 0, "iterations": 10},
    ).save(folder / "predictor")
    rows = np.flatnonzero(own.readable)
    rng = np.random.default_rng(0)
    for name, noise in (("valid", 3.0), ("valid_best", 1.0)):
        logits = 4 * labels[rows] - 2 + rng.normal(0, noise, (len(rows), len(LABELS)))
        frame = build_predictions(own.frame.iloc[rows], logits, LABELS, 0, "0001")
        write_predictions(folder / "predictions" / f"{name}.parquet", frame, LABELS)
    return made


def run_evaluate(monkeypatch, experiment: Path, *more: str) -> int:
    output = experiment.parent.parent
    arguments = ["--experiment_id", experiment.name, "--output_dir", str(output), *more]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--n_jobs", "0", *arguments])
    return status_of(evaluate.main)
