"""What trainings of networks over whole series have in common, whatever these see of a slice."""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.datasets import EpochSampler, make_loader
from common.datasets.series import StudyAugmentation
from common.subset import draw_studies
from rsna_training import RSNATraining

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequenceData:
    """What a training reads.

    Attributes:
        train, valid: the series of the two sides of the fold, `AbstractSeriesDataset`s.
        prior: share of positives per label in the training slices, inside (0, 1).
    """

    train: Any
    valid: Any
    prior: np.ndarray

    def log_sizes(self) -> None:
        """Tells the log how many slices and series each side has."""
        for side, dataset in (("training", self.train), ("validation", self.valid)):
            logger.info("%s: %d slices of %d series", side, len(dataset.rows), len(dataset))
            if dataset.num_without_positions:
                logger.warning(
                    "%s: %d series have slices without a position: they count as 5 mm apart",
                    side,
                    dataset.num_without_positions,
                )


class RSNASequenceTraining(RSNATraining):
    """A training whose samples are series."""

    data: SequenceData  # type: ignore[assignment]

    @abstractmethod
    def _as_validated(self, dataset: Any, rows: NDArray[np.int64]) -> Any:
        """The series of a dataset that hold some of the rows, as validation sees them."""

    def _gathers_statistics(self) -> bool:
        """Whether the network has batch-norm statistics that training changes."""
        return True

    def _augmentation(self) -> StudyAugmentation:
        flags = self.config.data
        return StudyAugmentation(
            flags.data_study_thin, flags.data_study_reverse, flags.data_study_crop
        )

    def _make_sampler(self) -> EpochSampler:
        return EpochSampler(len(self.data.train), self.config.general.seed)

    @property
    def _train_ids(self) -> list[str]:
        """The sample id of every training series."""
        return [self.data.train.sample_id(index) for index in range(len(self.data.train))]

    def _subset_loader(self) -> Any:
        training, valid = self.config.training, self.data.valid
        if not (training.tr_iteration_valid and training.tr_iteration_valid_full):
            return None
        studies = valid.table.frame["study_id"].to_numpy(dtype=object)[valid.rows].astype(str)
        seed = self.config.general.seed
        chosen = draw_studies(studies, valid.labels, training.tr_valid_subset, seed)
        return self._evaluation_loader(self._as_validated(valid, valid.rows[chosen]))

    def _statistics_loader(self) -> Any:
        """Some training series as validation sees them; None where nothing gathers statistics."""
        general, train = self.config.general, self.data.train
        num_slices = min(self.config.optimizer.optim_ema_bn_samples, len(train.rows))
        if not num_slices or not self._gathers_statistics():
            return None
        dataset = self._as_validated(train, train.some_rows(num_slices, general.seed))
        size = self._valid_batch_size
        return make_loader(dataset, size, general.n_jobs, pin_memory=self._pins_memory)
