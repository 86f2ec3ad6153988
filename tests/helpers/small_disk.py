"""Disks that are soon full: small file systems; without root, files that can't grow."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Inside the block writing beyond `num_bytes` fails; Python ignores the signal of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def mounted(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a file system of `num_bytes` on a folder inside the block; skip where none may be."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (tmpfs, by root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path, num_bytes_free: int = 0) -> Iterator[None]:
    """Leave that little space in a file system inside the block."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))
        file.truncate(max(0, file.tell() - num_bytes_free))
    try:
        yield
    finally:
        filler.unlink()
