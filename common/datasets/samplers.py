"""The order of samples: a function of (seed, epoch), which can be entered anywhere."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), each index once an epoch, in an order drawn from (seed, epoch).

    Args:
        num_samples: number of samples in the dataset.
        seed: seed of the order.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0
        self.position = 0

    def start(self, epoch: int, position: int = 0) -> None:
        """Makes the next iteration yield `epoch` from its sample number `position` on."""
        self.epoch, self.position = epoch, position

    def order(self, epoch: int) -> np.ndarray:
        """All indices in the order of `epoch`, int64 (num_samples,)."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for index in self.order(epoch)[self.position :]:
            yield epoch, int(index)

    def __len__(self) -> int:
        return self.num_samples - self.position
