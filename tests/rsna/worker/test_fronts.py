"""Fronts: hostile answers of a server are bounded and checked; a folder is taken as it is."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest
from dicom_factory import write_ct

from common.errors import InputError
from rsna.worker import fronts
from rsna.worker.admission import MOST_CHARACTERS, Arrival, Instance, Rule, age_of, clean
from rsna.worker.child import Stopped
from rsna.worker.fronts import FolderFront, FrontFailure, Gone, OrthancFront
from rsna.worker.setup import secret

ID = "-".join(["0123abcd"] * 5)
OTHER = "-".join(["89abcdef"] * 5)


class Answers(BaseHTTPRequestHandler):
    """Answers by path; anything else is 404."""

    answers: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        answer = self.answers.get(self.path)
        if callable(answer):
            answer = answer(self)
        if answer is None:
            self.send_response(404)
            self.end_headers()
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def study_answers(**changes: Any) -> dict[str, Any]:
    """What an Orthanc says of a study with a CT series, a report and two slices."""
    series = [
        {"ID": "ct", "MainDicomTags": {"Modality": "CT", "StationName": "CT1\n\x1b[31m<b>"}},
        {"ID": "sr", "MainDicomTags": {"Modality": "SR"}},
    ]
    instances = [
        {"ID": ID, "ParentSeries": "ct", "FileSize": 5, "MainDicomTags": {"SOPInstanceUID": "1.2"}},
        {"ID": ID, "ParentSeries": "ct", "MainDicomTags": {"SOPInstanceUID": "9.9.1"}},
        {"ID": OTHER, "ParentSeries": "sr", "MainDicomTags": {"SOPInstanceUID": "1.3"}},
        {"ID": "../../x", "ParentSeries": "ct", "MainDicomTags": {"SOPInstanceUID": "1.4"}},
        {"ID": ID, "ParentSeries": "ct", "MainDicomTags": {"SOPInstanceUID": "a b\n"}},
        {"ID": ID, "ParentSeries": "ct", "MainDicomTags": 7},
        {"ID": ID, "ParentSeries": ["ct"]},
        "no instance",
    ]
    listed = [
        {"ID": ID, "LastUpdate": "20260101T000001", "Series": ["ct"]},
        {"ID": "'; DROP TABLE jobs", "LastUpdate": "x"},
        {"ID": OTHER, "LastUpdate": ["20250101"], "Series": 3},
        3,
    ]
    study = {
        "MainDicomTags": {"StudyDate": "20260101", "StudyDescription": "Head"},
        "PatientMainDicomTags": {"PatientBirthDate": "19560101"},
    }
    return {
        "/changes?last": {"Last": 7},
        f"/studies?expand&since=0&limit={fronts.PAGE}": listed,
        f"/studies/{ID}": study,
        f"/studies/{ID}/series": series,
        f"/studies/{ID}/instances": instances,
        f"/instances/{ID}/file": b"DICM",
        **changes,
    }


def test_a_study_is_its_ct_slices_that_are_not_ours(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Answers, "answers", study_answers())
    front = OrthancFront(server, "9.9")
    assert [name for name, _ in front.studies()] == [OTHER, ID]
    assert front.studies() is None, "nothing has changed"
    arrival = front.look(ID)
    assert arrival.instances == (Instance("1.2", "1.2", ID, 5),)
    assert arrival.stations == {"CT1 [31m<b>"}
    assert arrival.descriptions == {"Head"}
    assert round(arrival.age_years) == 70
    assert arrival.date == date(2026, 1, 1)
    front.fetch(arrival, tmp_path / "in")
    assert (tmp_path / "in" / "00000.dcm").read_bytes() == b"DICM"
    assert front.look(OTHER) is None, "it is gone"
    with pytest.raises(Gone):
        front.fetch(Arrival("s", (Instance("1", "1", OTHER),)), tmp_path / "out")


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[[[" * 100_000, b'{"a": NaN', {"a": 1}, "text", b"\xff\xfe"]
)
def test_an_answer_that_is_not_orthancs_is_a_failure(server, monkeypatch, answer):
    path = f"/studies?expand&since=0&limit={fronts.PAGE}"
    monkeypatch.setattr(Answers, "answers", study_answers(**{path: answer}))
    with pytest.raises(FrontFailure):
        OrthancFront(server, None).studies()


def test_answers_are_bounded_and_redirects_are_not_followed(server, monkeypatch, tmp_path):
    def endless(handler: Answers) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * (1 << 20))

    monkeypatch.setattr(fronts, "MOST_ANSWER_BYTES", 5 << 20)
    monkeypatch.setattr(Answers, "answers", study_answers(**{"/changes?last": endless}))
    with pytest.raises(FrontFailure, match="more than"):
        OrthancFront(server, None).studies()

    def elsewhere(handler: Answers) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server}/studies/{ID}")
        handler.end_headers()

    monkeypatch.setattr(Answers, "answers", study_answers(**{"/changes?last": elsewhere}))
    with pytest.raises(FrontFailure, match="HTTP status 302"):
        OrthancFront(server, None).studies()


@pytest.mark.parametrize("num_bytes", [3, 100])
def test_an_answer_that_is_cut_or_slow_is_a_failure(server, monkeypatch, tmp_path, num_bytes):
    """No shorter file is taken for a slice, and no server that drips holds the worker."""

    def drip(handler: Answers) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        for _ in range(num_bytes):
            handler.wfile.write(b"D")
            time.sleep(0.05)

    monkeypatch.setattr(fronts, "WHOLE_S", 1.0)
    monkeypatch.setattr(Answers, "answers", study_answers(**{f"/instances/{ID}/file": drip}))
    front = OrthancFront(server, None)
    with pytest.raises(FrontFailure, match=r"takes more than|Error"):
        front.fetch(front.look(ID), tmp_path / "in")


def test_all_is_listed_again_after_a_while_though_nothing_is_said_to_have_changed(
    server, monkeypatch
):
    monkeypatch.setattr(Answers, "answers", study_answers())
    front = OrthancFront(server, None)
    before = dict(front.studies())
    path = f"/studies?expand&since=0&limit={fronts.PAGE}"
    listed = [{"ID": ID, "LastUpdate": "20260101T000001", "Series": ["ct", "sr"]}]
    monkeypatch.setattr(Answers, "answers", study_answers(**{path: listed}))
    assert front.studies() is None
    monkeypatch.setattr(fronts, "LIST_AGAIN_S", 0.0)
    assert dict(front.studies())[ID] != before[ID], "it has another series"


def test_neither_proxies_nor_passwords_of_the_environment_are_used(server, monkeypatch, tmp_path):
    seen = []
    keep = lambda handler: seen.append(handler.headers["Authorization"])  # noqa: E731
    monkeypatch.setattr(Answers, "answers", study_answers(**{"/changes?last": keep}))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(FrontFailure, match="HTTP status 404"):
        OrthancFront(server, None).studies()
    assert seen == [None]


@pytest.mark.parametrize("status, error", [(404, Gone), (500, Gone), (503, FrontFailure)])
def test_an_image_that_is_not_given_is_told_from_a_front_that_is_down(
    server, monkeypatch, tmp_path, status, error
):
    path = f"/instances/{ID}/file"
    refuse = lambda handler: handler.send_error(status) or b""  # noqa: E731
    monkeypatch.setattr(Answers, "answers", study_answers(**{path: refuse}))
    front = OrthancFront(server, "9.9")
    with pytest.raises(error, match=f"HTTP status {status}"):
        front.fetch(front.look(ID), tmp_path / "in")
    monkeypatch.setattr(Answers, "answers", study_answers(**{path: bytes(2000)}))
    monkeypatch.setattr(fronts, "MAX_FILE_BYTES", 1000)
    with pytest.raises(Gone, match="more than 1000 bytes"):
        front.fetch(front.look(ID), tmp_path / "in")


def test_no_front_is_waited_for_when_the_worker_is_to_end(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Answers, "answers", study_answers())
    write_ct(tmp_path / "in" / "1.dcm", np.zeros((4, 4), np.int16))
    for front in (OrthancFront(server, None), FolderFront(tmp_path / "in", None)):
        front.is_over = lambda: True
        with pytest.raises(Stopped):
            front.studies()


def test_a_list_without_end_is_a_failure(server, monkeypatch):
    monkeypatch.setattr(fronts, "PAGE", 2)
    monkeypatch.setattr(fronts, "MOST_STUDIES", 50)

    class Endless(dict):
        def get(self, path, default=None):
            if path == "/changes?last":
                return {"Last": 1}
            since = int(path.split("since=")[1].split("&")[0])
            return [{"ID": "-".join([f"{since + n:08x}"] * 5)} for n in range(2)]

    monkeypatch.setattr(Answers, "answers", Endless())
    with pytest.raises(FrontFailure, match="more than 50 studies"):
        OrthancFront(server, None).studies()


def test_many_studies_are_listed_in_pages(server, monkeypatch):
    monkeypatch.setattr(fronts, "PAGE", 2)
    names = ["-".join([f"{number:08x}"] * 5) for number in range(5)]
    listed = [{"ID": name, "LastUpdate": "20260101T000000"} for name in names]
    pages = {
        f"/studies?expand&since={start}&limit=2": listed[start : start + 2] for start in (0, 2, 4)
    }
    monkeypatch.setattr(Answers, "answers", {"/changes?last": {"Last": 1}, **pages})
    assert [name for name, _ in OrthancFront(server, None).studies()] == names


def test_a_password_goes_with_requests_and_into_no_message(server, monkeypatch):
    seen = []
    keep = lambda handler: seen.append(handler.headers["Authorization"])  # noqa: E731
    monkeypatch.setattr(Answers, "answers", study_answers(**{"/changes?last": keep}))
    with pytest.raises(FrontFailure) as caught:
        OrthancFront(server, None, ("worker", "pass-word")).studies()
    assert seen[0].startswith("Basic ")
    assert "pass-word" not in str(caught.value)


def test_secrets_come_from_the_environment_or_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("worker:a:b\n")
    assert secret("X", {}) is None
    assert secret("X", {"X": "u:p"}) == ("u", "p")
    assert secret("X", {"X_FILE": str(file)}) == ("worker", "a:b")
    with pytest.raises(InputError, match="X: must be user:password"):
        secret("X", {"X": "only-a-word"})
    with pytest.raises(InputError, match="X_FILE: can't be read"):
        secret("X", {"X_FILE": str(tmp_path / "none")})


def test_a_folder_is_studies_and_what_is_no_dicom(tmp_path):
    pixels = np.zeros((4, 4), np.int16)
    for study, uid in (("a", "1"), ("a", "2"), ("b", "1")):
        tags = {"StudyInstanceUID": f"1.{study}", "SOPInstanceUID": f"1.{study}.{uid}"}
        write_ct(tmp_path / "in" / study / f"{uid}.dcm", pixels, **tags)
    write_ct(tmp_path / "in" / "mr.dcm", pixels, Modality="MR", StudyInstanceUID="1.m")
    (tmp_path / "in" / "x.zip").write_bytes(b"PK\3\4")
    (tmp_path / "in" / ".hidden").write_bytes(b"x")
    (tmp_path / "in" / "link.dcm").symlink_to("/etc/passwd")
    front = FolderFront(tmp_path / "in", None)
    found = [front.look(name) for name, _ in front.studies()]
    assert sorted(len(one.instances) for one in found) == [0, 1, 1, 2]
    before = dict(front.studies())
    time.sleep(0.01)
    (tmp_path / "in" / "a" / "1.dcm").touch()
    after = dict(front.studies())
    assert sum(before[name] != after[name] for name in before) == 1
    largest = max(found, key=lambda one: len(one.instances))
    front.fetch(largest, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2
    (tmp_path / "in" / "a" / "2.dcm").unlink()
    with pytest.raises(Gone):
        front.fetch(largest, tmp_path / "out")


def arrival(**changes: Any) -> Arrival:
    return Arrival("s", (Instance("1", "1", "p"),), **changes)


@pytest.mark.parametrize(
    "rule, changes, refusal",
    [
        ("", {}, ""),
        ("station=^CT[12]$", {"stations": frozenset({"ct2"})}, ""),
        ("station=^CT[12]$", {"stations": frozenset({"CT3"})}, "station"),
        ("station=CT", {}, "station"),
        ("description=head|brain", {"descriptions": frozenset({"CT Brain"})}, ""),
        ("age=18-120", {"age_years": 17.9}, "age"),
        ("age=18-120", {"age_years": 18.0}, ""),
        ("age=18-120", {}, "age"),
        ("days=3", {"date": date(2025, 12, 28)}, "days"),
        ("days=3", {"date": date(2025, 12, 29)}, ""),
        ("days=3", {"date": date(2026, 2, 1)}, ""),
        ("age=0-1, days=3", {"age_years": 50.0, "date": date(2026, 1, 1)}, "age"),
    ],
)
def test_admission(rule, changes, refusal):
    assert Rule(rule).refusal(arrival(**changes), date(2026, 1, 1)) == refusal


@pytest.mark.parametrize(
    "rule", ["color=red", "station=[", "age=old", "age=18", "days=x", "=", "x"]
)
def test_a_rule_that_is_none_is_refused(rule):
    with pytest.raises(InputError, match="--wk_admit"):
        Rule(rule)


def test_headers_are_bounded_and_have_no_control_characters():
    assert clean("a\x00b\r\n\u202ec" + "x" * 1000).startswith("a b c")
    assert len(clean("x" * 1000)) == MOST_CHARACTERS
    assert clean(["x"]) == clean(None) == ""
    assert age_of("19560101", date(2026, 1, 1), "006M") == 0.5
    assert age_of("not a date", date(2026, 1, 1)) is None
