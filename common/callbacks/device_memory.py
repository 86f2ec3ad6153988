"""The memory of the GPU that a training takes, in the record of a run."""

from __future__ import annotations

import torch

from common.networks.hooks import Callback, FittedNetwork


class DeviceMemory(Callback):
    """Records the peaks of allocated and of reserved GPU memory so far, in MiB.

    Much more reserved than allocated memory means fragmentation. On a CPU nothing is recorded:
    there `memory_mb` of the monitor is the peak of the process.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def on_step_end(self, network: FittedNetwork) -> None:
        device = network.device
        if device.type != "cuda" or (network.state.iteration % self.every and not network.is_done):
            return
        network.gauges["gpu_allocated_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        network.gauges["gpu_reserved_mb"] = torch.cuda.max_memory_reserved(device) / 2**20
