"""The tables, features and predictor of all folds, made of those that each fold has left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.experiment import PREDICTOR_FOLDER, Experiment
from common.features.store import FEATURES_FOLDER, FeatureTable, writing_features
from common.predictors.base import AbstractPredictor
from common.predictors.folds import FoldsPredictor
from common.predictors.loading import load_predictor
from common.scoring.predictions import (
    Mean,
    build_predictions,
    mean_logits,
    read_predictions,
    write_predictions,
)
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.leakage import require_unseen_features
from config import Config
from rsna_model import build_model

# Rows of features that are copied at once.
_BLOCK_ROWS = 16384


def assemble(experiment: Experiment, folds: Sequence[int], config: Config) -> None:
    """Writes predictions, features and predictor of an experiment whose folds are all trained.

    Raises:
        InputError: a fold lacks its files, or has predicted patients that it was trained on.
    """
    folders = {fold: experiment.folder / f"fold_{fold}" for fold in folds}
    members = {
        fold: load_predictor(folder / PREDICTOR_FOLDER, build_model)
        for fold, folder in folders.items()
    }
    mean = config.views.pr_tta_mean
    predictor = FoldsPredictor(members, mean=mean, training=_origin(experiment, members))
    _write_oof(experiment, folders, members, config, "valid", "oof")
    _write_oof(experiment, folders, members, config, "valid_best", "oof_best")
    _write_test(experiment, folders, predictor)
    for name in ("oof", "test"):
        _join_features(experiment, folders, predictor, name)
    predictor.save(experiment.folder / PREDICTOR_FOLDER)


def _origin(experiment: Experiment, members: dict[int, AbstractPredictor]) -> dict[str, Any]:
    """What is known of the training of all members, with their folds' in place of one's."""
    first = next(iter(members.values())).training
    return {**first, "experiment_id": experiment.id, "fold": "all"}


def _write_oof(
    experiment: Experiment,
    folders: dict[int, Path],
    members: dict[int, AbstractPredictor],
    config: Config,
    source: str,
    name: str,
) -> None:
    """Joins predictions/<source>.parquet of the folds; nothing where a fold has none."""
    paths = {fold: folder / "predictions" / f"{source}.parquet" for fold, folder in folders.items()}
    if source != "valid" and not all(path.is_file() for path in paths.values()):
        return
    labels = next(iter(members.values())).label_names
    table = read_folds(config.dataset_folder / FOLDS_FILE)
    frames = []
    for fold, path in paths.items():
        frame = read_predictions(path, labels)
        digest = members[fold].training.get("folds_sha256")
        what = f"predictions of {experiment.id}/fold_{fold}"
        require_unseen_features(what, frame["image_id"], frame["fold"], digest, table)
        frames.append(frame)
    joined = pd.concat(frames, ignore_index=True).assign(experiment_id=experiment.id)
    write_predictions(experiment.predictions / f"{name}.parquet", joined, labels)


def _write_test(
    experiment: Experiment, folders: dict[int, Path], predictor: FoldsPredictor
) -> None:
    """Averages predictions/test.parquet over the folds; nothing where there are none."""
    paths = [folder / "predictions" / "test.parquet" for folder in folders.values()]
    if not all(path.is_file() for path in paths):
        return
    labels = predictor.label_names
    frames = [read_predictions(path, labels).set_index("image_id") for path in paths]
    first = frames[0]
    columns = [f"logit_{label}" for label in labels]
    logits: list[Any] = [frame[columns].loc[first.index].to_numpy() for frame in frames]
    mean: Mean = predictor.mean
    joined = build_predictions(
        first.reset_index(),
        mean_logits(logits, mean),
        labels,
        fold=None,
        experiment_id=experiment.id,
    )
    write_predictions(experiment.predictions / "test.parquet", joined, labels)


def _join_features(
    experiment: Experiment, folders: dict[int, Path], predictor: FoldsPredictor, name: str
) -> None:
    """Joins features/<name>.* of the folds; nothing where a fold has none."""
    places = [folder / FEATURES_FOLDER for folder in folders.values()]
    if not all((place / f"{name}.parquet").is_file() for place in places):
        return
    training = predictor.training
    manifest = {
        "experiment": experiment.id,
        "dataset": training.get("dataset"),
        "folds_sha256": training.get("folds_sha256"),
    }
    with writing_features(experiment.folder / FEATURES_FOLDER, name, manifest) as writer:
        for place in places:
            table = FeatureTable.load(place, name)
            frame = table.frame
            for start in range(0, len(frame), _BLOCK_ROWS):
                block = frame.iloc[start : start + _BLOCK_ROWS]
                values = table.read(block["row"].to_numpy())
                writer.append_rows(block, values.astype(np.float16))
