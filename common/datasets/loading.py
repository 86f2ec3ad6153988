"""Data loaders, made alike for training, validation and prediction."""

import atexit
import functools
import multiprocessing
import signal

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from common.datasets.base import AbstractDataset
from common.datasets.batch_memory import KeptMemory
from common.datasets.samplers import PartSampler
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
    processes evaluate together. The loader has a generator of its own, since
    one without it draws from torch's global generator each time it is iterated, and a resumed run
    would then differ from an uninterrupted one.
    """
    part = None
    if sampler is None and processes is not None and processes.are_many:
        part = PartSampler(len(dataset), processes.rank, processes.num)
    num_workers = min(num_workers, len(dataset))
    return DataLoader(
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

    multiprocessing sends the signal that they ignore, and would wait for ever.
    """
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
