"""Shared memory in which workers hand over batches, kept for the batches to come.

torch maps new shared memory for every batch: its pages are made, zeroed and mapped in the worker,
mapped once more in the main process and given back, which takes longer than writing the pixels.
Here a batch lies in a slot, which is written again once nothing in the main process refers to it
any more. While all slots are in use, batches come as torch sends them. Images can be made in their
place of the batch; those that are not are copied there.
"""

import itertools
import math
import mmap
import multiprocessing
import os
import sys
import weakref
from collections.abc import Sequence
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
        global _worker_memory
        first = worker * SLOTS_PER_WORKER
        _worker_memory = self, range(first, first + SLOTS_PER_WORKER)

    def take(self, slot: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor in a slot, which is free again once its storage is."""
        array = self._bytes(slot, math.prod(shape) * dtype.itemsize)
        weakref.finalize(array, self._free_in, os.getpid(), slot).atexit = False
        return torch.from_numpy(array).view(dtype).view(shape)

    def _stack(self, slots: range, tensors: Sequence[torch.Tensor]) -> "_InSlot | None":
        """Return the stack for the main process; None where no slot is free, or it needs none."""
        if len({tensor.shape for tensor in tensors}) > 1:
            return None
        taken = self.take_free(slots, (len(tensors), *tensors[0].shape), tensors[0].dtype)
        if taken is None:
            return None
        torch.stack(list(tensors), out=taken[0])
        return taken[1]

    def take_free(
        self, slots: range, shape: tuple[int, ...], dtype: torch.dtype
    ) -> "tuple[torch.Tensor, _InSlot] | None":
        """Return a tensor to write, and what stands for it on its way; None as in `_stack`."""
        num_bytes = math.prod(shape) * dtype.itemsize
        slot = next((slot for slot in slots if not self._is_taken[slot]), None)
        if slot is None or not MIN_BYTES <= num_bytes <= SLOT_BYTES:
            return None
        kept = torch.from_numpy(self._bytes(slot, num_bytes)).view(dtype).view(shape)
        self._is_taken[slot] = 1
        return kept, _InSlot(self._key, slot, shape, dtype)

    def free(self, slot: int) -> None:
        """Let a slot be written again."""
        self._is_taken[slot] = 0

    def _free_in(self, process: int, slot: int) -> None:
        """Free a slot whose tensor is gone in the process that took it, not in a fork of it."""
        if os.getpid() == process:
            self.free(slot)

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

    def free(self) -> None:
        """Let the slot be written again: the tensor is not sent."""
        key, slot, *_ = self._place
        _memories[key].free(slot)


def _taken(key: int, slot: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return _memories[key].take(slot, shape, dtype)


class Batch(list[dict[str, Any]]):
    """The samples of a batch, with memory for their images to be made in, one after the other.

    Args:
        num_samples: how many there will be.
    """

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self._num_samples = num_samples
        self._images: torch.Tensor | None = None
        self._in_slot: _InSlot | None = None
        self._num_given = 0

    def image_memory(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the place of the next sample's float32 image; None where it has another shape."""
        if self._images is None:
            whole = (self._num_samples, *shape)
            if _worker_memory is None:
                self._images = torch.empty(whole)
            elif taken := _worker_memory[0].take_free(_worker_memory[1], whole, torch.float32):
                self._images, self._in_slot = taken
        if self._images is None or self._images.shape[1:] != shape or self._num_given > len(self):
            return None
        self._num_given = len(self) + 1
        return self._images[len(self)].numpy()

    def release(self) -> None:
        """Give back memory that no batch was made in."""
        if self._in_slot is not None:
            self._in_slot.free()
        self._images = self._in_slot = None

    def stacked(self) -> Any:
        """Return the batch as torch's `default_collate` does."""
        try:
            return collate(self, collate_fn_map=_COLLATE | {torch.Tensor: self._stacked_tensors})
        finally:
            self.release()

    def _stacked_tensors(self, tensors: Sequence[torch.Tensor], **others: Any) -> Any:
        images = self._images
        if images is None or any(
            (one.shape, one.dtype) != (images.shape[1:], images.dtype) for one in tensors
        ):
            return _stacked_tensors(tensors, **others)
        places = list(images)
        are_there = [
            (one.data_ptr(), one.stride()) == (place.data_ptr(), place.stride())
            for one, place in zip(tensors, places, strict=True)
        ]
        if not any(are_there):  # others of that shape, such as masks
            return _stacked_tensors(tensors, **others)
        for place, one, is_there in zip(places, tensors, are_there, strict=True):
            if not is_there:
                place.copy_(one.clone())  # it may be another view of its place
        made, self._images, self._in_slot = self._in_slot or images, None, None
        return made


def stacked(samples: list[Any]) -> Any:
    """Return a batch as torch's `default_collate` does, in kept memory where there is some."""
    if isinstance(samples, Batch):
        return samples.stacked()
    return collate(samples, collate_fn_map=_COLLATE)


def _stacked_tensors(tensors: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> Any:
    in_slot = _worker_memory and _worker_memory[0]._stack(_worker_memory[1], tensors)
    return in_slot or default_collate_fn_map[torch.Tensor](tensors, collate_fn_map=collate_fn_map)


_COLLATE = {**default_collate_fn_map, torch.Tensor: _stacked_tensors}
_keys = itertools.count()
_memories: weakref.WeakValueDictionary[int, KeptMemory] = weakref.WeakValueDictionary()
_worker_memory: tuple[KeptMemory, range] | None = None
