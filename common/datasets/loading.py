"""Data loaders, made alike for training, validation and prediction."""

import atexit
import functools
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from common.datasets.base import AbstractDataset
from common.datasets.batch_memory import KeptMemory
from common.datasets.samplers import EpochSampler, PartSampler
from common.distributed import Processes


def make_loader(
    dataset: AbstractDataset,
    batch_size: int,
    num_workers: int,
    sampler: Sampler | None = None,
    pin_memory: bool = False,
    processes: Processes | None = None,
) -> DataLoader:
    """Return a loader of all samples, the short last batch included.

    Without a sampler the samples come in their order, or those of one process's part where several
    processes evaluate together. The batches of a training are those of its `EpochSampler`, whose
    last one may be longer. The loader has a generator of its own, since one without it draws from
    torch's global generator each time it is iterated, and a resumed run would then differ from an
    uninterrupted one.
    """
    part = None
    if sampler is None and processes is not None and processes.are_many:
        part = PartSampler(len(dataset), processes.rank, processes.num)
    num_workers = min(num_workers, len(dataset))
    if sampler is None and len(dataset) <= batch_size:
        num_workers = 0  # one batch is there no sooner for being made in another process
    if isinstance(sampler, EpochSampler):
        sampler.share(batch_size, 0, 1)
    loader = TrainingLoader if isinstance(sampler, EpochSampler) else DataLoader
    return loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler if part is None else part,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=dataset.collate,
        persistent_workers=num_workers > 0 and sampler is not None,
        worker_init_fn=functools.partial(_prepare_worker, KeptMemory.for_workers(num_workers)),
        generator=torch.Generator().manual_seed(0),
    )


class TrainingLoader(DataLoader):
    """A loader that asks its sampler for whole batches; torch cuts all but the last to one size."""

    _iterator: Any

    def close(self) -> None:
        """End the workers.

        They outlive an iteration. The garbage collector would close their queues first, so that
        none learns that it is to end: torch waits five seconds for each, and it runs on.
        """
        if self._iterator is not None:
            self._iterator._shutdown_workers()
            self._iterator = None

    @property
    def _index_sampler(self) -> Any:
        return _Batches(self.sampler)


class _Batches:
    """The batches of the next iteration, and how many they are, for torch's `DataLoader`."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._sampler.batches()

    def __len__(self) -> int:
        return sum(1 for _ in self._sampler.batch_sizes())


def _prepare_worker(memory: KeptMemory | None, worker: int) -> None:
    """Use one thread, and leave signals to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if memory is not None:
        memory.use_in_worker(worker)


@atexit.register
def _end_workers() -> None:
    """End workers that are left, as of a loader in a traceback.

    multiprocessing sends the signal that they ignore, and would wait for ever. The handler of torch
    would raise that they were killed, in whatever Python still does at its end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
