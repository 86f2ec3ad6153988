"""The order of samples, and which process takes which of them."""

import itertools
from collections.abc import Callable, Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

# Samples of about one length that stay side by side; batches that divide a run waste least.
_RUN = 64
# Samples that are sorted together.
_POOL = 16 * _RUN


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), each index once an epoch, in an order drawn from (seed, epoch).

    The order can be entered anywhere, and several processes can share it: see `start`, `share`.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self.batch_size, self.rank, self.num_processes = 1, 0, 1

    def start(self, epoch: int, position: int = 0) -> None:
        """Make the next iteration yield `epoch` from its sample number `position` on."""
        self.epoch, self.position = epoch, position

    def share(self, batch_size: int, rank: int, num_processes: int) -> None:
        """Make this the sampler of one process of several, in batches.

        Of every `num_processes * batch_size` samples each process takes an equal part, in turn. A
        last batch of an epoch that is a single sample joins the one before it: batch norm has no
        variance of one value. No process takes a single sample for the same reason (unless
        `batch_size` is 1): where the last ones are too few, some processes get none and repeat
        what others have; `batch_sizes` says so.
        """
        self.batch_size = batch_size
        self.rank = rank
        self.num_processes = num_processes

    def order(self, epoch: int) -> np.ndarray:
        """Return all indices in the order of `epoch`, int64 (num_samples,)."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def batch_sizes(self) -> Iterator[tuple[int, int]]:
        """Yield for each batch of the next iteration: samples of all processes, and of this one.

        The second is 0 where this process only repeats samples.
        """
        for num_in_batch, part, is_stand_in in self._parts():
            yield num_in_batch, 0 if is_stand_in else len(part)

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, index) of each batch of this process in the next iteration."""
        epoch, first = self.epoch, self.position
        order = self.order(epoch)
        for num_in_batch, part, _ in self._parts():
            yield [(epoch, int(order[first + place])) for place in part]
            first += num_in_batch

    def _parts(self) -> Iterator[tuple[int, range, bool]]:
        """Yield the size of each batch, this process's places in it, and if it only stands in."""
        num_left, whole = self.num_samples - self.position, self.num_processes * self.batch_size
        fewest = min(self.batch_size, 2)
        while num_left > 0:
            num_in_batch = num_left if num_left - whole < min(whole, 2) else whole
            num_sharing = min(self.num_processes, max(num_in_batch // fewest, 1))
            is_stand_in = self.rank >= num_sharing
            rank = 0 if is_stand_in else self.rank
            part = range(*_part(num_in_batch, rank, num_sharing))
            yield num_in_batch, part[:fewest] if is_stand_in else part, is_stand_in
            num_left -= num_in_batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.chain.from_iterable(self.batches())

    def __len__(self) -> int:
        return sum(len(part) for _, part, _ in self._parts())


class LengthSampler(EpochSampler):
    """Samples of about one length side by side, so that batches hold little padding.

    The samples of an epoch are shuffled, sorted by length within pools of 1,024, and cut into runs
    of 64, which come in random order. The order depends on (seed, epoch) alone, not on batches or
    processes, so that others can go on with it. Fewer samples than a pool are only shuffled: sorted
    ones would meet the same neighbours in every epoch.

    Args:
        lengths: returns the length of each sample in an epoch, int64 (samples,).
    """

    def __init__(
        self, num_samples: int, seed: int, lengths: Callable[[int], NDArray[np.int64]]
    ) -> None:
        super().__init__(num_samples, seed)
        self.lengths = lengths

    def order(self, epoch: int) -> np.ndarray:
        order = super().order(epoch)
        if self.num_samples < _POOL:
            return order
        lengths, num_in_runs = self.lengths(epoch), len(order) - len(order) % _RUN
        pools = np.split(order, [*range(_POOL, num_in_runs, _POOL), num_in_runs])
        order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        runs = order[:num_in_runs].reshape(-1, _RUN)
        mixed = np.random.default_rng([self.seed, epoch, _RUN]).permutation(runs)
        return np.concatenate([mixed.ravel(), order[num_in_runs:]])


class PartSampler(Sampler[int]):
    """Yields the samples of one process in a validation or prediction: consecutive parts."""

    def __init__(self, num_samples: int, rank: int, num_processes: int) -> None:
        self.indices = range(*_part(num_samples, rank, num_processes))
        self.num_in_largest_part = ceil(num_samples / num_processes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def num_batches_less(self, batch_size: int) -> int:
        """Return how many batches fewer this process has than the one with the most."""
        return ceil(self.num_in_largest_part / batch_size) - ceil(len(self) / batch_size)


def batches_per_epoch(num_samples: int, num_per_batch: int) -> int:
    """Return how many batches an `EpochSampler` makes of an epoch.

    Args:
        num_per_batch: samples in a batch, those of all processes together.
    """
    if num_per_batch == 1:
        return num_samples
    return max((num_samples + num_per_batch - 2) // num_per_batch, 1)


def _part(num_samples: int, rank: int, num_processes: int) -> tuple[int, int]:
    """Return begin and end of a process's part; sizes differ by at most 1, the first are larger."""
    size, num_larger = divmod(num_samples, num_processes)
    begin = rank * size + min(rank, num_larger)
    return begin, begin + size + (rank < num_larger)
