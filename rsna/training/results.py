"""Results of a training: predictions, features, test outputs and the predictor."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.callbacks import LatestOutputs
from common.checkpoint import inference_weights, load_checkpoint
from common.experiment import Experiment
from common.features.store import FeatureWriter, writing_features
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.extraction import extract
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.leakage import STARTED_FROM, origins_of_weights
from common.slices.pixel_steps import PARAMETER, recorded_steps
from common.slices.table import SliceTable
from config import Config
from rsna.training.parts import TrainingParts
from rsna_dataset import limit_studies
from rsna_network import RSNANetwork

logger = logging.getLogger(__name__)

TEST_SPLIT = "test"


class ResultWriter:
    """Writes the results of a training to its experiment folder.

    Args:
        latest: the outputs of the last validation, which are not computed again.
    """

    def __init__(self, parts: TrainingParts, experiment: Experiment, latest: LatestOutputs) -> None:
        self.parts = parts
        self.config = parts.config
        self.processes = parts.settings.processes
        self.experiment = experiment
        self.latest = latest
        # By name of the table, the outputs of all views of the validation rows.
        self._of_views: dict[str, RowLogits] = {}

    def write(self, network: RSNANetwork, best_path: Path) -> None:
        """Write predictions of the last (averaged) and of the best weights, and the predictor.

        All processes call it together; the main one writes.
        """
        logger.info("predictions are of the %s weights", network.weights_name)
        origin = self._origin(network.state.iteration)
        with network.averaged():
            if self.config.is_one_of_all_folds:
                self.processes.from_main(lambda: self._write_fold_outputs(origin))
            self._write_predictions(network, "valid", network.state.iteration, origin)
            if self.processes.is_main:
                self.parts.predictor(origin).save(self.experiment.predictor)
        best = self.processes.from_main(
            lambda: load_checkpoint(best_path) if best_path.is_file() else None
        )
        if best is not None:
            self.parts.model.load_state_dict(inference_weights(best))
            self._write_predictions(network, "valid_best", best["iteration"], origin)

    def _write_predictions(
        self, network: RSNANetwork, name: str, iteration: int, origin: dict[str, Any]
    ) -> None:
        """Write predictions of the weights in place, those to predict with after `iteration`."""
        valid, fold = self.parts.data.valid, self.config.data.data_fold
        if len(self.config.views.names) > 1:
            logits = self.processes.from_main(lambda: self._logits_of_views(name, origin))
        else:
            if self.latest.iteration == iteration:
                outputs = self.latest.outputs
            else:
                outputs = network.predict(self.parts.valid_loader())
            assert np.array_equal(outputs["index"], np.arange(len(valid.rows)))
            logits = outputs["logits"]
        if not self.processes.is_main:
            return
        assert isinstance(fold, int)
        labels = self.parts.task.label_names
        rows = valid.table.frame.iloc[valid.rows]
        frame = build_predictions(rows, logits, labels, fold, self.experiment.id)
        write_predictions(self.experiment.predictions_file(name), frame, labels)

    def _logits_of_views(self, name: str, origin: dict[str, Any]) -> np.ndarray:
        """Return the mean logits of the validation rows over the views that the flags name."""
        if name not in self._of_views:
            valid, predictor = self.parts.data.valid, self.parts.predictor(origin)
            device = self.parts.settings.device
            self._of_views[name] = extract_rows(
                predictor, valid.table, valid.rows, self.config, device
            )
        result = self._of_views.pop(name)
        if result.unreadable.any():
            logger.warning("damaged slices that have the prior: %d", result.unreadable.sum())
        return result.logits

    def _write_fold_outputs(self, origin: dict[str, Any]) -> None:
        """Write features and test rows, for one of all folds.

        In the main process; the weights to predict with are in place.
        """
        predictor, device = self.parts.predictor(origin), self.parts.settings.device
        valid = self.parts.data.valid
        if self.config.training.tr_features and predictor.gives_features:
            self._of_views["valid"] = write_oof_features(
                predictor, valid.table, valid.rows, self.config, self.experiment, device
            )
        write_test_outputs(predictor, valid.table, self.config, self.experiment, device)

    def _origin(self, iteration: int) -> dict[str, Any]:
        folder = self.parts.data.train.table.folder
        return origin_of(
            self.config, self.experiment.id, iteration, self.parts.folds_sha256, folder
        )


def origin_of(
    config: Config, experiment_id: str, iteration: int, folds_sha256: str, dataset_folder: Path
) -> dict[str, Any]:
    """Return `training` of predictor.json: the origin of the weights."""
    start = config.network.net_weight_file
    return {
        "experiment_id": experiment_id,
        "dataset": config.data.data_dataset,
        "fold": config.data.data_fold,
        "folds_sha256": folds_sha256,
        "iterations": iteration,
        STARTED_FROM: origins_of_weights(Path(start)) if start else [],
        PARAMETER: recorded_steps(dataset_folder).parameters(),
    }


def extract_rows(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    config: Config,
    device: torch.device,
    writer: FeatureWriter | None = None,
    what: str = "validation",
) -> RowLogits:
    """Return the mean logits of rows over the views that the flags name; see `extract`."""
    views, fold = config.views, config.data.data_fold
    assert isinstance(fold, int)
    total = len(rows) * len(views.names)
    with tqdm(total=total, unit="slice", desc=f"{what} rows, fold {fold}") as bar:
        return extract(
            predictor,
            table,
            rows,
            PredictOptions(
                config.training.tr_batch_size_valid,
                config.general.n_jobs,
                views.names,
                views.pr_tta_mean,
                config.general.seed,
                device,
            ),
            writer=writer,
            fold=fold,
            on_block=bar.update,
        )


def write_oof_features(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    config: Config,
    experiment: Experiment,
    device: torch.device,
) -> RowLogits:
    """Write features/oof.* of the validation rows of a fold, and return their mean logits."""
    with writing_features(
        experiment.features, "oof", feature_manifest(predictor, experiment)
    ) as writer:
        return extract_rows(predictor, table, rows, config, device, writer)


def write_test_outputs(
    predictor: AbstractPredictor,
    table: SliceTable,
    config: Config,
    experiment: Experiment,
    device: torch.device,
) -> None:
    """Write predictions/test.parquet, and features/test.* if asked for; nothing without test rows.

    Unreadable slices have the prior, and no features.
    """
    rows = test_rows(table)
    if config.general.dev_enabled:
        rows = limit_studies(table, rows, config.general.dev_num_studies, config.general.seed)
    if not table.readable[rows].any():
        return
    if config.training.tr_features and predictor.gives_features:
        with writing_features(
            experiment.features, "test", feature_manifest(predictor, experiment)
        ) as writer:
            result = extract_rows(predictor, table, rows, config, device, writer, "test")
    else:
        result = extract_rows(predictor, table, rows, config, device, what="test")
    fold = config.data.data_fold
    assert isinstance(fold, int)
    frame = build_predictions(
        table.frame.iloc[rows], result.logits, predictor.label_names, fold, experiment.id
    )
    write_predictions(experiment.predictions_file("test"), frame, predictor.label_names)


def test_rows(table: SliceTable) -> np.ndarray:
    """Return a row for each image of the split `test`, a readable one where there is one."""
    order = np.argsort(~table.readable, kind="stable")
    frame = table.frame[["image_id", "split"]].iloc[order]
    chosen = frame["split"].eq(TEST_SPLIT) & frame["image_id"].notna()
    chosen &= ~frame["image_id"].duplicated()
    return np.sort(order[chosen.to_numpy(dtype=bool)])


def feature_manifest(predictor: AbstractPredictor, experiment: Experiment) -> dict[str, Any]:
    """Return the content of features/manifest.json, without width and views."""
    training = predictor.training
    return {
        "experiment": experiment.id,
        "dataset": training.get("dataset"),
        "folds_sha256": training.get("folds_sha256"),
    }
