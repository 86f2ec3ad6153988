"""Several processes that train one network, and the messages between them.

`torchrun` starts the processes and sets RANK, LOCAL_RANK and WORLD_SIZE; without these a process is
alone, and everything here is free. Control messages go over gloo (CPU tensors), gradients over what
suits the device.
"""

import contextlib
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError, Interrupted, PeerFailure

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

# Reading data, validating and writing happen between two exchanges, so it is long.
_TIMEOUT = timedelta(hours=1)
_ANNOUNCEMENT_S = 20.0
_FAILURE = "failure"
_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))

# Where a process leaves the reason of its failure; it lives in torchrun, which outlives it.
_notes: dist.Store | None = None


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Every exchange is made by all of them, in the same order; alone it costs nothing.

    Attributes:
        rank: the number of this process; 0 is the one that writes.
        num: how many there are.
        local_rank: its number on this machine, which is also the number of its GPU.
    """

    rank: int = 0
    num: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """Read what torchrun set; without it the process is alone."""
        try:
            return cls(*(int(os.environ.get(name, default)) for name, default in _VARIABLES))
        except ValueError as error:
            names = ", ".join(name for name, _ in _VARIABLES)
            raise InputError(f"the environment's {names} must be numbers: {error}") from error

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files, logs and monitors."""
        return self.rank == 0

    @property
    def are_many(self) -> bool:
        return self.num > 1

    def total(self, values: list[float]) -> list[float]:
        """Return the sums of `values` over the processes, in float64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums of `values` over the processes; a GPU is not waited for."""
        if self.are_many:
            dist.all_reduce(values)
        return values

    def largest(self, value: float) -> float:
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def gathered(self, value: Value) -> list[Value]:
        """Return the `value` of every process, by rank."""
        if not self.are_many:
            return [value]
        values: list[Any] = [None] * self.num
        dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns in the main process; the others wait for it."""
        if not self.are_many:
            return make()
        message: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(message, src=0)
        return message[0]

    def average(self, tensors: list[torch.Tensor]) -> None:
        """Replace floating-point tensors by their means over the processes, in place."""
        if not self.are_many or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.num).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def _reduced(self, values: list[float], operation: Any) -> list[float]:
        if not self.are_many:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()


@contextlib.contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes for the block.

    Raises:
        InputError: the environment names several processes, but not how to reach them.
        PeerFailure: another process failed; its reason is the message.
    """
    global _notes
    # Already connected, by the caller of several trainings.
    if not processes.are_many or _notes is not None:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, num = next(dist.rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=rank, world_size=num, timeout=_TIMEOUT)
    except (ValueError, dist.DistError) as error:
        raise InputError(
            f"the processes of this training can't be connected ({error}): start it with torchrun"
        ) from error
    _notes = dist.PrefixStore("ich", store)
    try:
        with failing_together():
            yield
    finally:
        _notes = None
        with contextlib.suppress(Exception):  # the others may be gone
            dist.destroy_process_group()


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Announce a failure inside the block to the other processes.

    The broken connection that a failure of another process leaves becomes its reason (PeerFailure).
    """
    try:
        yield
    except (PeerFailure, Interrupted, SystemExit):
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError):
            reason = _announced()
            if reason is not None:
                raise PeerFailure(reason) from error
        _announce(error)
        raise


def wait_for_failure() -> None:
    """Raise PeerFailure with what another process, known to have failed, announces."""
    deadline = time.monotonic() + _ANNOUNCEMENT_S
    while (reason := _announced()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    raise PeerFailure(reason or "another process failed: its own log says why")


def _announce(error: BaseException) -> None:
    if _notes is None:
        return
    reason = " ".join(f"{error or type(error).__name__}".split())
    with contextlib.suppress(Exception):  # the failure itself matters more
        # The first one counts: what the others meet follows from it.
        _notes.compare_set(_FAILURE, "", f"process {dist.get_rank()}: {reason}")


def _announced() -> str | None:
    with contextlib.suppress(Exception):
        if _notes is not None and _notes.check([_FAILURE]):
            return _notes.get(_FAILURE).decode()
    return None


def shared_module(model: nn.Module, compiled: bool) -> Any:
    """Return the module that training calls: gradients are averaged over the processes."""
    # Statistics of batches are averaged after each step instead, so that all are alike then.
    # The option has another name since torch 2.12.
    known = inspect.signature(DistributedDataParallel).parameters
    name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {name: False}
    shared = DistributedDataParallel(model, **options)
    return torch.compile(shared) if compiled else shared
