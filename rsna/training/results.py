"""Results of a training: predictions, features, test outputs and the predictor."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.callbacks import LatestOutputs
from common.checkpoint import inference_weights, load_checkpoint
from common.experiment import Experiment
from common.features.store import FeatureWriter, writing_features
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.extraction import extract
from common.predictors.sharing import Value, share_rows, together
from common.scoring.metrics import training_prior
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.leakage import (
    ENCODER,
    SOURCES,
    STARTED_FROM,
    dataset_sources,
    origins_of_weights,
)
from common.slices.pixel_steps import PARAMETER, recorded_steps
from common.slices.study_labels import labels_by_study
from common.slices.table import SliceTable
from config import Config
from rsna.evaluation.drifting import keep_reference
from rsna.evaluation.model_card import write_card
from rsna.predictor import image_rows
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
        self.table: SliceTable = parts.data.valid.table
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
                predictor = self.parts.predictor(origin)
                self._together(predictor, lambda: self._write_fold_outputs(predictor))
            self._write_predictions(network, "valid", network.state.iteration, origin)
            if self.processes.is_main:
                predictor = self.parts.predictor(origin)
                predictor.study_prior = self._study_prior()
                predictor.save(self.experiment.predictor)
                if not self.config.is_one_of_all_folds:
                    keep_reference(self.experiment, self.table)
                write_card(self.experiment, self.table, new=True)
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
            predictor = self.parts.predictor(origin)
            result = self._together(predictor, lambda: self._logits_of_views(name, predictor))
            if result is None:
                return
            logits, of_series = result.logits, result.series_logits
        else:
            if self.latest.iteration == iteration:
                outputs = self.latest.outputs
            else:
                outputs = network.predict(self.parts.valid_loader())
            assert np.array_equal(outputs["index"], np.arange(len(valid.rows)))
            logits, of_series = outputs["logits"], outputs.get("series_logits")
        if not self.processes.is_main:
            return
        assert isinstance(fold, int)
        labels = self.parts.task.label_names
        rows = valid.table.frame.iloc[valid.rows]
        frame = build_predictions(
            rows, logits, labels, fold, self.experiment.id, series_logits=of_series
        )
        write_predictions(self.experiment.predictions_file(name), frame, labels)

    def _together(self, predictor: AbstractPredictor, work: Callable[[], Value]) -> Value | None:
        """Return what `work` returns in the main process; the others predict their parts for it."""
        return together(self.processes, work, lambda: predictor, self.table)

    def _logits_of_views(self, name: str, predictor: AbstractPredictor) -> RowLogits:
        """Return the mean logits of the validation rows over the views that the flags name."""
        if name not in self._of_views:
            rows = self.parts.data.valid.rows
            self._of_views[name] = self._extract(predictor, rows, "validation")
        result = self._of_views.pop(name)
        if result.unreadable.any():
            logger.warning("damaged slices that have the prior: %d", result.unreadable.sum())
        return result

    def _write_fold_outputs(self, predictor: AbstractPredictor) -> None:
        """Write predictions/test.parquet of one of all folds, and features/{oof,test}.* if asked.

        In the main process; the weights to predict with are in place. Unreadable slices have the
        prior, and no features. Without test rows nothing is written of the test.
        """
        general, table, fold = self.config.general, self.table, self.config.data.data_fold
        assert isinstance(fold, int)
        has_features = self.config.training.tr_features and predictor.gives_features
        if has_features:
            rows = self.parts.data.valid.rows
            self._of_views["valid"] = self._extract(predictor, rows, "validation", features="oof")
        rows = test_rows(table)
        if general.dev_enabled:
            rows = limit_studies(table, rows, general.dev_num_studies, general.seed)
        if not table.readable[rows].any():
            return
        result = self._extract(predictor, rows, "test", features="test" if has_features else None)
        labels = predictor.label_names
        frame = build_predictions(
            table.frame.iloc[rows], result.logits, labels, fold, self.experiment.id
        )
        write_predictions(self.experiment.predictions_file("test"), frame, labels)

    def _extract(
        self, predictor: AbstractPredictor, rows: np.ndarray, what: str, features: str | None = None
    ) -> RowLogits:
        """Return the mean logits of rows over the views that the flags name; see `extract`.

        Features go to features/<features>.* if the name is given.
        """
        config, views, fold = self.config, self.config.views, self.config.data.data_fold
        assert isinstance(fold, int)
        settings = self.parts.settings
        is_on_gpu = settings.device.type == "cuda"
        options = PredictOptions(
            config.general.tr_batch_size_valid,
            config.general.n_jobs,
            views.names,
            views.pr_tta_mean,
            config.general.seed,
            settings.device,
            # As validated on a GPU; on a CPU a prediction is float32 and eager.
            settings.amp_dtype if is_on_gpu else None,
            settings.compile and is_on_gpu,
            share=share_rows if self.processes.are_many else None,
        )
        writing: AbstractContextManager[FeatureWriter | None] = nullcontext()
        if features is not None:
            manifest = feature_manifest(predictor, self.experiment)
            writing = writing_features(self.experiment.features, features, manifest)
        total, title = len(rows) * len(views.names), f"{what} rows, fold {fold}"
        with writing as writer, tqdm(total=total, unit="slice", desc=title, disable=None) as bar:
            return extract(
                predictor, self.table, rows, options, writer=writer, fold=fold, on_block=bar.update
            )

    def _study_prior(self) -> np.ndarray:
        """Return the share of positive studies (k,) among those that are trained on."""
        train, names = self.parts.data.train, self.parts.task.label_names
        labels = self.table.labels(train.rows, names)
        study_ids = self.table.frame["study_id"].iloc[train.rows]
        return training_prior(labels_by_study(self.table, names, labels, study_ids)[1])

    def _origin(self, iteration: int) -> dict[str, Any]:
        folder, digest = self.parts.data.train.table.folder, self.parts.folds_sha256
        origin = origin_of(self.config, self.experiment.id, iteration, digest, folder)
        return origin | {ENCODER: self.parts.weights_record()}


def origin_of(
    config: Config, experiment_id: str, iteration: int, folds_sha256: str, dataset_folder: Path
) -> dict[str, Any]:
    """Return `training` of predictor.json: the origin of the weights."""
    start = config.network.net_weight_file
    return {
        "experiment_id": experiment_id,
        "dataset": config.data.data_dataset,
        SOURCES: dataset_sources(dataset_folder),
        "fold": config.data.data_fold,
        "folds_sha256": folds_sha256,
        "iterations": iteration,
        STARTED_FROM: origins_of_weights(Path(start)) if start else [],
        PARAMETER: recorded_steps(dataset_folder).parameters(),
    }


def test_rows(table: SliceTable) -> np.ndarray:
    """Return a row for each image of the split `test`, a readable one where there is one."""
    rows = image_rows(table)
    return rows[table.frame["split"].iloc[rows].eq(TEST_SPLIT).to_numpy(dtype=bool)]


def feature_manifest(predictor: AbstractPredictor, experiment: Experiment) -> dict[str, Any]:
    """Return the content of features/manifest.json, without width and views."""
    training = predictor.training
    return {
        "experiment": experiment.id,
        "dataset": training.get("dataset"),
        "folds_sha256": training.get("folds_sha256"),
    }
