"""The slice store: one Blosc2 array of Hounsfield units per series, one chunk per slice.

A file is int16 HU of shape (slices, rows, columns); see `common.chunks`.
"""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import blosc2
import numpy as np

from common.chunks import ChunkFile, ChunkFormat, ChunkWriter, UnreadableChunk
from common.files import write_bytes

# Measured on 28 slices of a real head: LZ4HC-1 with byte shuffle is 2.5 times smaller than raw and
# decodes a slice in 0.23 ms. ZSTD-1 gains 10 % of space and decodes in 0.60 ms, in every epoch; LZ4
# decodes no faster and loses 8 %.
_FORMAT = ChunkFormat("slice store", np.int16, 1, 3, "slice_crc32", blosc2.Codec.LZ4HC)

# A slice is a chunk.
UnreadableSlice = UnreadableChunk


class SeriesWriter:
    """Compresses the slices of one series one by one, so that only compressed ones are held."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self._chunks = ChunkWriter(_FORMAT, self.shape)

    def __len__(self) -> int:
        return len(self._chunks)

    def append(self, image_hu: np.ndarray) -> int:
        """Add a slice of int16 HU (rows, columns) and return its index in the file."""
        if image_hu.dtype != np.int16 or image_hu.shape != self.shape:
            raise ValueError(
                f"a slice of {image_hu.dtype} {image_hu.shape} does not fit a series of "
                f"int16 {self.shape}"
            )
        return self._chunks.append(np.ascontiguousarray(image_hu), 1)

    def write(self, path: Path) -> None:
        """Write the series to `path` in one step."""
        self._chunks.write_checksums()
        write_bytes(path, self._chunks.array.to_cframe())


def write_series(path: Path, image_hu: Iterable[np.ndarray]) -> None:
    """Write int16 HU (slices, rows, columns), or its slices one after the other, to `path`."""
    writer: SeriesWriter | None = None
    for slice_hu in image_hu:
        if writer is None:
            writer = SeriesWriter(*slice_hu.shape)
        writer.append(slice_hu)
    if writer is None:
        raise ValueError(f"no slice to write to {path}")
    writer.write(path)


class SliceStore:
    """Reads slices from the `.b2nd` files of a folder; see `ChunkFile`.

    Args:
        max_open: bound on the number of files held open.
    """

    def __init__(self, folder: Path, max_open: int = 64) -> None:
        self.folder = Path(folder)
        self.max_open = max_open
        self._files: dict[str, ChunkFile] = {}
        self._recent: OrderedDict[str, ChunkFile] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}, "_recent": OrderedDict()}

    def read(self, store_file: str, store_index: int) -> np.ndarray:
        """Return one slice as int16 HU (rows, columns).

        Raises:
            UnreadableSlice: the file is missing or damaged, or the slice is not what was written.
        """
        file = self._file(store_file)
        was_open = file.is_open
        try:
            return file.read(store_index)[0]
        except UnreadableSlice:
            file.forget()
            if not was_open:
                raise
        # The file may have been replaced since it was opened.
        return file.read(store_index)[0]

    def verify(self, store_file: str) -> list[int]:
        """Return the indices of the slices of a file that are not what was written.

        Raises:
            UnreadableSlice: the file can't be opened at all.
        """
        return self._file(store_file).verify()

    def num_slices(self, store_file: str) -> int:
        """Return the number of slices in a file; raise UnreadableSlice if it can't be opened."""
        return len(self.checksums(store_file))

    def checksums(self, store_file: str) -> np.ndarray:
        """Return the CRC-32 of every slice when it was written, uint32; no pixels are read.

        Raises:
            UnreadableSlice: the file can't be opened.
        """
        return self._file(store_file).checksums

    def close(self) -> None:
        """Close the open files."""
        for file in self._recent.values():
            file.close()
        self._recent.clear()

    def _file(self, store_file: str) -> ChunkFile:
        if store_file in self._recent:
            self._recent.move_to_end(store_file)
            return self._recent[store_file]
        if store_file not in self._files:
            self._files[store_file] = ChunkFile(_FORMAT, self.folder / store_file)
        self._recent[store_file] = self._files[store_file]
        if len(self._recent) > self.max_open:
            self._recent.popitem(last=False)[1].close()
        return self._files[store_file]
