"""Count what the host reads of tensors: on a GPU it would wait for each."""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    torch.ops.aten._local_scalar_dense.default,  # item, float, bool
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class _Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        places = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        by_mask = func.overloadpacket is torch.ops.aten.index and any(
            isinstance(place, Tensor) and place.dtype == torch.bool for place in places
        )
        is_repeat = func is torch.ops.aten.repeat_interleave.Tensor
        unsized = is_repeat and (kwargs or {}).get("output_size") is None
        if func in _READS or by_mask or unsized:
            self.reads.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads(monkeypatch):
    """Yield the list of what is read in the block: names of operators, and `tolist` and `numpy`."""
    mode = _Mode()
    with monkeypatch.context() as patch, mode:
        for name in ("tolist", "numpy", "cpu"):
            original = getattr(Tensor, name)

            def noted(self, *arguments, name=name, original=original, **options):
                mode.reads.append(name)
                return original(self, *arguments, **options)

            patch.setattr(Tensor, name, noted)
        yield mode.reads
