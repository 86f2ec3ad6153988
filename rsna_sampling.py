"""Which training slices come in an epoch: the sampler that --data_sampler names."""

import logging
from math import ceil, sqrt

import numpy as np

from common.datasets import (
    BalancedSampler,
    EpochSampler,
    GroupSampler,
    PositiveRangeSampler,
    middle_weights,
)
from config import Config
from rsna_dataset import RSNADataset

logger = logging.getLogger(__name__)

# A share of positives whose odds are this much off those of the training slices earns a warning,
# unless so few slices are drawn that it may be chance (three standard errors).
_NOTABLE_ODDS_RATIO = 1.1


def make_sampler(config: Config, train: RSNADataset, num_processes: int = 1) -> EpochSampler:
    """Returns the sampler that the flags name; a slice is positive where any of its labels is.

    A label that is a probability (`common.pseudo_labels`) counts from 0.5 on.

    Args:
        config: the flags.
        train: the training slices.
        num_processes: processes that train together, each with its batch.

    Raises:
        InputError: the sampler needs positive and negative slices, and there are none.
    """
    data, training, seed = config.data, config.training, config.general.seed
    if data.data_sampler == "balanced":
        return BalancedSampler(_is_positive(train), seed)
    if data.data_sampler == "pos_range":
        return PositiveRangeSampler(
            _is_positive(train),
            seed,
            data.data_sampler_pos_start,
            data.data_sampler_pos_end,
            config.iteration_num,
            training.tr_batch_size * num_processes,
            training.tr_accumulation_step,
        )
    if data.data_sampler == "slices_per_study":
        studies = train.table.frame["study_id"].to_numpy(dtype=object)[train.rows].astype(str)
        weights = middle_weights(*train.table.places(train.rows))
        return GroupSampler(studies, data.data_sampler_num_slices, weights, seed)
    return EpochSampler(len(train), seed)


def log_sampler(
    config: Config, sampler: EpochSampler, train: RSNADataset, num_processes: int = 1
) -> None:
    """Tells what an epoch holds, counted in the first and the last one of the training.

    Nothing is told of the plain sampler, which leaves nothing out.
    """
    if config.data.data_sampler is None:
        return
    training, is_positive = config.training, _is_positive(train)
    num_batches = ceil(sampler.num_samples / (training.tr_batch_size * num_processes))
    steps = ceil(num_batches / training.tr_accumulation_step)
    num_epochs = max(1, ceil(config.iteration_num / steps))
    first, last = sampler.order(0), sampler.order(num_epochs - 1)
    logger.info(
        "--data_sampler %s: an epoch has %d draws from %d training slices; in the first epoch %d "
        "slices are left out and %d come again; positive are %.1f %% of the first epoch, %.1f %% "
        "of the last (number %d), %.1f %% of all slices",
        config.data.data_sampler,
        sampler.num_samples,
        len(is_positive),
        len(is_positive) - len(np.unique(first)),
        len(first) - len(np.unique(first)),
        100 * is_positive[first].mean(),
        100 * is_positive[last].mean(),
        num_epochs,
        100 * is_positive.mean(),
    )
    drawn, share = is_positive[last].mean(), is_positive.mean()
    ratio = _odds(drawn) / _odds(share)
    chance = 3 * sqrt(share * (1 - share) / len(last))
    if max(ratio, 1 / ratio) > _NOTABLE_ODDS_RATIO and abs(drawn - share) > chance:
        logger.warning(
            "probabilities will be those of the slices drawn, of which %.1f %% are positive at the "
            "end of the training, not those of slices as they come (%.1f %%): log loss and "
            "calibration suffer; see docs/samplers.md",
            100 * drawn,
            100 * share,
        )


def _is_positive(train: RSNADataset) -> np.ndarray:
    # Labels by a model may be probabilities.
    return np.asarray((train.labels >= 0.5).any(axis=1))


def _odds(share: float) -> float:
    share = min(max(float(share), 1e-6), 1 - 1e-6)
    return share / (1 - share)
