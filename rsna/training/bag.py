"""Parts of a training of a slice network on labels of studies, of slices, or of both."""

import logging
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from common.datasets.series import SeriesAugmentation
from common.errors import InputError
from common.models.bag import BagModel
from common.predictors.series import BagPredictor, SeriesPredictor
from common.scoring.metrics import majority, training_prior
from common.slices.study_labels import labels_of_volumes
from common.slices.table import SliceTable
from common.words import count
from rsna.training.series import EncoderParts, RSNASeriesNetwork, SeriesData, encoder_options
from rsna_network import RSNANetwork, study_metrics

logger = logging.getLogger(__name__)

PREFIX = "bag-"


class RSNABagNetwork(RSNASeriesNetwork):
    """Slices and their studies, validated both."""

    def compute_metrics(self, outputs: Any) -> dict[str, float | None]:
        return super().compute_metrics(outputs) | study_metrics(outputs, self.task)


class BagParts(EncoderParts[BagModel]):
    """The parts of a training of `bag-<slice network>`.

    A sample is a series: of at most --data_bag_slices slices in training, of all in validation and
    prediction. A slice with labels is a term of the loss, and so is a study with labels.
    """

    network_class: ClassVar[type[RSNANetwork]] = RSNABagNetwork
    predictor_class: ClassVar[type[SeriesPredictor]] = BagPredictor

    def _new_model(self, pretrained: bool) -> BagModel:
        return BagModel(
            **encoder_options(self.config, PREFIX, len(self.task.label_names)),
            pooling=self.config.network.net_bag_pooling,
            pretrained=pretrained,
        )

    def _augmentation(self) -> SeriesAugmentation:
        return SeriesAugmentation(spread=self.config.data.data_bag_slices)

    def _study_labels(self, table: SliceTable) -> tuple[pd.DataFrame, Any]:
        labels = labels_of_volumes(table, self.task.label_names)
        if labels.empty:
            raise InputError(
                f"--net_model {self.config.network.net_model}: no study of --data_dataset "
                f"{self.config.data.data_dataset} has labels: give labels of studies by "
                f"--pre_labels and --pre_train_studies 1"
            )
        own = table.labels(np.arange(len(table)), self.task.label_names)
        of_studies = table.frame["store_file"].isin(labels.index).to_numpy(dtype=bool)
        return labels, of_studies | ~np.isnan(own).all(axis=1)

    def _load_data(self) -> SeriesData:
        """Return the data; the prior of a label that no slice has is the share of studies."""
        data = super()._load_data()
        of_slices, of_studies = data.train.labels, data.train.series_labels
        is_unknown = np.isnan(of_slices).all(axis=0)
        prior = np.where(is_unknown, training_prior(majority(of_studies)), data.prior)
        return replace(data, prior=prior)

    def log(self) -> None:
        super().log()
        for side, dataset in (("training", self.data.train), ("validation", self.data.valid)):
            of_slices, of_studies = (
                count(int((~np.isnan(labels)).any(axis=1).sum()), noun)
                for labels, noun in ((dataset.labels, "slice"), (dataset.series_labels, "study"))
            )
            logger.info("%s: labels of %s and of %s", side, of_slices, of_studies)

    def seen_values(self) -> np.ndarray:
        train = self.data.train
        return np.concatenate([train.labels.ravel(), train.series_labels.ravel()])
