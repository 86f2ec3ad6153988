"""A PACS in the process of a test, by pynetdicom; it can drop, refuse, and be down."""

from collections.abc import Callable, Iterator
from functools import partialmethod
from socketserver import BaseServer
from threading import Thread
from typing import Any

from orthanc import free_port
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, StoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)
from pynetdicom.transport import AssociationServer

from common.delivery.sending import send_promptly

# A server looks each half second whether it is to stop, and a test would wait for that.
AssociationServer.serve_forever = partialmethod(BaseServer.serve_forever, 0.02)  # type: ignore[assignment]


class Pacs:
    """The server; `stored` has what it keeps, by SOPInstanceUID.

    Attributes:
        status: answer to the next C-STORE requests, by the object.
        num_to_lose: objects that it takes next without keeping them.
        num_received: C-STORE requests so far.
        commit_port: where reports of commitment go: of `ICH` on this machine.
    """

    def __init__(self, without: tuple[UID, ...] = (), commit_port: int = 0) -> None:
        self.port, self.commit_port = free_port(), commit_port
        self.stored: dict[str, Dataset] = {}
        self.num_to_lose = 0
        self.status: Callable[[Dataset], int] = lambda _: 0
        self.num_received = 0
        self.entity = AE("PACS")
        for context in StoragePresentationContexts:
            if context.abstract_syntax not in without:
                self.entity.add_supported_context(context.abstract_syntax)
        for one in (Comprehensive3DSRStorage, EnhancedSRStorage):
            if one not in without:
                self.entity.add_supported_context(one)
        self.entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        self.entity.add_supported_context(StorageCommitmentPushModel)
        self.server: Any = None

    @property
    def address(self) -> str:
        return f"dicom:PACS@127.0.0.1:{self.port}"

    def start(self) -> "Pacs":
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, send_promptly),
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_C_FIND, self.find),
            (evt.EVT_N_ACTION, self.commit),
        ]
        where = ("127.0.0.1", self.port)
        self.server = self.entity.start_server(where, block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server = None

    def store(self, event: Any) -> int:
        self.num_received += 1
        status = self.status(event.dataset)
        if self.num_to_lose > 0:
            self.num_to_lose -= 1
        elif status == 0:
            self.stored[event.dataset.SOPInstanceUID] = event.dataset
        return status

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for uid, one in list(self.stored.items()):
            if one.SeriesInstanceUID == event.identifier.SeriesInstanceUID:
                found = Dataset()
                found.QueryRetrieveLevel, found.SOPInstanceUID = "IMAGE", uid
                yield 0xFF00, found

    def commit(self, event: Any) -> tuple[int, None]:
        asked = event.action_information
        lost = [
            item
            for item in asked.ReferencedSOPSequence
            if item.ReferencedSOPInstanceUID not in self.stored
        ]
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        if lost:
            report.FailedSOPSequence = lost
        Thread(target=self.report, args=(report, 2 if lost else 1), daemon=True).start()
        return 0x0000, None

    def report(self, report: Dataset, event_type: int) -> None:
        own = AE("PACS")
        own.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = own.associate("127.0.0.1", self.commit_port, ae_title="ICH", ext_neg=[role])
        if association.is_established:
            instance = "1.2.840.10008.1.20.1.1"
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, instance
            )
            association.release()
