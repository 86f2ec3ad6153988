"""Shared memory in which workers hand over batches, kept for the batches to come.

torch maps new shared memory for every batch: its pages are made, zeroed and mapped in the worker,
mapped once more in the main process and given back, which takes longer than writing the pixels.
Here a batch lies in a slot, which is written again once nothing in the main process refers to it
any more. While all slots are in use, batches come as torch sends them.
"""

import functools
import itertools
import math
import mmap
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data._utils.collate import collate, default_collate_fn_map

# A worker has up to two batches ready; the main process uses one or two, and pins another.
SLOTS_PER_WORKER = 5
# Smaller and larger tensors go as torch sends them: the former gain nothing, the latter would keep
# too much. Only what has been written takes up memory: usually three slots of a worker.
MIN_BYTES = 2**16
SLOT_BYTES = 2**27


class KeptMemory:
    """Slots for the workers of one loader, made before these are forked.

    Raises:
        OSError: the system does not give such memory.
    """

    def __init__(self, num_workers: int) -> None:
        num_slots = num_workers * SLOTS_PER_WORKER
        self._file = os.memfd_create("batches")
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, num_slots * SLOT_BYTES)
        # A byte for each slot: 1 from when a worker writes it until the main process frees it.
        self._is_taken = mmap.mmap(-1, num_slots)
        self._maps: dict[int, mmap.mmap] = {}
        self._key = next(_keys)
        _memories[self._key] = self

    @classmethod
    def for_workers(cls, num_workers: int) -> Self | None:
        """Return memory for the workers of a loader, or None where it would be of no use."""
        is_forked = multiprocessing.get_context().get_start_method() == "fork"
        if num_workers == 0 or not is_forked or not sys.platform.startswith("linux"):
            return None
        try:
            return cls(num_workers)
        except OSError:
            return None

    def use_in_worker(self, worker: int) -> None:
        """Make `stacked` write into the slots of a worker; to be called in its process."""
        global _stack_in_slot
        first = worker * SLOTS_PER_WORKER
        slots = range(first, first + SLOTS_PER_WORKER)
        _stack_in_slot = functools.partial(self._stack, slots)

    def take(self, slot: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor in a slot, which is free again once its storage is."""
        array = self._bytes(slot, math.prod(shape) * dtype.itemsize)
        weakref.finalize(array, self._is_taken.__setitem__, slot, 0).atexit = False
        return torch.from_numpy(array).view(dtype).view(shape)

    def _stack(self, slots: range, tensors: Sequence[torch.Tensor]) -> "_InSlot | None":
        """Return the stack for the main process; None where no slot is free, or it needs none."""
        first = tensors[0]
        num_bytes = first.nbytes * len(tensors)
        slot = next((slot for slot in slots if not self._is_taken[slot]), None)
        if slot is None or not MIN_BYTES <= num_bytes <= SLOT_BYTES:
            return None
        shape = (len(tensors), *first.shape)
        kept = torch.from_numpy(self._bytes(slot, num_bytes)).view(first.dtype).view(shape)
        torch.stack(list(tensors), out=kept)
        self._is_taken[slot] = 1
        return _InSlot(self._key, slot, shape, first.dtype)

    def _bytes(self, slot: int, num_bytes: int) -> np.ndarray:
        kept = self._maps.get(slot)
        if kept is None or len(kept) < num_bytes:
            kept = mmap.mmap(self._file, num_bytes, offset=slot * SLOT_BYTES)
            self._maps[slot] = kept
        return np.frombuffer(kept, np.uint8, num_bytes)


class _InSlot:
    """Stands for a tensor on its way to the main process, where unpickling makes it one."""

    def __init__(self, *place: Any) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, self._place


def _taken(key: int, slot: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return _memories[key].take(slot, shape, dtype)


def stacked(samples: list[Any]) -> Any:
    """Return a batch as torch's `default_collate` does, in kept memory where there is some."""
    return collate(samples, collate_fn_map=_COLLATE)


def _stacked_tensors(tensors: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> Any:
    in_slot = _stack_in_slot and _stack_in_slot(tensors)
    return in_slot or default_collate_fn_map[torch.Tensor](tensors, collate_fn_map=collate_fn_map)


_COLLATE = {**default_collate_fn_map, torch.Tensor: _stacked_tensors}
_keys = itertools.count()
_memories: weakref.WeakValueDictionary[int, KeptMemory] = weakref.WeakValueDictionary()
_stack_in_slot: Callable[[Sequence[torch.Tensor]], _InSlot | None] | None = None
