"""The machine that this process runs on, as far as defaults depend on it; importing it is cheap."""

import ctypes
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Gpu:
    """The GPU of a process: its name, CUDA's compute capability, memory in 10^9 bytes."""

    name: str
    capability: tuple[int, int]
    memory_gb: float


@dataclass(frozen=True)
class Machine:
    """What defaults are decided by.

    Attributes:
        num_affine: cores that this process may run on.
        memory_gb: of the machine or of its container, in 10^9 bytes.
        quota: cores' worth of time that containers allow; None for no limit.
        num_slurm: cores of the Slurm task; None outside of one.
        num_processes: processes of torchrun on this machine, which share cores and memory.
        num_in_all: those on all machines.
        gpu: where the network runs, the least of all processes; None for the CPU.
        compile_lacks: what torch.compile would lack on this GPU; None for nothing.
    """

    num_affine: int
    memory_gb: float
    quota: float | None = None
    num_slurm: int | None = None
    num_processes: int = 1
    num_in_all: int = 1
    gpu: Gpu | None = None
    compile_lacks: str | None = None

    @classmethod
    def here(cls, device: str = "auto") -> "Machine":
        """Return this machine, for a process whose --device is `device`."""
        num_processes = _number("LOCAL_WORLD_SIZE") or 1
        return cls(
            num_affine=len(os.sched_getaffinity(0)),
            memory_gb=memory_limit() / 1e9,
            quota=cpu_quota(),
            num_slurm=_number("SLURM_CPUS_PER_TASK"),
            num_processes=num_processes,
            num_in_all=_number("WORLD_SIZE") or 1,
            gpu=_find_gpu(num_processes) if device != "cpu" and _may_have_gpu() else None,
            compile_lacks=lacks_to_compile("cuda"),
        )

    @property
    def num_cores(self) -> int:
        """Whole cores for each process, one at least."""
        limits = [limit for limit in (self.quota, self.num_slurm) if limit is not None]
        return max(1, int(min([self.num_affine, *limits]) / self.num_processes))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores' worth of time of the narrowest control group; None for no limit."""
    limits = _limits("cpu", ("cpu.max", "cpu.cfs_quota_us"), root)
    # Version 1 has the period in a file of its own: 100 ms, unless somebody changed it.
    return min((int(words[0]) / int([*words, "100000"][1]) for words in limits), default=None)


def memory_limit(root: Path = Path("/")) -> int:
    """Return the memory of the machine, or of the narrowest control group, in bytes."""
    limits = _limits("memory", ("memory.max", "memory.limit_in_bytes"), root)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(int(words[0]) for words in limits)])


def _limits(controller: str, names: tuple[str, str], root: Path) -> Iterator[list[str]]:
    """Yield the words of each limit of the control groups of this process.

    Args:
        names: of the file in version 2 of control groups, and in version 1.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / "sys/fs/cgroup" / controllers
            group = top / path.strip("/")
            # In a container the path may be the host's: its own limits lie at the top.
            folders = (group, *group.parents[: len(group.parts) - len(top.parts)])
            for folder in folders if controller in (controllers or controller).split(",") else ():
                with suppress(OSError):
                    words = (folder / names[bool(controllers)]).read_text().split()
                    if words and words[0].isdigit():  # else max, or -1
                        yield words


def lacks_to_compile(device_type: str) -> str | None:
    """Return what torch.compile lacks for a device, in words; None where all is there."""
    # Triton takes a compiler of C, torch.compile for the CPU one of C++.
    given, *wanted = ("CC", "gcc", "clang") if device_type == "cuda" else ("CXX", "g++", "clang++")
    if not any(shutil.which(os.environ.get(given, name)) for name in wanted):
        return f"a compiler ({' or '.join(wanted)})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the headers of Python (python3-dev)"
    return "triton" if device_type == "cuda" and find_spec("triton") is None else None


def _may_have_gpu() -> bool:
    """Return False where torch, which takes seconds to import, would see no GPU."""
    with suppress(OSError):
        return "torch" in sys.modules or bool(ctypes.CDLL("libcuda.so.1"))
    return Path("/dev/kfd").exists()  # of AMD


def _find_gpu(num_processes: int) -> Gpu | None:
    import torch

    used = range(min(num_processes, torch.cuda.device_count()))
    found = [torch.cuda.get_device_properties(number) for number in used]
    if not found:
        return None
    least = min(found, key=lambda gpu: (gpu.major, gpu.minor))
    memory_gb = min(gpu.total_memory for gpu in found) / 1e9
    return Gpu(least.name, (least.major, least.minor), memory_gb)


def _number(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return (int(value) if value.isdigit() else 0) or None


def end_with_parent() -> None:
    """Make the kernel end this process when the thread that started it ends, even if it hangs."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
