"""Join the tables, features and predictors of all folds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.experiment import Experiment
from common.features.store import FeatureTable, writing_features
from common.predictors.extraction import BLOCK_ROWS
from common.predictors.folds import FoldsPredictor
from common.predictors.loading import load_predictor
from common.scoring.predictions import (
    build_predictions,
    mean_logits,
    read_predictions,
    write_predictions,
)
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.leakage import require_unseen_features
from common.slices.table import SliceTable
from config import Config
from rsna.evaluation.drifting import keep_reference
from rsna.evaluation.model_card import write_card
from rsna.training.results import feature_manifest
from rsna_model import build_model


def assemble(experiment: Experiment, folds: Sequence[int], config: Config) -> None:
    """Write predictions, features and predictor of an experiment whose folds are all trained.

    Raises:
        InputError: a fold lacks its files, or has predicted patients that it was trained on.
    """
    parts = {fold: experiment.fold(fold) for fold in folds}
    members = {fold: load_predictor(part.predictor, build_model) for fold, part in parts.items()}
    training = {**members[folds[0]].training, "experiment_id": experiment.id, "fold": "all"}
    predictor = FoldsPredictor(members, mean=config.views.pr_tta_mean, training=training)
    for source, name in (("valid", "oof"), ("valid_best", "oof_best")):
        _write_oof(experiment, parts, predictor, config, source, name)
    _write_test(experiment, parts, predictor)
    for name in ("oof", "test"):
        _join_features(experiment, parts, predictor, name)
    predictor.save(experiment.predictor)
    table = SliceTable.load(config.dataset_folder)
    keep_reference(experiment, table)
    write_card(experiment, table, new=True)


def _write_oof(
    experiment: Experiment,
    parts: dict[int, Experiment],
    predictor: FoldsPredictor,
    config: Config,
    source: str,
    name: str,
) -> None:
    """Join predictions/<source>.parquet of the folds; nothing where a fold has none."""
    paths = {fold: part.predictions_file(source) for fold, part in parts.items()}
    if source != "valid" and not all(path.is_file() for path in paths.values()):
        return
    labels = predictor.label_names
    table = read_folds(config.dataset_folder / FOLDS_FILE)
    frames = []
    for fold, path in paths.items():
        frame = read_predictions(path, labels)
        digest = predictor.members[fold].training.get("folds_sha256")
        what = f"predictions of {experiment.id}/fold_{fold}"
        require_unseen_features(what, frame["image_id"], frame["fold"], digest, table)
        frames.append(frame)
    joined = pd.concat(frames, ignore_index=True).assign(experiment_id=experiment.id)
    write_predictions(experiment.predictions_file(name), joined, labels)


def _write_test(
    experiment: Experiment, parts: dict[int, Experiment], predictor: FoldsPredictor
) -> None:
    """Average predictions/test.parquet over the folds; nothing where there are none."""
    paths = [part.predictions_file("test") for part in parts.values()]
    if not all(path.is_file() for path in paths):
        return
    labels = predictor.label_names
    frames = [read_predictions(path, labels).set_index("image_id") for path in paths]
    first = frames[0]
    columns = [f"logit_{label}" for label in labels]
    logits = [frame[columns].loc[first.index].to_numpy() for frame in frames]
    mean = mean_logits(logits, predictor.mean)
    joined = build_predictions(first.reset_index(), mean, labels, None, experiment.id)
    write_predictions(experiment.predictions_file("test"), joined, labels)


def _join_features(
    experiment: Experiment, parts: dict[int, Experiment], predictor: FoldsPredictor, name: str
) -> None:
    """Join features/<name>.* of the folds; nothing where a fold has none."""
    if not all(part.features_file(name).is_file() for part in parts.values()):
        return
    manifest = feature_manifest(predictor, experiment)
    with writing_features(experiment.features, name, manifest) as writer:
        for part in parts.values():
            table = FeatureTable.load(part.features, name)
            for start in range(0, len(table.frame), BLOCK_ROWS):
                block = table.frame.iloc[start : start + BLOCK_ROWS]
                values = table.read(block["row"].to_numpy())
                writer.append_rows(block, values.astype(np.float16))
