"""Sending by C-STORE and STOW: what counts as stored, as refused, and as not now."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pydicom
import pytest
from orthanc import free_port
from pacs import Pacs
from pydicom.uid import Comprehensive3DSRStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from worker_factory import until
from worker_standin import write_results

from common.delivery import sending
from common.delivery.sending import Busy, Refused, Unreachable, open_destination, read_objects
from common.errors import InputError


@pytest.fixture
def objects(tmp_path: Path) -> list:
    header = pydicom.Dataset()
    header.SOPInstanceUID, header.StudyInstanceUID = "1.2.3.4", "1.2.3"
    write_results([header], tmp_path, {}, {"predecessors": {}, "time": "2026-01-01T00:00:00"})
    return read_objects(tmp_path)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs(commit_port=free_port()).start()
    yield made
    made.stop()


@pytest.mark.parametrize("by_commitment", [False, True])
def test_what_was_stored_is_answered_for_and_what_was_lost_is_not(pacs, objects, by_commitment):
    port = pacs.commit_port if by_commitment else 0
    destination = open_destination(pacs.address, "ICH", port)
    try:
        assert destination.missing(objects) == objects
        destination.send(objects)
        assert destination.missing(objects) == []
        destination.send(objects)
        assert len(pacs.stored) == 2
        assert pacs.num_received == 4
        del pacs.stored[objects[1].instance]
        assert destination.missing(objects) == [objects[1]]
    finally:
        destination.close()


def test_a_report_of_commitment_that_is_late_counts_at_the_next_question(
    pacs, objects, monkeypatch
):
    """Until then it is a matter of this study alone, and no question is asked again for nothing."""
    monkeypatch.setattr(sending, "REPORT_S", 0.2)
    reports = []
    monkeypatch.setattr(pacs, "report", lambda *report: reports.append(report))
    destination = open_destination(pacs.address, "ICH", pacs.commit_port)
    try:
        destination.send(objects)
        with pytest.raises(Busy, match="no report"):
            destination.missing(objects)
        Pacs.report(pacs, *reports[0])
        pacs.stop()
        assert destination.missing(objects) == []
    finally:
        destination.close()


def test_a_data_set_waits_for_no_acknowledgement(pacs, objects, monkeypatch):
    found = []

    def look(event) -> None:
        sending.send_promptly(event)
        opened = event.assoc.dul.socket.socket
        found.append(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(sending, "_PROMPT", (evt.EVT_CONN_OPEN, look))
    open_destination(pacs.address, "ICH").send(objects)
    assert found == [1]


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006])
def test_these_statuses_say_that_it_is_there(pacs, objects, status):
    pacs.status = lambda _: status
    open_destination(pacs.address, "ICH").send(objects)


@pytest.mark.parametrize("status", [0xA700, 0xA702, 0x0110, 0x0124])
def test_these_statuses_say_later(pacs, objects, status):
    pacs.status = lambda _: status
    with pytest.raises(Unreachable, match=f"{status:#06x}"):
        open_destination(pacs.address, "ICH").send(objects)


def test_a_refused_object_does_not_keep_others_back(pacs, objects):
    pacs.status = lambda one: 0xC000 if one.SOPInstanceUID == objects[0].instance else 0
    with pytest.raises(Refused, match="Comprehensive 3D SR Storage: C-STORE status 0xc000"):
        open_destination(pacs.address, "ICH").send(objects)
    assert list(pacs.stored) == [objects[1].instance]


def test_a_class_that_the_pacs_does_not_know_is_refused(objects):
    pacs = Pacs(without=(Comprehensive3DSRStorage,)).start()
    try:
        with pytest.raises(Refused, match="Comprehensive 3D SR Storage: not accepted"):
            open_destination(pacs.address, "ICH").send(objects)
        assert len(pacs.stored) == 1
    finally:
        pacs.stop()


def test_a_pacs_that_is_down_is_asked_again(pacs, objects):
    destination = open_destination(pacs.address, "ICH")
    pacs.stop()
    for step in (destination.send, destination.missing):
        with pytest.raises(Unreachable, match="no connection"):
            step(objects)
    pacs.start()
    destination.send(objects)


@pytest.mark.parametrize(
    "address",
    [
        "pacs:104",
        "dicom:PACS@host:65536",
        "dicom:PACS@host:0",
        "dicom:PACS@host",
        "dicom:@host:104",
        "https://user:pw@host/web",
        "ftp://host",
    ],
)
def test_other_addresses_are_refused_without_their_password(address):
    with pytest.raises(InputError, match="--wk_send") as caught:
        open_destination(address, "ICH")
    assert "pw" not in str(caught.value).replace("password", "")


def test_a_port_in_use_is_refused(pacs):
    with pytest.raises(InputError, match="--wk_commit_port"):
        open_destination(pacs.address, "ICH", pacs.port)


def test_a_query_that_fails_or_is_not_answered_says_nothing_about_objects(
    pacs, objects, monkeypatch
):
    destination = open_destination(pacs.address, "ICH")
    destination.send(objects)
    monkeypatch.setattr(pacs, "find", lambda _: iter([(0xA700, None)]))
    pacs.stop()
    pacs.start()
    with pytest.raises(Busy, match="C-FIND status 0xa700"):
        destination.missing(objects)
    monkeypatch.setattr(pacs, "find", lambda event: iter([event.assoc.abort()]))
    pacs.stop()
    pacs.start()
    with pytest.raises(Unreachable, match="no answer to C-FIND"):
        destination.missing(objects)


def test_a_request_for_commitment_that_is_not_taken_is_asked_again(pacs, objects, monkeypatch):
    monkeypatch.setattr(pacs, "commit", lambda _: (0x0110, None))
    pacs.stop()
    pacs.start()
    destination = open_destination(pacs.address, "ICH", pacs.commit_port)
    try:
        with pytest.raises(Busy, match="N-ACTION status 0x0110"):
            destination.missing(objects)
    finally:
        destination.close()


def test_a_connection_that_breaks_while_sending_is_no_success(pacs, objects, monkeypatch):
    def abort(event):
        event.assoc.abort()
        return 0

    monkeypatch.setattr(pacs, "store", abort)
    pacs.stop()
    pacs.start()
    with pytest.raises(Unreachable, match="no answer to C-STORE"):
        open_destination(pacs.address, "ICH").send(objects)


def test_no_association_is_left_open(pacs, objects):
    destination = open_destination(pacs.address, "ICH")
    destination.send(objects)
    destination.missing(objects)
    until(lambda: not pacs.server.active_associations)


def test_a_report_answers_for_its_own_question_alone(pacs, objects, monkeypatch):
    """A late one of other objects, or one that nobody asked for, says nothing about these."""
    monkeypatch.setattr(sending, "REPORT_S", 0.2)
    reports = []
    monkeypatch.setattr(pacs, "report", lambda *report: reports.append(report))
    destination = open_destination(pacs.address, "ICH", pacs.commit_port)
    try:
        destination.send(objects)
        for asked in (objects[:1], objects):
            with pytest.raises(Busy):
                destination.missing(asked)
        Pacs.report(pacs, *reports[0])
        with pytest.raises(Busy):
            destination.missing(objects)
        foreign = pydicom.Dataset()
        foreign.TransactionUID = "1.2.3"
        Pacs.report(pacs, foreign, 1)
        assert set(destination._reports._failed) == {reports[0][0].TransactionUID}
    finally:
        destination.close()


def test_reports_are_taken_on_this_machine_alone_and_under_our_title(pacs):
    destination = open_destination(pacs.address, "ICH", pacs.commit_port)
    try:
        assert destination._server.server_address[0] == "127.0.0.1"
        caller = AE("PACS")
        caller.add_requested_context(StorageCommitmentPushModel)
        for title, is_taken in (("ICH", True), ("OTHER", False)):
            association = caller.associate("127.0.0.1", pacs.commit_port, ae_title=title)
            assert association.is_established == is_taken
            association.abort()
    finally:
        destination.close()


class Web(BaseHTTPRequestHandler):
    """A DICOMweb server that answers everything with `status` and `body`."""

    status, body = 200, b""
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        length = self.headers.get("Content-Length")
        self.rfile.read(int(length or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "status, error",
    [(409, Refused), (400, Refused), (401, Unreachable), (500, Busy), (503, Unreachable)],
)
def test_statuses_of_stow(web, objects, monkeypatch, status, error):
    monkeypatch.setattr(Web, "status", status)
    with pytest.raises(error, match=f"HTTP status {status}") as caught:
        open_destination(web, "ICH").send(objects)
    assert caught.type is error


def test_an_object_that_stow_lists_as_failed_is_refused(web, objects, monkeypatch):
    failed = {"00081197": {"vr": "US", "Value": [0xC000]}}
    body = {"00081198": {"vr": "SQ", "Value": [failed]}}
    monkeypatch.setattr(Web, "body", json.dumps(body).encode())
    with pytest.raises(Refused, match="C-STORE status 0xc000"):
        open_destination(web, "ICH").send(objects)


@pytest.mark.parametrize("body", [b"<html>", b"7", b'[{"00080018": 3}]', b"[{}]"])
def test_an_answer_that_is_no_qido_is_no_answer(web, objects, monkeypatch, body):
    monkeypatch.setattr(Web, "body", body)
    with pytest.raises(Unreachable, match=r"JSON|DICOMweb"):
        open_destination(web, "ICH").missing(objects)


def test_qido_finds_what_it_lists(web, objects, monkeypatch):
    found = [{"00080018": {"vr": "UI", "Value": [objects[0].instance]}}]
    monkeypatch.setattr(Web, "body", json.dumps(found).encode())
    assert open_destination(web, "ICH").missing(objects) == [objects[1]]
    asked = {path.partition("?")[0] for path in Web.paths[-2:]}
    assert asked == {f"/dicom-web/studies/{o.study}/series/{o.series}/instances" for o in objects}
