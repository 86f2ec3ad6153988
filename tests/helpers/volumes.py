"""Slice headers as the preparation groups and orders them."""

from collections.abc import Sequence

from common.dicom import SliceHeader
from common.dicom.grouping import find_volumes
from common.preparation.headers import _header_frame, _header_row


def volumes_of(headers: Sequence[SliceHeader], *, keep_ambiguous: bool = True) -> list[list[int]]:
    """The numbers of the headers of each volume, in anatomical order."""
    file = {"size": 0, "mtime_ns": 0}
    table = _header_frame([file | _header_row(header) for header in headers])
    found = find_volumes(table, keep_ambiguous=keep_ambiguous)
    return sorted(volume.rows.tolist() for volume in found.volumes)


def ordered(headers: Sequence[SliceHeader]) -> list[int]:
    """The numbers of the headers of one volume, in anatomical order."""
    (volume,) = volumes_of(headers)
    return volume
