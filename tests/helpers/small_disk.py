"""Disks that are soon full: small file systems; without root, files that can't grow."""

import contextlib
import resource
import shutil
import subprocess
import threading
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
    """Leave that little space in a file system inside the block, also where files go meanwhile."""
    filler, is_over = folder / "filler", threading.Event()

    def fill() -> None:
        spare = shutil.disk_usage(folder).free - num_bytes_free
        with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as file:
            file.write(bytes(max(0, spare)))

    def keep_full() -> None:
        while not is_over.wait(0.01):
            fill()

    fill()
    thread = threading.Thread(target=keep_full)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        filler.unlink()
