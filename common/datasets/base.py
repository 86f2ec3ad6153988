"""The base of all datasets."""

from abc import ABC, abstractmethod
from typing import Any

from torch.utils.data import Dataset

from common.datasets.batch_memory import stacked
from common.seeding import sample_seed


class AbstractDataset(Dataset, ABC):
    """Samples whose random draws are a function of (seed, epoch, sample id).

    A key is an index, or a pair (epoch, index) as `EpochSampler` yields. Subclasses say how many
    samples there are, how one is made from its index and a seed, and what each is called.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """The name of a sample, which is the same wherever and whenever it is read.

        It is the index unless a subclass knows better: one whose samples can be a selection does.
        """
        return str(index)

    @abstractmethod
    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """The sample as a dict of tensors and numbers; `seed` decides all that is random."""

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch that samples make: tensors stacked by name."""
        return stacked(samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self.make_sample(index, sample_seed(self.seed, epoch, self.sample_id(index)))
