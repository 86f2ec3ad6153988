"""Speed against exactness: settings of torch that hold for the process."""

import ctypes
import logging
import os
import sys

import torch

from common.errors import InputError
from common.machine import lacks_to_compile


def set_precision(
    device: torch.device, tf32: bool, deterministic: bool, compiled: bool = False
) -> None:
    """Set what torch may trade for speed.

    Args:
        device: where the network runs.
        tf32: float32 products on a GPU may round their factors to 10 bits of mantissa.
        deterministic: the same bits on every run on the same hardware; an operation that can't
            give them is an error that names it. Otherwise cuDNN tries its algorithms at the first
            batch and keeps the fastest.
        compiled: torch.compile will be used, and has to know of it.
    """
    if deterministic:
        # Read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if compiled:
        torch.use_deterministic_algorithms(deterministic)
    else:  # The same, but without importing the compiler, which takes seconds.
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")


def require_compiler(device: torch.device) -> None:
    """Raise InputError where torch.compile would lack something, instead of in mid-training."""
    if lacking := lacks_to_compile(device.type):
        raise InputError(f"--tr_compile 1: needs {lacking}: install it, or give --tr_compile 0")


logger = logging.getLogger(__name__)


M_TRIM_THRESHOLD = -1

M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of handing them back to the system.

    By default each large tensor is mapped anew and its pages are faulted in again in every step,
    which on a CPU can take as long as the step itself. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        logger.debug("this C library has no mallopt")
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
