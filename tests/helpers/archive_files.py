"""Zip archives for tests: of a folder, and with damage that zipfile would not write."""

import struct
import zipfile
from pathlib import Path

CENTRAL = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"


def zip_folder(folder: Path, archive: Path, prefix: str = "") -> Path:
    """Packs all files below a folder, deflated, and returns the archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def zip_members(archive: Path, members: dict[str, bytes], method: int = 8) -> Path:
    """Packs members as they are called, and returns the archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in members.items():
            # A ZipInfo of one's own keeps its name as it is.
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            file.writestr(info, data)
    return archive


def patch(archive: Path, *, flags: int | None = None, size: int | None = None) -> Path:
    """Change the flags, or the declared size, of the first member in both of its headers."""
    data = bytearray(archive.read_bytes())
    for signature, flags_at, size_at in ((LOCAL, 6, 22), (CENTRAL, 8, 24)):
        start = data.index(signature)
        if flags is not None:
            struct.pack_into("<H", data, start + flags_at, flags)
        if size is not None:
            struct.pack_into("<L", data, start + size_at, size)
    archive.write_bytes(data)
    return archive
