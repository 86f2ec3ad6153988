"""The slice store: one Blosc2 array of Hounsfield units per series, one chunk per slice.

A file is int16 HU of shape (slices, rows, columns) with a CRC-32 of every slice in its metadata
(`slice_crc32`), because Blosc2 lets some flipped bits pass. Any Blosc2 reader opens it.
"""

import logging
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from common.files import write_bytes

logger = logging.getLogger(__name__)

# Measured on 28 slices of a real head: LZ4HC-1 with byte shuffle is 2.5 times smaller than raw and
# decodes a slice in 0.23 ms. ZSTD-1 gains 10 % of space and decodes in 0.60 ms, in every epoch; LZ4
# decodes no faster and loses 8 %. One block per chunk: slices are read whole. Files of other codecs
# can be read as well.
_CPARAMS = {
    "codec": blosc2.Codec.LZ4HC,
    "clevel": 1,
    "filters": [blosc2.Filter.SHUFFLE],
    "typesize": 2,
    "nthreads": 1,
}
_CHECKSUMS = "slice_crc32"


class UnreadableSlice(Exception):
    """Stored pixels that can't be read, or are not those that were written."""


class SeriesWriter:
    """Compresses the slices of one series one by one, so that only compressed ones are held.

    Args:
        rows, columns: the size of every slice of the series.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self._checksums: list[int] = []
        self._array = blosc2.empty(
            (0, rows, columns),
            dtype=np.int16,
            chunks=(1, rows, columns),
            blocks=(1, rows, columns),
            cparams=blosc2.CParams(**_CPARAMS),
            dparams=blosc2.DParams(nthreads=1),
        )

    def __len__(self) -> int:
        return len(self._checksums)

    def append(self, image_hu: np.ndarray) -> int:
        """Adds a slice of int16 HU (rows, columns) and returns its index in the file."""
        if image_hu.dtype != np.int16 or image_hu.shape != self.shape:
            raise ValueError(
                f"a slice of {image_hu.dtype} {image_hu.shape} does not fit a series of "
                f"int16 {self.shape}"
            )
        index = len(self)
        image_hu = np.ascontiguousarray(image_hu)
        self._array.resize((index + 1, *self.shape))
        # A slice is a whole chunk: this is what assigning it does, without its detours.
        self._array.schunk.update_data(index, image_hu, copy=True)
        self._checksums.append(zlib.crc32(image_hu.data))
        return index

    def write(self, path: Path) -> None:
        """Writes the series to `path` in one step."""
        self._array.vlmeta[_CHECKSUMS] = np.array(self._checksums, dtype="<u4").tobytes()
        write_bytes(path, self._array.to_cframe())


def write_series(path: Path, image_hu: Iterable[np.ndarray]) -> None:
    """Writes int16 HU (slices, rows, columns), or its slices one after the other, to `path`."""
    writer: SeriesWriter | None = None
    for slice_hu in image_hu:
        if writer is None:
            writer = SeriesWriter(*slice_hu.shape)
        writer.append(slice_hu)
    if writer is None:
        raise ValueError(f"no slice to write to {path}")
    writer.write(path)


class SliceStore:
    """Reads slices from the `.b2nd` files of a folder.

    Files are opened when they are first read, and at most `max_open` stay open. Nothing open
    passes to another process: a forked or unpickled store opens its own.

    A slice is compared with its checksum when a process reads it for the first time, so that a
    flipped bit is an error and not another image; it takes a third of the time of reading.

    Args:
        folder: where the store files lie.
        max_open: bound on the number of files held open.
    """

    def __init__(self, folder: Path, max_open: int = 64) -> None:
        self.folder = Path(folder)
        self.max_open = max_open
        self._open_files: OrderedDict[str, tuple[Any, np.ndarray]] = OrderedDict()
        # By file, a byte per slice: whether it was read as it was written.
        self._verified: dict[str, bytearray] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": OrderedDict(), "_verified": {}, "_owner": -1}

    def read(self, store_file: str, store_index: int) -> np.ndarray:
        """Returns one slice as int16 HU (rows, columns).

        Raises:
            UnreadableSlice: the file is missing or damaged, or the slice is not what was written.
        """
        was_open = store_file in self._open_files
        try:
            return self._read(store_file, store_index)
        except UnreadableSlice:
            self._open_files.pop(store_file, None)
            self._verified.pop(store_file, None)
            if not was_open:
                raise
        # The file may have been replaced since it was opened.
        return self._read(store_file, store_index)

    def verify(self, store_file: str) -> list[int]:
        """Returns the indices of the slices of a file that are not what was written.

        Raises:
            UnreadableSlice: the file can't be opened at all.
        """
        array, checksums = self._opened(store_file)
        bad = []
        for index, checksum in enumerate(checksums):
            try:
                if zlib.crc32(_read_slice(array, store_file, index).data) != checksum:
                    bad.append(index)
            except UnreadableSlice:
                bad.append(index)
        return bad

    def num_slices(self, store_file: str) -> int:
        """Returns the number of slices in a file; raises UnreadableSlice if it can't be opened."""
        return len(self._opened(store_file)[1])

    def checksums(self, store_file: str) -> np.ndarray:
        """Returns the CRC-32 of every slice when it was written, uint32; no pixels are read.

        Raises:
            UnreadableSlice: the file can't be opened.
        """
        return self._opened(store_file)[1]

    def close(self) -> None:
        """Forgets the open files."""
        self._open_files.clear()

    def _read(self, store_file: str, store_index: int) -> np.ndarray:
        array, checksums = self._opened(store_file)
        if not 0 <= store_index < len(checksums):
            raise UnreadableSlice(f"{store_file} has no slice {store_index}")
        image_hu = _read_slice(array, store_file, store_index)
        verified = self._verified.get(store_file)
        if verified is None:
            verified = self._verified[store_file] = bytearray(len(checksums))
        if not verified[store_index]:
            if zlib.crc32(image_hu.data) != checksums[store_index]:
                raise UnreadableSlice(f"slice {store_index} of {store_file} fails its checksum")
            verified[store_index] = True
        return image_hu

    def _opened(self, store_file: str) -> tuple[Any, np.ndarray]:
        if self._owner != os.getpid():
            self._open_files, self._verified = OrderedDict(), {}
            self._owner = os.getpid()
        if store_file in self._open_files:
            self._open_files.move_to_end(store_file)
        else:
            self._open_files[store_file] = _open_series(self.folder / store_file)
            if len(self._open_files) > self.max_open:
                self._open_files.popitem(last=False)
        return self._open_files[store_file]


def _open_series(path: Path) -> tuple[Any, np.ndarray]:
    """Returns the Blosc2 array of a store file and the checksums of its slices."""
    try:
        array: Any = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
        checksums = np.frombuffer(array.schunk.vlmeta[_CHECKSUMS], dtype="<u4")
        is_store = (
            array.ndim == 3
            and array.dtype == np.int16
            and len(array) == len(checksums)
            and array.chunks == array.blocks == (1, *array.shape[1:])
        )
    # Blosc2 reports damage with whatever its decoder meets: RuntimeError, KeyError, MemoryError.
    except Exception as error:
        raise UnreadableSlice(f"{path.name} can't be opened: {error!r}") from error
    if not is_store:
        raise UnreadableSlice(f"{path.name} is not a slice store file")
    return array, checksums


def _read_slice(array: Any, store_file: str, index: int) -> np.ndarray:
    image_hu = np.empty(array.shape[1:], np.int16)
    try:
        # A slice is a whole chunk: this is what indexing does, without its detours.
        array.schunk.decompress_chunk(index, image_hu)
        return image_hu
    except Exception as error:
        raise UnreadableSlice(f"slice {index} of {store_file} can't be read: {error!r}") from error
