"""Samplers that draw some samples more often than others; each a function of (seed, epoch).

No sample occurs twice in an epoch: both draws would be the same image, since augmentation depends
on (seed, epoch, sample). A sample that is left out of one epoch occurs in a later one.
"""

from abc import ABC, abstractmethod
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.datasets.samplers import EpochSampler, batches_per_epoch
from common.errors import InputError

Indices = NDArray[np.int64]

_NEGATIVE, _POSITIVE = 0, 1


class _TwoKindsSampler(EpochSampler, ABC):
    """Positive and negative samples, each dealt from a shuffled pack.

    A pack is dealt from the top, epoch after epoch, until the epoch in which all have occurred; it
    is then shuffled anew. Where its last samples do not fill that epoch, the first ones fill it:
    they occur twice in that round, never twice in an epoch.
    """

    def __init__(self, is_positive: ArrayLike, seed: int) -> None:
        positive = np.asarray(is_positive, dtype=bool)
        self.packs = (np.flatnonzero(~positive), np.flatnonzero(positive))
        for pack, kind in zip(self.packs, ("negative", "positive"), strict=True):
            if not len(pack):
                raise InputError(
                    f"--data_sampler: there is no {kind} sample among {len(positive)} to train on; "
                    f"leave the flag out"
                )
        super().__init__(self._epoch_length(), seed)

    @abstractmethod
    def _epoch_length(self) -> int:
        """Return the samples of an epoch."""

    @abstractmethod
    def num_positive(self, epoch: int) -> int:
        """Return how many of an epoch are positive."""

    def _dealt(self, kind: int, epoch: int) -> Indices:
        """Return the samples of a kind in an epoch, in the order in which they were shuffled."""
        pack = self.packs[kind]
        number, place, count = 0, 0, self._count(kind, 0)
        for later in range(1, epoch + 1):
            place += count
            if place >= len(pack):
                number, place = number + 1, 0
            count = self._count(kind, later)
        shuffled = np.random.default_rng([self.seed, kind, number]).permutation(pack)
        return shuffled[(place + np.arange(count)) % len(pack)]

    def _count(self, kind: int, epoch: int) -> int:
        num_positive = self.num_positive(epoch)
        return num_positive if kind == _POSITIVE else self.num_samples - num_positive


class BalancedSampler(_TwoKindsSampler):
    """As many negative as positive samples, in random order.

    An epoch holds all samples of the rarer kind, and as many of the other. With n of the rarer and
    m of the other kind, every one of the m comes by within each ceil(m / n) epochs.

    Raises:
        InputError: there is no positive, or no negative sample.
    """

    def _epoch_length(self) -> int:
        return 2 * min(map(len, self.packs))

    def num_positive(self, epoch: int) -> int:
        return self.num_samples // 2

    def order(self, epoch: int) -> Indices:
        chosen = np.concatenate([self._dealt(kind, epoch) for kind in (_NEGATIVE, _POSITIVE)])
        return np.random.default_rng([self.seed, epoch]).permutation(chosen)


class PositiveRangeSampler(_TwoKindsSampler):
    """A share of positive samples that falls linearly from the first sample to the last.

    It is `first_share` at the start of a training and `last_share` at its end, and stays there.
    The positives lie evenly: any stretch has its share of them to within one sample. An epoch is as
    long as it can be without a sample coming twice, whatever its share.

    Args:
        first_share, last_share: share of positives, in (0, 1).
        num_per_batch: samples in a batch, those of all processes together.
        accumulation_step: batches of one step; the end of an epoch ends a step too.

    Raises:
        InputError: there is no positive, or no negative sample.
    """

    def __init__(
        self,
        is_positive: ArrayLike,
        seed: int,
        first_share: float,
        last_share: float,
        iteration_num: int,
        num_per_batch: int,
        accumulation_step: int = 1,
    ) -> None:
        self.first_share, self.last_share = first_share, last_share
        super().__init__(is_positive, seed)
        num_batches = batches_per_epoch(self.num_samples, num_per_batch)
        steps_per_epoch = ceil(num_batches / accumulation_step)
        self.num_epochs = iteration_num / steps_per_epoch

    def _epoch_length(self) -> int:
        num_negative, num_positive = map(len, self.packs)
        low, high = sorted((self.first_share, self.last_share))
        longest = floor(min(num_positive / high, num_negative / (1 - low)))
        return min(longest, num_negative + num_positive)

    def num_positive(self, epoch: int) -> int:
        before, after = self._num_positive_until(self.num_samples * np.arange(epoch, epoch + 2))
        return int(after - before)

    def order(self, epoch: int) -> Indices:
        places = self.num_samples * epoch + np.arange(self.num_samples + 1)
        is_positive = np.diff(self._num_positive_until(places)) > 0
        order = np.empty(self.num_samples, dtype=np.int64)
        order[is_positive] = self._mixed(_POSITIVE, epoch)
        order[~is_positive] = self._mixed(_NEGATIVE, epoch)
        return order

    def _mixed(self, kind: int, epoch: int) -> Indices:
        return np.random.default_rng([self.seed, kind, epoch, 0]).permutation(
            self._dealt(kind, epoch)
        )

    def _num_positive_until(self, num_samples: Indices) -> Indices:
        """Return how many of the first `num_samples` of a training are positive."""
        total = self.num_epochs * self.num_samples
        falling = np.minimum(num_samples, total)
        slope = (self.last_share - self.first_share) / total
        positives = falling * (self.first_share + slope * falling / 2)
        positives += (num_samples - falling) * self.last_share
        return np.floor(positives + 0.5).astype(np.int64)


class GroupSampler(EpochSampler):
    """A few samples of each group an epoch, drawn by weight, in random order.

    Of a group with no more than `num_per_group` samples all are drawn. The first draw of an epoch
    takes each sample with a chance proportional to its weight, the next ones likewise from those
    that are left.

    Args:
        groups: (samples,) the group of each sample, of any type that can be compared.
        weights: (samples,) above 0.
    """

    def __init__(
        self, groups: ArrayLike, num_per_group: int, weights: ArrayLike, seed: int
    ) -> None:
        self.groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        self.num_per_group = num_per_group
        self.weights = np.asarray(weights, dtype=np.float64)
        assert (self.weights > 0).all(), "a sample without weight would never come"
        sizes = np.bincount(self.groups)
        super().__init__(int(np.minimum(sizes, num_per_group).sum()), seed)
        self._starts = np.cumsum(sizes) - sizes

    def order(self, epoch: int) -> Indices:
        draw = np.random.default_rng([self.seed, epoch])
        # The smallest of exponential times with these rates are such draws (Efraimidis and
        # Spirakis, Weighted random sampling with a reservoir, 2006).
        times = draw.standard_exponential(len(self.groups)) / self.weights
        by_group = np.lexsort((times, self.groups))
        place = np.arange(len(by_group)) - self._starts[self.groups[by_group]]
        return draw.permutation(by_group[place < self.num_per_group])


def middle_weights(places: ArrayLike, sizes: ArrayLike) -> NDArray[np.float64]:
    """Return weights that rise by 1 per slice from 1 at either end of a stack to its middle.

    Args:
        places: (samples,) number of each slice in its stack, from 0.
        sizes: (samples,) slices of that stack.
    """
    place, size = np.asarray(places), np.asarray(sizes)
    return 1.0 + np.minimum(place, size - 1 - place)
