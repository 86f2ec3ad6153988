"""Slice experiments of all folds as a training leaves them, without training: random networks."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from feature_files import write_features

from common.files import write_text
from common.predictors.base import PredictOptions
from common.predictors.slices import SlicePredictor
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.folds import read_folds
from common.slices.leakage import folds_digest
from common.slices.table import SliceTable
from config import Config
from rsna_dataset import find_transform
from rsna_model import RSNAModel
from rsna_task import CHALLENGE, Task


def make_slice_experiment(
    place: Path,
    name: str,
    dataset: str,
    seed: int = 0,
    model: str = "test_efficientnet",
    task: Task = CHALLENGE,
) -> Path:
    """Write an experiment of all folds of a dataset, with features; returns its folder."""
    dataset_folder = place / "input" / "datasets" / dataset
    folder = place / "output" / "results" / name
    table, folds = SliceTable.load(dataset_folder), read_folds(dataset_folder / "folds.csv")
    labels = task.label_names
    config = Config().with_flags(
        data_dataset=dataset, net_model=model, data_fold="all", net_num_classes=len(labels)
    )
    write_text(folder / "config.yaml", config.to_yaml())
    parts, blocks = [], []
    for fold in sorted(folds["fold"].unique()):
        predictor = slice_predictor(dataset, int(fold), seed, model, folds_digest(folds), task)
        predictor.save(folder / f"fold_{fold}" / "predictor")
        rows = table.rows_of(folds.loc[folds["fold"] == fold, "image_id"])
        found = predictor.predict_rows(table, rows, PredictOptions(with_features=True))
        assert found.features is not None
        frame = table.frame.iloc[rows]
        parts.append(build_predictions(frame, found.logits, labels, int(fold), name))
        blocks.append((frame["image_id"].to_numpy(), found.features, int(fold), "plain"))
    write_predictions(folder / "predictions" / "oof.parquet", pd.concat(parts), labels)
    manifest = {"experiment": name, "dataset": dataset, "folds_sha256": folds_digest(folds)}
    write_features(folder / "features", "oof", blocks, manifest)
    predictor.save(folder / "predictor")
    return folder


def slice_predictor(
    dataset: str, fold: int, seed: int, model: str, digest: str, task: Task = CHALLENGE
) -> SlicePredictor:
    """A predictor of one fold with random weights of its own."""
    torch.manual_seed(100 * seed + fold)
    network = RSNAModel(model, len(task.label_names))
    with torch.no_grad():  # untrained logits would be all but equal
        network.classifier.weight.mul_(100)
    network.eval()
    return SlicePredictor(
        network=network,
        model=network.specification,
        label_names=task.label_names,
        label_weights=task.label_weights,
        transform=find_transform("x", "valid_small", 32, network.mean, network.std),
        prior=np.full(len(task.label_names), 0.2),
        training={"dataset": dataset, "fold": fold, "folds_sha256": digest, "experiment_id": "x"},
    )
