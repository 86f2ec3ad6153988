"""Estimates of what a preparation takes, logged before it starts and compared with the disk.

The figures of time and memory were measured with uncompressed CT on a local disk
(docs/explanation/performance.md), the ratio with one real head (common/slices/store.py): an order
of magnitude.
"""

import logging
import shutil
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.words import count, duration

logger = logging.getLogger(__name__)

HEADER_MS = 1.5
SLICE_MS = 1.5
MEGAPIXEL_MS = 12.0
COMPRESSED_FACTOR = 3.0
"""How much longer compressed pixels take than others: an assumption, codecs differ widely."""
STORE_RATIO = (2.4, 4.0)
"""How many times smaller the store is than 16-bit pixels: noisy thin slices, and the best case."""
ROW_BYTES = 700
"""Tables, index and record of a slice on disk."""
PROCESS_MB = 250
ROW_MEMORY_BYTES = 4200
"""Memory of the main process per slice while the tables are made."""


def log_estimates(files: pd.DataFrame, num_processes: int, folder: Path) -> None:
    """Log the time, disk and memory that the files may take, as far as their sizes show.

    Args:
        files: with the column size, in bytes.
        num_processes: that share the work; 0 is this one alone.
    """
    num_bytes = int(files["size"].sum())
    pixel_ms = len(files) * (HEADER_MS + SLICE_MS) + num_bytes / 2e6 * MEGAPIXEL_MS
    seconds = pixel_ms / 1000 / max(1, num_processes)
    disk = num_bytes / STORE_RATIO[0] + ROW_BYTES * len(files)
    free = shutil.disk_usage(folder).free
    memory = 1e6 * PROCESS_MB * (1 + num_processes) + ROW_MEMORY_BYTES * len(files)
    logger.info(
        "%s of %s. If they are plain CT: about %s with %s, %s of disk (%s are free), %s of memory",
        count(len(files), "file"),
        size_text(num_bytes),
        duration(max(1, seconds)),
        count(max(1, num_processes), "process"),
        size_text(disk),
        size_text(free),
        size_text(memory),
    )


def check_space(slices: pd.DataFrame, num_processes: int, folder: Path) -> None:
    """Log the time and disk that storing `slices` will take; their headers are known.

    Args:
        slices: rows, columns and size of the file of every slice that is to be stored.
        num_processes: that share the work; 0 is this one alone.

    Raises:
        InputError: the disk is too small even if the slices compress as well as they ever do.
    """
    pixels = slices["rows"].astype("float64") * slices["columns"]
    is_compressed = slices["size"] < 0.75 * 2 * pixels
    cost = pixels * is_compressed.map({True: COMPRESSED_FACTOR, False: 1.0})
    seconds = (len(slices) * SLICE_MS + float(cost.sum()) / 1e6 * MEGAPIXEL_MS) / 1000
    raw, rows = 2 * float(pixels.sum()), ROW_BYTES * len(slices)
    expected, least = (raw / ratio + rows for ratio in STORE_RATIO)
    free = shutil.disk_usage(folder).free
    needed = f"about {size_text(expected)} of disk, {size_text(free)} are free"
    logger.info(
        "storing %s: about %s, %s",
        count(len(slices), "slice"),
        duration(max(1, seconds / max(1, num_processes))),
        needed,
    )
    if free < least:
        raise InputError(
            f"{folder} has too little space: the slices need {needed}: free some space or choose "
            f"another folder, then run the same command again"
        )
    if free < expected:
        logger.warning("the disk may become full: %s", needed)


def size_text(num_bytes: float) -> str:
    """Return a number of bytes for people, in powers of ten."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"
