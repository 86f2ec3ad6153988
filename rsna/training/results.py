"""What one of all folds leaves for the levels above: features, and predictions of test rows."""

import logging
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.experiment import Experiment
from common.features.store import FEATURES_FOLDER, FeatureWriter, writing_features
from common.predictors.base import AbstractPredictor, RowLogits
from common.predictors.extraction import extract
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from config import Config
from rsna_dataset import limit_studies

logger = logging.getLogger(__name__)

TEST_SPLIT = "test"


def extract_rows(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    config: Config,
    device: torch.device,
    writer: FeatureWriter | None = None,
    what: str = "validation",
) -> RowLogits:
    """Returns the mean logits of rows over the views that the flags name; see `extract`."""
    views, fold = config.views, config.data.data_fold
    assert isinstance(fold, int)
    total = len(rows) * len(views.names)
    with tqdm(total=total, unit="slice", desc=f"{what} rows, fold {fold}") as bar:
        return extract(
            predictor,
            table,
            rows,
            views=views.names,
            mean=views.pr_tta_mean,
            writer=writer,
            fold=fold,
            on_block=bar.update,
            batch_size=config.training.tr_batch_size_valid,
            num_workers=config.general.n_jobs,
            seed=config.general.seed,
            device=device,
        )


def write_oof_features(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    config: Config,
    experiment: Experiment,
    device: torch.device,
) -> RowLogits:
    """Writes features/oof.* of the validation rows of a fold, and returns their mean logits."""
    folder = experiment.folder / FEATURES_FOLDER
    with writing_features(folder, "oof", feature_manifest(predictor, experiment)) as writer:
        return extract_rows(predictor, table, rows, config, device, writer)


def write_test_outputs(
    predictor: AbstractPredictor,
    table: SliceTable,
    config: Config,
    experiment: Experiment,
    device: torch.device,
) -> None:
    """Writes predictions/test.parquet, and features/test.* where wanted; nothing without test rows.

    What can't be read has the prior, and no features.
    """
    rows = test_rows(table)
    if config.general.dev_enabled:
        rows = limit_studies(table, rows, config.general.dev_num_studies, config.general.seed)
    if not table.readable[rows].any():
        return
    if config.training.tr_features and predictor.gives_features:
        folder = experiment.folder / FEATURES_FOLDER
        with writing_features(folder, "test", feature_manifest(predictor, experiment)) as writer:
            result = extract_rows(predictor, table, rows, config, device, writer, "test")
    else:
        result = extract_rows(predictor, table, rows, config, device, what="test")
    fold = config.data.data_fold
    assert isinstance(fold, int)
    frame = build_predictions(
        table.frame.iloc[rows], result.logits, predictor.label_names, fold, experiment.id
    )
    write_predictions(experiment.predictions / "test.parquet", frame, predictor.label_names)


def test_rows(table: SliceTable) -> np.ndarray:
    """Returns a row for each image of the split `test`, a readable one where there is one."""
    order = np.argsort(~table.readable, kind="stable")
    frame = table.frame[["image_id", "split"]].iloc[order]
    chosen = frame["split"].eq(TEST_SPLIT) & frame["image_id"].notna()
    chosen &= ~frame["image_id"].duplicated()
    return np.sort(order[chosen.to_numpy(dtype=bool)])


def feature_manifest(predictor: AbstractPredictor, experiment: Experiment) -> dict[str, Any]:
    """Returns what features/manifest.json says beside their width and views."""
    training = predictor.training
    return {
        "experiment": experiment.id,
        "dataset": training.get("dataset"),
        "folds_sha256": training.get("folds_sha256"),
    }
