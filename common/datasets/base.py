"""The base of all datasets."""

from abc import ABC, abstractmethod
from typing import Any

from torch.utils.data import Dataset

from common.datasets.batch_memory import stacked
from common.seeding import sample_seed


class AbstractDataset(Dataset, ABC):
    """Samples whose random draws are a function of (seed, epoch, sample id).

    A key is an index, or a pair (epoch, index) as `EpochSampler` yields. Subclasses define the
    number of samples, how one is made from its index and a seed, and its id.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """Return the name of a sample, independent of where and when it is read.

        By default the index; a dataset whose samples can be a selection overrides it.
        """
        return str(index)

    @abstractmethod
    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """Return the sample as a dict of tensors and numbers; `seed` decides every random draw."""

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch: the tensors of samples stacked by name."""
        return stacked(samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self.make_sample(index, sample_seed(self.seed, epoch, self.sample_id(index)))
