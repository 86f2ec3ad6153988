"""The peak memory of a run, alike in the record of a training and in every benchmark."""

import resource
from typing import Any


def peak_memory_mb(device: Any = None) -> float:
    """Return the peak memory so far in MiB: of a GPU, if `device` is one, else of this process.

    That of a process counts the pages of files that it has mapped.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
