"""Headers of source images as results take them over: few elements, completed and repaired.

Nothing else of a source reaches a result, so that no defect of it does.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, CTImageStorage
from pydicom.valuerep import DS, PersonName

from common.dicom import elements
from common.dicom.archives import open_source_file
from common.dicom.part10 import OpenFile, open_dicom
from common.dicom.rejection import RejectedFile

UTF8 = "ISO_IR 192"
NOT_STATED = "not stated in the source"
_LONG, _SHORT, _NAME = 64, 16, 64
"""Most characters of the VRs LO, SH, and of a group of PN (PS3.5 6.2)."""
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class Undeliverable(Exception):
    """A study that no valid result can be made for; the message says why, and holds no id."""


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """A slice that results refer to.

    Attributes:
        header: patient and study as results take them over, and the plane of the slice.
        frame: its number in a multi-frame file, from 1; None in others.
        has_plane: whether frame of reference, position, orientation and spacing are known.
        repaired: keywords whose value was not valid in DICOM.
    """

    header: Dataset
    frame: int | None = None
    has_plane: bool = True
    repaired: frozenset[str] = field(default_factory=frozenset)

    @property
    def name(self) -> str:
        """What tells it from all other slices."""
        return f"{self.header.SOPInstanceUID}#{self.frame or ''}"


class Wanted(NamedTuple):
    """A slice of a table: its file, relative to the source folder, and its id there."""

    source_file: str
    image_id: str


def read_slices(folder: Path, wanted: Sequence[Wanted]) -> list[SourceSlice]:
    """Return the slices of one volume, in the order asked for.

    Raises:
        Undeliverable: a file has changed, or lacks UIDs that results could refer to.
    """
    found: dict[Wanted, SourceSlice] = {}
    for name in dict.fromkeys(one.source_file for one in wanted):
        with _opened(folder, name) as opened:
            copied = common_header(opened)
            for one in (each for each in wanted if each.source_file == name):
                found[one] = _slice_of(opened, one.image_id, *copied)
    slices = [found[one] for one in wanted]
    for each in slices:
        if fault := _fault_of_uids({word: str(each.header[word].value) for word in _UIDS}):
            raise Undeliverable(fault)
    if len({one.name for one in slices}) < len(slices):
        raise Undeliverable("images share a SOPInstanceUID: results can't refer to one of them")
    for keyword in ("StudyInstanceUID", "PatientID"):
        if len({str(one.header[keyword].value) for one in slices}) > 1:
            raise Undeliverable(f"its slices differ in {keyword}")
    return slices


@contextlib.contextmanager
def _opened(folder: Path, source_file: str) -> Iterator[OpenFile]:
    try:
        with open_source_file(folder, source_file) as file, open_dicom(file) as opened:
            yield opened
    except RejectedFile as rejected:
        raise Undeliverable(f"a file can't be read again ({rejected})") from rejected


def _fault_of_uids(uids: Mapping[str, str]) -> str:
    """Return which of the UIDs is none; empty where all are."""
    where = "as in files of RSNA 2019: no PACS could file a result"
    wrong = (keyword for keyword in _UIDS if not _is_uid(uids[keyword]))
    return next((f"{keyword} is no valid UID, {where}" for keyword in wrong), "")


def require_uids(folder: Path, source_files: Iterable[str]) -> None:
    """Read headers until one has valid UIDs.

    Raises:
        Undeliverable: there is CT, and none of it has.
    """
    fault = ""
    for name in source_files:
        try:
            with _opened(folder, name) as opened:
                found = {word: elements.text(opened.dataset, word) for word in ("Modality", *_UIDS)}
        except Undeliverable:
            continue  # The reader says what is wrong with it.
        own = _fault_of_uids(found)
        if not own:
            return
        if found["Modality"] == "CT":
            fault = own
    if fault:
        raise Undeliverable(fault)


def _is_uid(text: str) -> bool:
    return bool(text) and UID(text).is_valid


def common_header(opened: OpenFile) -> tuple[Dataset, set[str]]:
    """Return what all slices of a file share, and the keywords that were repaired.

    Type 2 elements that the source lacks are there, and empty. Ids, dates and codes that are not
    valid are emptied; names are cut and lose their control characters.
    """
    source, header, repaired = opened.dataset, Dataset(), set()
    header.SpecificCharacterSet = UTF8
    for keyword, (clean, is_required) in _TAKEN.items():
        text = _text(source, keyword)
        value = clean(text)
        if value or is_required:
            setattr(header, keyword, value)
        if value != text or _NOT_DECODED in text:
            repaired.add(keyword)
    if header.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in header:
        # Required then (PS3.3 C.7.1.1); codes in its place are not taken over.
        header.DeidentificationMethod = NOT_STATED
    header.SOPClassUID = elements.text(source, "SOPClassUID") or opened.media_class
    if not _is_uid(header.SOPClassUID):
        header.SOPClassUID = CTImageStorage  # what the reader took it for
        repaired.add("SOPClassUID")
    for keyword in _UIDS:
        setattr(header, keyword, elements.text(source, keyword))
    header.Modality = "CT"
    header.Rows = elements.required_integer(source, "Rows")
    header.Columns = elements.required_integer(source, "Columns")
    return header, repaired


def _slice_of(opened: OpenFile, image_id: str, common: Dataset, repaired: set[str]) -> SourceSlice:
    """Return a slice of an open file with its plane.

    Args:
        image_id: the SOPInstanceUID; in multi-frame files followed by `_<frame>` from 0.
        common, repaired: the result of `common_header`.
    """
    source, header = opened.dataset, deepcopy(common)
    is_multiframe = (elements.integer(source, "NumberOfFrames") or 1) > 1
    suffix = image_id.removeprefix(f"{header.SOPInstanceUID}_").partition("_")[0]
    number = int(suffix) if is_multiframe else 0
    planes = {word: elements.numbers(source, word, num, number) for word, num in _PLANE}
    for keyword, values in planes.items():
        if values is not None:
            setattr(header, keyword, [DS(value, auto_format=True) for value in values])
    frame_of_reference = elements.text(source, "FrameOfReferenceUID")
    if _is_uid(frame_of_reference):
        header.FrameOfReferenceUID = frame_of_reference
        header.PositionReferenceIndicator = ""
    thickness_mm = elements.first_number(source, "SliceThickness", number)
    if thickness_mm is not None and thickness_mm > 0:
        header.SliceThickness = DS(thickness_mm, auto_format=True)
    has_plane = None not in planes.values() and "FrameOfReferenceUID" in header
    frame = number + 1 if is_multiframe else None
    return SourceSlice(header, frame, has_plane, frozenset(repaired))


_PLANE = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element as it stands in the file, decoded; empty where it is absent."""
    value = dataset.get(keyword)
    values = value if isinstance(value, MultiValue) else [value]
    if not all(isinstance(each, str | PersonName | None) for each in values):
        return _NO_TEXT
    return "\\".join(str(each or "") for each in values).strip(" \0")


_NO_TEXT = "\1"
"""No value that any rule takes."""
_NOT_DECODED = "\ufffd"
"""What bytes become that are not in the character set that the file declares."""


def visible(text: str, most: int = _LONG) -> str:
    """Return a text on one line, without control characters, of at most `most` characters.

    Marks that turn the direction of writing and code points without a character go too.
    """
    shown = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
    return " ".join(shown.split())[:most].rstrip()


def _plain(text: str) -> str:
    kept = (one for one in text if one not in "\\\u2028\u2029")  # these end a value or a line
    return "".join(one for one in kept if unicodedata.category(one)[0] != "C")


def _identifier(most: int) -> Callable[[str], str]:
    """Return what takes an id as it is or not at all: a cut one can be somebody else's."""
    return lambda text: text if text == _plain(text)[:most] and _NOT_DECODED not in text else ""


def _person(text: str) -> str:
    """Return a person's name: three groups at most, of five components each."""
    groups = [_plain("^".join(group.split("^")[:5])) for group in text.split("=")[:3]]
    return "=".join(group[:_NAME].strip() for group in groups).rstrip("=")


def _date(text: str) -> str:
    try:
        datetime.strptime(text, "%Y%m%d")  # takes a space for a zero, too
    except ValueError:
        return ""
    return text if re.fullmatch("[12][0-9]{7}", text) else ""


def _time(text: str) -> str:
    valid = r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"
    return text if re.fullmatch(valid, text) else ""


def _one_of(*values: str) -> Callable[[str], str]:
    return lambda text: text if text in values else ""


_MODIFIED = ("UNMODIFIED", "MODIFIED", "REMOVED")
_TAKEN: Mapping[str, tuple[Callable[[str], str], bool]] = {
    "PatientName": (_person, True),
    "PatientID": (_identifier(_LONG), True),
    "IssuerOfPatientID": (_identifier(_LONG), False),
    "PatientBirthDate": (_date, True),
    "PatientSex": (_one_of("M", "F", "O"), True),
    "PatientIdentityRemoved": (_one_of("YES", "NO"), False),
    "DeidentificationMethod": (_identifier(_LONG), False),
    "LongitudinalTemporalInformationModified": (_one_of(*_MODIFIED), False),
    "StudyDate": (_date, True),
    "StudyTime": (_time, True),
    "StudyID": (_identifier(_SHORT), True),
    "AccessionNumber": (_identifier(_SHORT), True),
    "ReferringPhysicianName": (_person, True),
}
"""Elements of patient and study, what makes each valid, and whether it must be there."""
