"""The base of all datasets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.seeding import sample_seed

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from common.datasets.batch_memory import Batch
else:  # It is one by its methods; torch takes seconds to import, and an engine does without.
    Dataset = object


class AbstractDataset(ABC, Dataset):
    """Samples whose random draws are a function of (seed, epoch, sample id).

    A key is an index, or a pair (epoch, index) as `EpochSampler` yields. Subclasses define the
    number of samples, how one is made from its index and a seed, and its id.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._batch: Batch | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """Return the name of a sample, independent of where and when it is read.

        By default the index; a dataset whose samples can be a selection overrides it.
        """
        return str(index)

    @abstractmethod
    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """Return the sample as a dict of arrays and numbers; `seed` decides every random draw."""

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch: the tensors of samples stacked by name."""
        from common.datasets.batch_memory import stacked  # torch takes seconds

        return stacked(samples)

    def sample(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of a key as `make_sample` makes it, without torch."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self.make_sample(index, sample_seed(self.seed, epoch, self.sample_id(index)))

    def image_memory(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return where `make_sample` can make its float32 image of a shape without a later copy.

        None where no batch is made, or its images have another shape.
        """
        return None if self._batch is None else self._batch.image_memory(shape)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return {name: _as_tensors(value) for name, value in self.sample(key).items()}

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """Return the samples of a batch, as torch's loader asks for them."""
        from common.datasets.batch_memory import Batch  # torch takes seconds

        self._batch = batch = Batch(len(keys))
        try:
            for key in keys:
                batch.append(self[key])
            return batch
        except BaseException:
            batch.release()
            raise
        finally:
            self._batch = None


def _as_tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_tensors(item) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    from torch import from_numpy  # torch takes seconds

    return from_numpy(value)
