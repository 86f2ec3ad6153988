"""Blosc2 arrays of 16-bit numbers that are written and read chunk by chunk.

Every chunk has a CRC-32 in the metadata of its file, because Blosc2 lets some flipped bits pass.
Any Blosc2 reader opens such a file.
"""

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import blosc2
import numpy as np
from numpy.typing import NDArray

from common.errors import DamagedData


class UnreadableChunk(DamagedData):
    """Stored numbers that can't be read, or are not those that were written."""


class ChunkFormat(NamedTuple):
    """What all files of a kind share.

    Attributes:
        name: of the kind, for messages.
        dtype: of the numbers, of two bytes.
        num_rows: of a chunk, along the first axis; chunks are whole along the others.
        num_axes: of the array.
        checksums: their name in the metadata.
        codec: Blosc2's, for writing; files of other codecs can be read as well.
    """

    name: str
    dtype: type[np.generic]
    num_rows: int
    num_axes: int
    checksums: str
    codec: blosc2.Codec


class ChunkWriter:
    """Compresses chunks of rows of `shape` one by one, into `path` or, without one, in memory."""

    def __init__(self, kind: ChunkFormat, shape: tuple[int, ...], path: Path | None = None) -> None:
        self._kind, self._shape = kind, shape
        self._checksums: list[int] = []
        chunk = (kind.num_rows, *shape)
        place = {} if path is None else {"urlpath": str(path), "mode": "w", "contiguous": True}
        self.array: Any = blosc2.empty(
            (0, *shape),
            dtype=kind.dtype,
            chunks=chunk,
            blocks=chunk,
            cparams=blosc2.CParams(
                codec=kind.codec,
                clevel=1,
                filters=[blosc2.Filter.SHUFFLE],
                typesize=2,
                nthreads=1,
            ),
            dparams=blosc2.DParams(nthreads=1),
            **place,
        )

    def __len__(self) -> int:
        return len(self._checksums)

    def append(self, chunk: NDArray[Any], num_rows: int) -> int:
        """Add a whole, contiguous chunk of which `num_rows` rows count, and return its index."""
        index = len(self)
        self.array.resize((index * self._kind.num_rows + num_rows, *self._shape))
        # What assigning a chunk does, without its detours.
        self.array.schunk.update_data(index, chunk, copy=True)
        self._checksums.append(zlib.crc32(chunk.data))
        return index

    def write_checksums(self) -> None:
        """Write the checksums of all chunks into the metadata."""
        data = np.array(self._checksums, dtype="<u4").tobytes()
        self.array.schunk.vlmeta[self._kind.checksums] = data


class ChunkFile:
    """Reads chunks of a file, which is opened when it is first needed.

    Nothing open passes to another process: a forked or unpickled file is opened again. A chunk is
    compared with its checksum when a process reads it for the first time, which takes a third of
    the time of reading. All methods raise UnreadableChunk where the file can't be opened.
    """

    def __init__(self, kind: ChunkFormat, path: Path) -> None:
        self.kind, self.path = kind, path
        self._opened: tuple[Any, NDArray[np.uint32]] | None = None
        self._verified = bytearray()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_owner": -1}

    def forget(self) -> None:
        """Close the file, and forget which chunks were verified."""
        self._verified = bytearray()
        self._owner = os.getpid()
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._opened = None

    @property
    def is_open(self) -> bool:
        """Whether this process has the file open."""
        return self._opened is not None and self._owner == os.getpid()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self._open()[0].shape)

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 of every chunk when it was written; no numbers are read."""
        return self._open()[1]

    def read(self, index: int) -> NDArray[Any]:
        """Return a chunk; raise UnreadableChunk where it is not what was written."""
        array, checksums = self._open()
        if not 0 <= index < len(checksums):
            raise UnreadableChunk(f"{self.path.name} has no chunk {index}")
        chunk = np.empty(array.chunks, self.kind.dtype)
        try:
            # What indexing does, without its detours.
            array.schunk.decompress_chunk(index, chunk)
        except Exception as error:
            reason = f"chunk {index} of {self.path.name} can't be read: {error!r}"
            raise UnreadableChunk(reason) from error
        if not self._verified[index]:
            if zlib.crc32(chunk.data) != checksums[index]:
                raise UnreadableChunk(f"chunk {index} of {self.path.name} fails its checksum")
            self._verified[index] = True
        return chunk

    def verify(self) -> list[int]:
        """Read all chunks anew, and return the indices of those that are not what was written."""
        bad = []
        self._verified = bytearray(len(self.checksums))
        for index in range(len(self.checksums)):
            try:
                self.read(index)
            except UnreadableChunk:
                bad.append(index)
        return bad

    def _open(self) -> tuple[Any, NDArray[np.uint32]]:
        if self._owner != os.getpid():
            self.forget()
        if self._opened is not None:
            return self._opened
        kind = self.kind
        try:
            array: Any = blosc2.open(str(self.path), mode="r", dparams=blosc2.DParams(nthreads=1))
            checksums = np.frombuffer(array.schunk.vlmeta[kind.checksums], dtype="<u4")
            is_of_kind = (
                (array.ndim, array.dtype) == (kind.num_axes, kind.dtype)
                and array.chunks == array.blocks == (kind.num_rows, *array.shape[1:])
                and len(checksums) == -(-len(array) // kind.num_rows)
            )
        # Blosc2 reports damage with whatever its decoder meets: RuntimeError, MemoryError, ...
        except Exception as error:
            raise UnreadableChunk(f"{self.path.name} can't be opened: {error!r}") from error
        if not is_of_kind:
            raise UnreadableChunk(f"{self.path.name} is not a {kind.name} file")
        if len(self._verified) != len(checksums):
            self._verified = bytearray(len(checksums))
        self._opened = (array, checksums)
        return self._opened
