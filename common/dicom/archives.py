"""Zip archives: what is in them, and members read as streams, never extracted.

A member is named `a.zip!/b.dcm`. Its name only looks it up in the archive: `../x`, `/etc/x` or
`C:\\x` is a name like any other and becomes no path. One that is not in UTF-8, whatever the
archive declares, is read as code page 437, where every byte is a letter.
"""

import contextlib
import errno
import functools
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from common.dicom.names import path_of
from common.dicom.rejection import RejectedFile

MEMBER_MARK = "!/"
ARCHIVE_SUFFIX = ".zip"

MAX_MEMBER_BYTES = (1 << 29) + (1 << 25)
"""Largest member: the largest image that is decoded (`common.dicom.checks.MAX_PIXELS`)."""
MAX_TOTAL_BYTES = 1 << 40
"""Largest sum of members of one archive; all of RSNA 2019 has 0.46 TB."""
MAX_DIRECTORY_BYTES = 1 << 25
"""Largest list of members, as it lies in the file: some 300,000 with usual names."""
MAX_RATIO = 200
"""Members above RATIO_FROM_BYTES unpack to at most this many times their packed size.

Smaller ones may: an empty slice packs a thousandfold. CT as a whole packs two- to fourfold.
"""
RATIO_FROM_BYTES = 1 << 24
MAX_TOTAL_RATIO = 100
"""Archives of more than TOTAL_RATIO_FROM_BYTES unpack to at most this many times their size."""
TOTAL_RATIO_FROM_BYTES = 1 << 30

_MARK = re.compile(re.escape(ARCHIVE_SUFFIX + MEMBER_MARK), re.IGNORECASE | re.ASCII)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000  # password, strong encryption, encrypted directory
_UNIX = 3
_LOCAL_HEADER_BYTES = 30
_LISTED = struct.Struct("<4s4xH18xHHH12x")
"""The start of an entry in the list of members: signature, flags, and lengths of what follows."""
_LISTED_SIGNATURE = b"PK\x01\x02"
_LOCAL_SIGNATURE = b"PK\x03\x04"
_UTF8_FLAG = 0x800
_CHUNK_BYTES = 1 << 20
_OTHER_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
}


T = TypeVar("T")


@dataclass(frozen=True)
class Archive:
    """An open archive that passed `open_archive`.

    Attributes:
        file: the archive.
        members: by name; of members of one name the last, as when unpacking.
        num_replaced: members that a later one of the same name stands for.
    """

    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    num_replaced: int

    def close(self) -> None:
        """Close the file; zipfile leaves those open that it was given."""
        stream = self.file.fp
        self.file.close()
        if stream is not None:
            stream.close()


def open_archive(path: Path) -> Archive:
    """Return an archive of which nothing but the list of members is read yet.

    Raises:
        RejectedFile: unreadable, bad_archive, or zip_bomb, where the whole is beyond the limits.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(_CappedFile(path))
            file = stream.read_names(zipfile.ZipFile, stream)
        except RejectedFile:
            raise
        except Exception as error:
            reason = "no list of members at its end: cut off, or no zip archive"
            raise _failed(error, reason) from error
        infos = [info for info in file.infolist() if not info.filename.endswith("/")]
        _check_total(infos, os.path.getsize(path), file.start_dir)
        stack.pop_all()
    members = {info.filename: info for info in infos}
    return Archive(file, members, len(infos) - len(members))


@contextlib.contextmanager
def open_source_file(folder: Path, source_file: str) -> Iterator[Path | BinaryIO]:
    """Yield the path of a file, or the stream of a member of an archive.

    Raises:
        RejectedFile: for whatever is wrong with an archive or a member.
    """
    found = _find_archive(folder, source_file)
    if found is None:
        if MEMBER_MARK in source_file and ".." in source_file.split("/"):
            raise RejectedFile("unreadable", "the archive is gone")
        yield folder / path_of(source_file)
        return
    path, name, status = found
    archive = _cached_archive(path, status.st_size, status.st_mtime_ns)
    info = archive.members.get(name)
    if info is None:
        raise RejectedFile("unreadable", "the archive has changed since it was listed")
    _check_member(info)
    try:
        opened = cast(_CappedFile, archive.file.fp).read_names(archive.file.open, info)
    except Exception as error:
        raise _failed(error, "the member is not where the archive says") from error
    with opened:
        yield cast(BinaryIO, MemberStream(opened, info.file_size))


def explain_not_dicom(folder: Path, source_file: str, start: bytes) -> RejectedFile | None:
    """Return why a file that is no DICOM is not read, where it is an archive; else None.

    Args:
        start: its first bytes.
    """
    kind = next((name for magic, name in _OTHER_ARCHIVES.items() if start.startswith(magic)), None)
    if _find_archive(folder, source_file) is not None:
        if kind is None and not source_file.lower().endswith(ARCHIVE_SUFFIX):
            return None
        reason = "an archive within an archive is not opened: unpack the outer one"
        return RejectedFile("nested_archive", reason)
    if source_file.lower().endswith(ARCHIVE_SUFFIX):
        try:
            archive = open_archive(folder / path_of(source_file))
        except RejectedFile as rejected:
            return rejected
        with contextlib.closing(archive):
            if archive.members:
                return RejectedFile("not_dicom", "an archive (zip) that was not asked to be opened")
            return RejectedFile("bad_archive", "an archive without files")
    if kind is None:
        return None
    rule = "files named .zip are opened by scripts, not by a worker"
    return RejectedFile("not_dicom", f"an archive ({kind}): unpack it ({rule})")


class MemberStream(io.BufferedIOBase):
    """A member as a seekable stream; no more of it is unpacked, and kept, than is read.

    Args:
        size: its size by the archive's list, which is all that is ever unpacked.
    """

    def __init__(self, opened: Any, size: int) -> None:
        self._opened = opened
        self._size = size
        self._data = bytearray()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position and return it; nothing is unpacked for it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes; raise RejectedFile where the member is damaged."""
        stop = self._size if size is None or size < 0 else min(self._size, self._position + size)
        self._unpack(stop)
        data = bytes(memoryview(self._data)[self._position : max(stop, self._position)])
        self._position += len(data)
        return data

    def check(self) -> None:
        """Unpack the rest, so that the checksum is compared; raise RejectedFile."""
        self._unpack(self._size)

    def _unpack(self, stop: int) -> None:
        while len(self._data) < stop:
            try:
                data = self._opened.read(min(_CHUNK_BYTES, stop - len(self._data)))
            except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
                raise _failed(error, "the member is damaged, or larger than declared") from error
            if not data:
                raise RejectedFile("bad_archive", "the member is smaller than the archive declares")
            self._data += data


class _CappedFile(io.BufferedReader):
    """A file of which no more than MAX_DIRECTORY_BYTES are read at once.

    zipfile reads the list of members in one call, whatever size the file declares for it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._undeclares = False

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            reason = f"a list of members of {size} bytes, above the limit of {MAX_DIRECTORY_BYTES}"
            raise RejectedFile("zip_bomb", reason)
        data = super().read(MAX_DIRECTORY_BYTES if size is None or size < 0 else size)
        return _without_false_utf8(data) if self._undeclares else data

    def read_names(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of zipfile; again, where a name is not in the UTF-8 that is declared."""
        try:
            return function(*arguments)
        except UnicodeDecodeError:
            self._undeclares = True
            return function(*arguments)
        finally:
            self._undeclares = False


def _without_false_utf8(data: bytes) -> bytes:
    """Return the list of members, or the header of one, with UTF-8 declared only where it is."""
    fixed, start = bytearray(data), 0
    if data.startswith(_LOCAL_SIGNATURE):  # asked for where its name is known not to be UTF-8
        fixed[7] &= ~(_UTF8_FLAG >> 8)
    while data.startswith(_LISTED_SIGNATURE, start) and start + _LISTED.size <= len(data):
        _, flags, *lengths = _LISTED.unpack_from(data, start)
        name_start = start + _LISTED.size
        try:
            data[name_start : name_start + lengths[0]].decode()
        except UnicodeDecodeError:
            struct.pack_into("<H", fixed, start + 8, flags & ~_UTF8_FLAG)
        start = name_start + sum(lengths)
    return bytes(fixed)


def _find_archive(folder: Path, source_file: str) -> tuple[Path, str, os.stat_result] | None:
    """Return path and status of the archive that holds a member, and the member's name."""
    for mark in _MARK.finditer(source_file):
        path = folder / path_of(source_file[: mark.start() + len(ARCHIVE_SUFFIX)])
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            return path, source_file[mark.end() :], status
    return None


@functools.lru_cache(maxsize=2)
def _cached_archive(path: Path, size: int, mtime_ns: int) -> Archive:
    """Return an open archive; two stay open in a process, so that lists are read rarely."""
    return open_archive(path)


def _check_total(infos: list[zipfile.ZipInfo], packed: int, start_of_list: int) -> None:
    """Raise where an archive as a whole unpacks to too much."""
    total = sum(info.file_size for info in infos)
    if total > MAX_TOTAL_BYTES:
        reason = f"unpacks to {total} bytes, above the limit of {MAX_TOTAL_BYTES}"
        raise RejectedFile("zip_bomb", reason)
    if total > TOTAL_RATIO_FROM_BYTES and total > MAX_TOTAL_RATIO * packed:
        reason = f"unpacks to {total // packed} times its size, above the limit of"
        raise RejectedFile("zip_bomb", f"{reason} {MAX_TOTAL_RATIO}")
    ordered = sorted(infos, key=lambda info: info.header_offset)
    stops = [info.header_offset for info in ordered[1:]] + [start_of_list]
    for info, stop in zip(ordered, stops):
        end = info.header_offset + _LOCAL_HEADER_BYTES + len(info.orig_filename)
        if end + info.compress_size > stop:
            raise RejectedFile("zip_bomb", "members share packed bytes, or lie beyond the file")


def _check_member(info: zipfile.ZipInfo) -> None:
    """Raise where a member is not to be unpacked."""
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise RejectedFile("encrypted", "the member needs a password")
    if info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16):
        raise RejectedFile("not_dicom", "a symbolic link in an archive: not followed")
    ratio = info.file_size // max(1, info.compress_size)
    if info.file_size > RATIO_FROM_BYTES and ratio > MAX_RATIO:
        reason = f"unpacks to {info.file_size} bytes, {ratio} times its packed size; the limit is"
        raise RejectedFile("zip_bomb", f"{reason} {MAX_RATIO}")
    if info.file_size > MAX_MEMBER_BYTES:
        reason = f"unpacks to {info.file_size} bytes, above the limit of {MAX_MEMBER_BYTES}"
        raise RejectedFile("too_large", f"{reason} for a member of an archive")
    if info.compress_type not in _METHODS:
        reason = f"packed by method {info.compress_type}; only deflate (8) is unpacked"
        raise RejectedFile("bad_archive", reason)


def _failed(error: Exception, reason: str) -> RejectedFile:
    """Return a rejection for an error of zipfile, whose own text can quote names."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        # EINVAL: the list of members points before the start of the file.
        return RejectedFile("unreadable", os.strerror(error.errno))
    return RejectedFile("bad_archive", reason)
