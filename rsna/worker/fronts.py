"""Where studies come from: an Orthanc, asked by REST, or a folder of DICOM files.

Both are asked what is there, not what has changed: nothing that happens while the worker or the
Orthanc is down is lost. Whatever they answer is bounded and checked.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import HTTPError

from common.delivery.sending import CONNECT_S
from common.dicom.elements import text
from common.dicom.part10 import MAX_FILE_BYTES, open_dicom
from common.dicom.rejection import RejectedFile
from common.files import make_folder
from rsna.worker.admission import Arrival, Instance, age_of, clean, date_of, texts
from rsna.worker.child import Stopped

READ_S, WHOLE_S = 30.0, 300.0
"""Time for the next bytes of an answer, and for all of it."""
MOST_ANSWER_BYTES = 64 << 20
"""Largest JSON answer that is read."""
LIST_AGAIN_S = 300.0
"""Time after which all studies are listed though the Orthanc names no change."""
LONG_LOOK_S = 0.1
"""A look at a folder that takes longer is followed by a pause of 20 times as long."""
PAGE = 500
"""Studies that are listed by one request."""
MOST_STUDIES = 200_000
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_UID = re.compile(r"[\x21-\x7e]{1,128}")


class FrontFailure(Exception):
    """The front can't be asked now: try again later. The message names no study."""


class Gone(Exception):
    """The front does not give an image that it had, or says that it has; others it may."""


class Listed(NamedTuple):
    """A study of a front: its name there, and what changes when something arrives."""

    name: str
    version: str


class OrthancFront:
    """An Orthanc; every method may raise FrontFailure, or Stopped once `is_over` holds.

    Args:
        address: of its REST API, such as http://127.0.0.1:8042.
        own_root: UIDs that begin with it are ours, and not analysed; None where ours have none.
    """

    def __init__(
        self, address: str, own_root: str | None, auth: tuple[str, str] | None = None
    ) -> None:
        self.address, self.own_root = address.rstrip("/"), own_root
        self.session = requests.Session()
        # Neither proxies nor passwords of the environment are meant for it.
        self.session.trust_env = False
        self.session.auth = auth
        self.session.headers["Accept-Encoding"] = "identity"
        self.is_over: Callable[[], bool] = lambda: False
        self._last: object = None
        self._listed_at = 0.0

    def studies(self) -> list[Listed] | None:
        """Return all studies, the oldest change first; None where no change was made."""
        last = _mapping(self._json("/changes?last")).get("Last")
        is_recent = time.monotonic() < self._listed_at + LIST_AGAIN_S
        if last is not None and last == self._last and is_recent:
            return None
        found: dict[str, tuple[str, str]] = {}
        while True:
            page = _items(self._json(f"/studies?expand&since={len(found)}&limit={PAGE}"))
            before = len(found)
            for item in page:
                name, update = str(item.get("ID")), clean(item.get("LastUpdate"))
                if _ORTHANC_ID.fullmatch(name):
                    series = item.get("Series")
                    num_series = len(series) if isinstance(series, list) else 0
                    found[name] = (update, f"{update} {num_series}")
            if len(found) > MOST_STUDIES:
                raise FrontFailure(f"it lists more than {MOST_STUDIES} studies")
            if len(page) < PAGE or len(found) == before:
                break
        self._last, self._listed_at = last, time.monotonic()
        order = sorted(found.items(), key=lambda entry: (entry[1], entry[0]))
        return [Listed(name, version) for name, (_, version) in order]

    def look(self, name: str) -> Arrival | None:
        """Return the CT images of a study that are not ours; None if it is gone."""
        try:
            study = _mapping(self._json(f"/studies/{name}"))
            all_series = _items(self._json(f"/studies/{name}/series"))
            all_instances = _items(self._json(f"/studies/{name}/instances"))
        except Gone:
            return None
        tags = {str(item.get("ID")): _tags(item) for item in all_series}
        is_ct = {own for own, found in tags.items() if clean(found.get("Modality")) == "CT"}
        instances = []
        for item in all_instances:
            uid, place = clean(_tags(item).get("SOPInstanceUID")), str(item.get("ID"))
            is_valid = _ORTHANC_ID.fullmatch(place) and _UID.fullmatch(uid)
            is_ours = _is_own(uid, self.own_root)
            if is_valid and str(item.get("ParentSeries")) in is_ct and not is_ours:
                size = item.get("FileSize")
                num_bytes = int(size) if isinstance(size, int) else 0
                instances.append(Instance(uid, uid, place, num_bytes))
        own, patient = _tags(study), _mapping(study.get("PatientMainDicomTags"))
        date = date_of(own.get("StudyDate"))
        series = [{**own, **found} for own_id, found in tags.items() if own_id in is_ct]
        descriptions = [own.get("StudyDescription"), *(s.get("SeriesDescription") for s in series)]
        return Arrival(
            _hash(name),
            tuple(instances),
            texts(each.get("StationName") for each in series),
            texts(descriptions),
            age_of(patient.get("PatientBirthDate"), date),
            date,
        )

    def fetch(self, arrival: Arrival, folder: Path) -> None:
        """Copy the images into a folder; raise Gone."""
        make_folder(folder)
        for number, instance in enumerate(arrival.instances):
            with open(folder / f"{number:05d}.dcm", "wb") as file:
                for chunk in self._stream(f"/instances/{instance.place}/file", MAX_FILE_BYTES):
                    file.write(chunk)

    def _json(self, path: str) -> Any:
        try:
            return json.loads(b"".join(self._stream(path, MOST_ANSWER_BYTES)))
        except (ValueError, RecursionError) as error:
            raise FrontFailure("an answer that is no JSON") from error

    def _stream(self, path: str, most: int) -> Iterator[bytes]:
        num_bytes, end = 0, time.monotonic() + WHOLE_S
        is_image = path.startswith("/instances/")  # Others may be well.
        try:
            how: Any = {"timeout": (CONNECT_S, READ_S), "stream": True, "allow_redirects": False}
            with self.session.get(self.address + path, **how) as answer:
                status = answer.status_code
                if status != 200:
                    # A list does not go: what answers so is no Orthanc, or not up yet.
                    final = (404, 500) if is_image else (404,)
                    is_gone = status in final and _ORTHANC_ID.search(path)
                    raise (Gone if is_gone else FrontFailure)(f"HTTP status {status}")
                while chunk := answer.raw.read1(1 << 20):
                    num_bytes += len(chunk)
                    if num_bytes > most:
                        text = f"an answer of more than {most} bytes"
                        raise Gone(text) if is_image else FrontFailure(text)
                    if self.is_over():
                        raise Stopped
                    if time.monotonic() > end:
                        raise FrontFailure(f"an answer that takes more than {WHOLE_S:g} s")
                    yield chunk
        except (requests.RequestException, HTTPError) as error:
            raise FrontFailure(type(error).__name__) from error


class _File(NamedTuple):
    """The headers of a file, read once; `group` is what its study is known by."""

    stamp: tuple[int, int]
    group: str
    uid: str
    is_wanted: bool
    tags: Mapping[str, str]


_TAGS = (
    *("StationName", "StudyDescription", "SeriesDescription"),
    *("StudyDate", "PatientBirthDate", "PatientAge"),
)


class FolderFront:
    """A folder that DICOM files are put into, at any depth; nothing in it is changed.

    Files that are not DICOM make a study of each folder, which is rejected with the reason. What is
    in a zip archive is not looked at.

    Args:
        own_root, is_over: as of `OrthancFront`.
    """

    def __init__(self, folder: Path, own_root: str | None) -> None:
        self.folder, self.own_root = folder, own_root
        self.is_over: Callable[[], bool] = lambda: False
        self._files: dict[str, _File] = {}
        self._next_s = 0.0

    def studies(self) -> list[Listed] | None:
        """Return the studies by sizes and times of their files; None soon after a long look."""
        start = time.monotonic()
        if start < self._next_s:
            return None
        files: dict[str, _File] = {}
        groups: dict[str, list[str]] = {}
        newest: dict[str, int] = {}
        for path in _regular_files(self.folder):
            if self.is_over():
                raise Stopped
            try:
                status = path.stat()
            except OSError:
                continue
            stamp, name = (status.st_size, status.st_mtime_ns), os.fspath(path)
            known = self._files.get(name)
            files[name] = known if known and known.stamp == stamp else self._read(path, stamp)
            group = files[name].group
            groups.setdefault(group, []).append(f"{name} {stamp}")
            newest[group] = max(newest.get(group, 0), stamp[1])
        self._files = files
        end = time.monotonic()
        self._next_s = end + (20 * (end - start) if end - start > LONG_LOOK_S else 0)
        order = sorted(groups, key=lambda group: (newest[group], group))
        return [Listed(group, _hash("\n".join(sorted(groups[group])))) for group in order]

    def look(self, name: str) -> Arrival | None:
        """Return the CT images of a study that are not ours, and what is no DICOM."""
        own = {path: file for path, file in self._files.items() if file.group == name}
        wanted = {path: file for path, file in own.items() if file.is_wanted}
        if not own:
            return None
        tags = [file.tags for file in wanted.values()]
        date = next(filter(None, (date_of(each.get("StudyDate")) for each in tags)), None)
        ages = (age_of(each.get("PatientBirthDate"), date, each.get("PatientAge")) for each in tags)
        instances = (
            Instance(file.uid, f"{file.uid} {file.stamp[0]}", path, file.stamp[0])
            for path, file in sorted(wanted.items())
        )
        words = ("StudyDescription", "SeriesDescription")
        return Arrival(
            name,
            tuple(instances),
            texts(each.get("StationName") for each in tags),
            texts(each.get(word) for each in tags for word in words),
            next((age for age in ages if age is not None), None),
            date,
        )

    def fetch(self, arrival: Arrival, folder: Path) -> None:
        make_folder(folder)
        for number, instance in enumerate(arrival.instances):
            if not os.access(instance.place, os.R_OK):
                raise Gone("it is no more there, or not readable")
            shutil.copyfile(instance.place, folder / f"{number:05d}.dcm")

    def _read(self, path: Path, stamp: tuple[int, int]) -> _File:
        try:
            with open_dicom(path) as file:
                words = ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality", *_TAGS)
                found = {word: text(file.dataset, word) for word in words}
        except (RejectedFile, MemoryError):
            found = {}
        uid, study = found.get("SOPInstanceUID", ""), found.get("StudyInstanceUID", "")
        if not uid or not study:
            # The reader says what is wrong with it.
            return _File(stamp, _hash(f"folder {path.parent}"), _hash(os.fspath(path)), True, {})
        is_wanted = found["Modality"] == "CT" and not _is_own(uid, self.own_root)
        tags = {word: found[word] for word in _TAGS}
        return _File(stamp, _hash(f"{found['PatientID']}|{study}"), uid, is_wanted, tags)


Front = OrthancFront | FolderFront


def _is_own(uid: str, root: str | None) -> bool:
    return root is not None and uid.startswith(f"{root}.")


def _regular_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise FrontFailure("an answer that is no list")
    return [item for item in value if isinstance(item, dict)]


def _tags(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(item.get("MainDicomTags"))
