"""Parts of the training of a sequence network: over the outputs of slice experiments.

A series of fold j has the logits and features of slice network j, which has not seen it. The
sequence network of fold k is trained on the series of all other folds and validated on those of
fold k; on new data slice network k feeds it.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.checkpoint import load_weights
from common.datasets.sequence import SequenceDataset
from common.errors import InputError
from common.experiment import Experiment
from common.features.slice_outputs import SliceOutputs, load_slice_outputs, load_test_outputs
from common.models import SequenceModel, build_sequence_model
from common.networks import SequenceClassifierNetwork
from common.predictors.base import AbstractPredictor
from common.predictors.loading import load_predictor
from common.predictors.sequence import StudyPredictor
from common.scoring.metrics import majority, training_prior
from common.scoring.predictions import Mean
from common.slices.folds import folds_path, owners, read_folds
from common.slices.leakage import require_disjoint_patients, require_unseen_features
from common.slices.table import SliceTable
from common.words import count
from config import recorded_config
from rsna.data import fold_rows
from rsna.evaluation.scoring import predictor_info
from rsna.training.series import SeriesSides, WholeSeriesParts, sequence_options
from rsna_model import build_model
from rsna_network import RSNANetwork

logger = logging.getLogger(__name__)


class RSNASequenceNetwork(SequenceClassifierNetwork, RSNANetwork):
    """Slices of whole series, trained and validated with the weights of the task."""


class SequenceParts(WholeSeriesParts[SequenceModel, SeriesSides]):
    """The parts of a training of `study-<network>` on what --data_features names."""

    gives_features: ClassVar[bool] = False
    network_class: ClassVar[type[RSNANetwork]] = RSNASequenceNetwork

    @cached_property
    def table(self) -> SliceTable:
        return SliceTable.load(self.config.dataset_folder)

    @cached_property
    def outputs(self) -> list[SliceOutputs]:
        return self._load_outputs()

    @cached_property
    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows to train on and those to validate on."""
        return fold_rows(self.config, self.table)

    def _create_model(self) -> SequenceModel:
        flags = self.config.network
        dims = [output.features.dim for output in self.outputs if output.features is not None]
        model = self._build_model(dims, len(self.outputs))
        if flags.net_weight_file is not None and not self.is_resumed:
            load_weights(model, Path(flags.net_weight_file))
        return model

    def _build_model(self, feature_dims: Sequence[int], num_networks: int) -> SequenceModel:
        flags = self.config.network
        return build_sequence_model(
            {
                "name": flags.net_model,
                "num_labels": len(self.task.label_names),
                "feature_dims": feature_dims,
                "num_networks": num_networks,
                "hidden": flags.net_study_hidden,
                **sequence_options(flags),
            }
        )

    def _load_outputs(self) -> list[SliceOutputs]:
        """Read the outputs of each slice experiment; InputError if one may have seen a patient."""
        config, fold = self.config, self.config.data.data_fold
        assert isinstance(fold, int)
        folds = read_folds(folds_path(config.dataset_folder, fold))
        if len(config.views.names) > 1:
            raise InputError(
                "--pr_tta, --pr_tta_views: a study network sees the views that its slice "
                "experiments were trained with: give them there"
            )
        outputs = []
        for experiment_folder in self._slice_experiments():
            info = predictor_info(Experiment(experiment_folder))
            name, dataset = experiment_folder.name, info["training"].get("dataset")
            if dataset != config.data.data_dataset:
                raise InputError(
                    f"--data_features {name}: is an experiment on {dataset}, not on "
                    f"--data_dataset {config.data.data_dataset}"
                )
            if tuple(info["label_names"]) != self.task.label_names:
                raise InputError(
                    f"--data_features {name}: has the labels {', '.join(info['label_names'])}, "
                    f"wanted are {', '.join(self.task.label_names)} (--net_num_classes)"
                )
            views, labels = None, self.task.label_names
            if config.network.net_study_inputs == "both":
                views = recorded_config(experiment_folder).views.names
            output = load_slice_outputs(experiment_folder, self.table, labels, views)
            known, what = output.is_known, f"outputs of experiment {name}"
            ids, own = self.table.frame["image_id"][known], output.folds[known]
            require_unseen_features(what, ids, own, output.folds_digest, folds)
            outputs.append(output)
        return outputs

    def _slice_experiments(self) -> list[Path]:
        names = str(self.config.data.data_features).split(",")
        folders = [self.config.experiment_folder(name) for name in names]
        for name, folder in zip(names, folders, strict=True):
            if not Experiment(folder).exists:
                raise InputError(f"--data_features {name}: no experiment at {folder}")
        if len(set(names)) < len(names):
            raise InputError(f"--data_features {','.join(names)}: names an experiment twice")
        return folders

    def _load_data(self) -> SeriesSides:
        flags, seed = self.config.data, self.config.general.seed
        train_rows, valid_rows = self.rows
        patients = owners(self.table.frame)
        where = f"fold {flags.data_fold}"
        require_disjoint_patients(patients.iloc[train_rows], patients.iloc[valid_rows], where)
        known = np.logical_and.reduce([output.is_known for output in self.outputs])
        num_lost = int((~known[train_rows]).sum())
        if not known[valid_rows].all() or num_lost == len(train_rows):
            side = "validation" if not known[valid_rows].all() else "training"
            raise InputError(
                f"--data_features {flags.data_features}: {side} slices of {where} have no "
                f"out-of-fold predictions: train these experiments with --data_fold all"
            )
        if num_lost:
            lost = count(num_lost, "training slice")
            logger.warning("left out %s without out-of-fold predictions", lost)
            train_rows = train_rows[known[train_rows]]
        what = (self.outputs, self.task.label_names)
        train = SequenceDataset(self.table, train_rows, *what, self._augmentation(), seed)
        valid = SequenceDataset(self.table, valid_rows, *what, seed=seed)
        return SeriesSides(train, valid, training_prior(majority(train.labels)))

    def seen_values(self) -> np.ndarray:
        """Return the labels, and the logits of the slice networks."""
        rows = self.data.train.rows
        return np.hstack([self.data.train.labels, *(o.logits[rows] for o in self.outputs)])

    def _log_transforms(self) -> None:
        names = ", ".join(output.name for output in self.outputs)
        what = "logits" if self.config.network.net_study_inputs == "logits" else "all outputs"
        logger.info("inputs: %s of experiments %s; %s", what, names, self.data.train.augmentation)

    def _as_validated(self, dataset: Any, rows: NDArray[np.int64]) -> SequenceDataset:
        return dataset.with_rows(rows)

    def _gathers_statistics(self) -> bool:
        return self.model.has_batch_norm

    def predictor(self, training: dict[str, Any]) -> AbstractPredictor:
        """Return the predictor with that of each slice experiment inside."""
        fold = self.config.data.data_fold
        assert isinstance(fold, int)
        return StudyPredictor(
            network=self.model,
            slice_predictors=self._slice_predictors(fold),
            scalings=[output.scaling.get(fold) for output in self.outputs],
            slice_views=self._slice_views(),
            kept=self._kept_outputs(fold),
            table=self.table,
            **self.predictor_fields(training),
        )

    def _slice_predictors(self, fold: int) -> list[AbstractPredictor]:
        return [
            load_predictor(Experiment(folder).predictor_of(fold), build_model)
            for folder in self._slice_experiments()
        ]

    def _kept_outputs(self, fold: int) -> list[SliceOutputs | None]:
        """Return the outputs of each slice network of the fold for the test rows, if kept."""
        kept = []
        for folder, (views, _), output in zip(
            self._slice_experiments(), self._slice_views(), self.outputs, strict=True
        ):
            wanted, scaling = None if output.features is None else views, output.scaling.get(fold)
            kept.append(load_test_outputs(folder, fold, self.table, wanted, scaling))
        return kept

    def _slice_views(self) -> list[tuple[Sequence[str], Mean]]:
        views = [recorded_config(folder).views for folder in self._slice_experiments()]
        return [(item.names, item.pr_tta_mean) for item in views]
