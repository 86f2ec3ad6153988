"""Sends DICOM objects by C-STORE or STOW, and asks afterwards whether they are there.

Objects that a PACS has already are stored again without effect, so every step can be repeated.
"""

import logging
import re
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, Association, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from common.errors import InputError

# These log identifiers, addresses with UIDs, and whole data sets.
for _name in ("pynetdicom", "dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CONNECT_S, ANSWER_S = 5.0, 60.0
"""Time for a connection, and for the answer to a message."""
REPORT_S = 5.0
"""Time for a report of storage commitment; one that comes later counts at the next question."""
DUPLICATE, WARNINGS = 0x0111, 0xB000
"""Statuses beside 0 that say that the object is there: PS3.4 B.2.3 and PS3.7 C.4."""
LATER = {0x0110, 0x0124, 0x0213}
"""Processing failure, not authorized, resource limitation: another time it may work; so 0xA7xx."""
MOST_MATCHES = 10_000
"""Answers to one query that are read."""


_SILENT = "no answer to C-FIND: it may not know the AE title of --wk_aet"


class Unreachable(Exception):
    """The destination takes nothing now: try again later. The message names no patient."""


class Busy(Unreachable):
    """It takes other objects, but this one not now. The message names no patient."""


class Refused(Exception):
    """The destination will not take an object, now or later. The message names no patient."""


@dataclass(frozen=True)
class StoredObject:
    """A file to send, and what identifies it."""

    path: Path
    sop_class: str
    instance: str
    study: str
    series: str
    syntax: str


def read_objects(folder: Path) -> list[StoredObject]:
    """Return the objects of all `*.dcm` files below a folder, in the order of their names."""
    return [_read_object(path) for path in sorted(folder.rglob("*.dcm"))]


def _read_object(path: Path) -> StoredObject:
    header = dcmread(path, stop_before_pixels=True)
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    own, instance, study, series = (str(header[name].value) for name in names)
    syntax = str(header.file_meta.TransferSyntaxUID)
    return StoredObject(path, own, instance, study, series, syntax)


def open_destination(
    address: str, calling: str, commit_port: int = 0, auth: tuple[str, str] | None = None
) -> "Destination":
    """Return the destination of an address: `dicom:AET@host:port` or that of a DICOMweb server.

    Args:
        commit_port: port on which reports of storage commitment are taken; 0: query instead.
        auth: user and password of a DICOMweb server.

    Raises:
        InputError: an address of another form, or the port is in use.
    """
    dicom = re.fullmatch(r"dicom:([^@\s\\]{1,16})@([\w.-]+):(\d{1,5})", address)
    if dicom and 0 < int(dicom[3]) < 1 << 16:
        return DicomDestination(dicom[1], dicom[2], int(dicom[3]), calling, commit_port)
    if re.fullmatch(r"https?://[^@\s]+", address):
        return WebDestination(address.rstrip("/"), auth)
    raise InputError(
        f"--wk_send {re.sub('//.*@', '//...@', address)}: must be dicom:AET@host:port, or the "
        f"address of a DICOMweb server without a password, such as https://pacs/dicom-web"
    )


def send_promptly(event: Any) -> None:
    """Send a data set at once after its command: else it waits 40 ms for the peer's TCP."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_PROMPT = (evt.EVT_CONN_OPEN, send_promptly)


class WebDestination:
    """A DICOMweb server: STOW, then QIDO.

    Its methods raise Refused or Busy of some objects, and Unreachable.

    Args:
        auth: user and password.
    """

    def __init__(self, address: str, auth: tuple[str, str] | None = None) -> None:
        session = requests.Session()
        session.auth = auth
        self.client = DICOMwebClient(address, session=session, timeout=(CONNECT_S, ANSWER_S))
        self.client.set_http_retry_params(retry=False)

    def send(self, objects: Sequence[StoredObject]) -> None:
        """Store the objects, each by a request of its own, so that one alone is refused."""
        refused = []
        for item in objects:
            try:
                answer = self._call(self.client.store_instances, [dcmread(item.path)])
            except Refused as error:
                refused.append(f"{_kind(item)}: {error}")
                continue
            failed = answer.get("FailedSOPSequence") or []
            codes = [int(each.get("FailureReason", 0xC000)) for each in failed]
            refused += [f"{_kind(item)}: {text}" for text in filter(None, map(_problem, codes))]
        if refused:
            raise Refused(_joined(refused))

    def missing(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        return _not_in(objects, self._found)

    def _found(self, study: str, series: str) -> list[str]:
        def search() -> list[str]:
            found = self.client.search_for_instances(study, series, limit=MOST_MATCHES)
            return [str(item["00080018"]["Value"][0]) for item in found]

        return list(self._call(search))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            # 400, 409, 413, 415, 422: the object; 500: maybe the object; others: server, settings.
            final = status in (400, 409, 413, 415, 422)
            kind = Refused if final else Busy if status == 500 else Unreachable
            raise kind(f"HTTP status {status}") from error
        except (requests.RequestException, OSError) as error:
            raise Unreachable(type(error).__name__) from error
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise Unreachable(f"an answer that is not DICOMweb ({type(error).__name__})") from error

    def close(self) -> None:
        """Do nothing: no connection is held."""


class DicomDestination:
    """An application entity: C-STORE, then storage commitment or C-FIND.

    Its methods raise what those of `WebDestination` do.

    Args:
        calling: AE title of ours, for which the destination knows the address of `commit_port`.
        commit_port: where reports of storage commitment are taken; 0: query by C-FIND.

    Raises:
        InputError: the port is in use.
    """

    def __init__(
        self, called: str, host: str, port: int, calling: str, commit_port: int = 0
    ) -> None:
        self.called, self.host, self.port = called, host, port
        self.entity = AE(calling)
        self.entity.acse_timeout = self.entity.dimse_timeout = ANSWER_S
        self.entity.network_timeout = ANSWER_S
        self.entity.connection_timeout = CONNECT_S
        self._reports = _Reports()
        self._server = self._listen(commit_port) if commit_port else None

    def _listen(self, port: int) -> Any:
        own = AE(self.entity.ae_title)
        own.require_called_aet = True
        own.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        where = "127.0.0.1" if self.host in ("127.0.0.1", "localhost") else ""
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._reports.take)]
        try:
            return own.start_server((where, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise InputError(
                f"--wk_commit_port {port} can't be opened ({error.strerror}): give another"
            ) from error

    def send(self, objects: Sequence[StoredObject]) -> None:
        """Store the objects in one association."""
        refused = []
        pairs = sorted({(item.sop_class, item.syntax) for item in objects})
        with self._associate(pairs) as association:
            accepted = {
                (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in association.accepted_contexts
            }
            for item in objects:
                if (item.sop_class, item.syntax) not in accepted:
                    refused.append(f"{_kind(item)}: not accepted in this encoding")
                    continue
                status = association.send_c_store(item.path)
                if "Status" not in status:
                    raise Unreachable("no answer to C-STORE")
                problem = _problem(int(status.Status))
                if problem:
                    refused.append(f"{_kind(item)}: {problem}")
        if refused:
            raise Refused(_joined(refused))

    def missing(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        """Return the objects that the destination does not commit to, or does not find."""
        if self._server is not None:
            return self._uncommitted(objects)
        contexts = [(str(StudyRootQueryRetrieveInformationModelFind), None)]
        with self._associate(contexts) as association:
            if not association.accepted_contexts:
                raise Unreachable("it takes no C-FIND: give --wk_commit_port for commitment")
            return _not_in(objects, lambda *ids: self._found(association, *ids))

    def _found(self, association: Association, study: str, series: str) -> Iterator[str]:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = study, series, ""
        model = StudyRootQueryRetrieveInformationModelFind
        for number, (status, found) in enumerate(association.send_c_find(query, model)):
            if "Status" not in status:
                raise Unreachable(_SILENT)
            if status.Status not in (0x0000, 0xFF00, 0xFF01) or number > MOST_MATCHES:
                raise Busy(f"C-FIND status {status.Status:#06x}")
            if found is not None:
                yield str(found.get("SOPInstanceUID", ""))

    def _uncommitted(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        """Ask for storage commitment, and wait for its report: PS3.4 J.3."""
        transaction = self._reports.transaction(item.instance for item in objects)
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = [_reference(item) for item in objects]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._reports.take)]
        contexts = [(str(StorageCommitmentPushModel), None)]
        failed = self._reports.wait(transaction, 0)
        if failed is None:
            with self._associate(contexts, handlers) as association:
                self._ask_commitment(association, request)
                failed = self._reports.wait(transaction, REPORT_S)
        if failed is None:
            raise Busy("no report of storage commitment")
        return [item for item in objects if item.instance in failed]

    def _ask_commitment(self, association: Association, request: Dataset) -> None:
        if not association.accepted_contexts:
            raise Unreachable("it takes no storage commitment: leave --wk_commit_port out")
        model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        status, _ = association.send_n_action(request, 1, model, instance)
        if "Status" not in status:
            raise Unreachable("no answer to N-ACTION")
        if status.Status != 0:
            raise Busy(f"N-ACTION status {status.Status:#06x}")

    @contextmanager
    def _associate(
        self, contexts: Collection[tuple[str, str | None]], handlers: Any = None
    ) -> Iterator[Association]:
        self.entity.requested_contexts = []
        for abstract, syntax in contexts:
            self.entity.add_requested_context(abstract, syntax)
        association = self.entity.associate(
            self.host, self.port, ae_title=self.called, evt_handlers=[_PROMPT, *(handlers or ())]
        )
        if not association.is_established:
            what = "the association is refused" if association.is_rejected else "no connection"
            # An answer without any accepted context aborts: there is nothing to send.
            if not association.rejected_contexts:
                raise Unreachable(what)
        try:
            yield association
        except RuntimeError as error:  # pynetdicom's, where the association broke meanwhile
            raise Unreachable("the connection broke") from error
        finally:
            if association.is_established:
                association.release()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()


Destination = WebDestination | DicomDestination


class _Reports:
    """Reports of storage commitment by transaction; a late one counts at the next question."""

    def __init__(self) -> None:
        self._transactions: dict[frozenset[str], str] = {}
        self._failed: dict[str, set[str]] = {}
        self._news = threading.Condition()

    def transaction(self, instances: Iterator[str]) -> str:
        """Return the transaction of these instances: the one that is open, or a new one."""
        return self._transactions.setdefault(frozenset(instances), str(generate_uid()))

    def take(self, event: Any) -> tuple[int, None]:
        report = event.event_information
        transaction = str(report.get("TransactionUID", ""))
        failed = {
            str(item.get("ReferencedSOPInstanceUID", ""))
            for item in report.get("FailedSOPSequence") or []
        }
        with self._news:
            if transaction in self._transactions.values():
                self._failed[transaction] = failed
                self._news.notify_all()
        return 0x0000, None

    def wait(self, transaction: str, seconds: float) -> set[str] | None:
        """Return what is not committed, and forget the transaction; None without a report."""
        with self._news:
            if not self._news.wait_for(lambda: transaction in self._failed, seconds):
                return None
            self._transactions = {
                ids: name for ids, name in self._transactions.items() if name != transaction
            }
            return self._failed.pop(transaction)


def _reference(item: StoredObject) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = item.sop_class
    reference.ReferencedSOPInstanceUID = item.instance
    return reference


def _not_in(
    objects: Sequence[StoredObject], found: Callable[[str, str], Iterable[str]]
) -> list[StoredObject]:
    """Return the objects that `found(study, series)` does not yield."""
    series = {(item.study, item.series) for item in objects}
    there: Mapping[tuple[str, str], set[str]] = {ids: set(found(*ids)) for ids in series}
    return [item for item in objects if item.instance not in there[item.study, item.series]]


def _problem(status: int) -> str | None:
    """Return why a status of C-STORE is final, or None if the object is there.

    Raises:
        Busy: another time it may work.
    """
    if status in (0, DUPLICATE) or status & 0xF000 == WARNINGS:
        return None
    if status in LATER or status & 0xFF00 == 0xA700:
        raise Busy(f"C-STORE status {status:#06x}")
    return f"C-STORE status {status:#06x}"


def _kind(item: StoredObject) -> str:
    return UID(item.sop_class).name


def _joined(problems: Sequence[str]) -> str:
    return "; ".join(sorted(set(problems)))
