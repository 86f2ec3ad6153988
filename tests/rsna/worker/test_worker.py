"""The worker on a folder, with a stand-in for the network and a PACS of pynetdicom."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from dicom_factory import write_dataset
from pacs import Pacs
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedSRStorage, ExplicitVRLittleEndian
from worker_factory import SECRETS, states, until

from common.errors import InputError
from common.preparation.workers.limits import Limits
from rsna.worker.child import Child
from rsna.worker.fronts import FrontFailure, Gone, OrthancFront
from rsna.worker.journal import locked
from rsna.worker.records import retry, status
from rsna.worker.worker import MOST_WITHHELD


def current(pacs: Pacs, study: str) -> list:
    """Return the objects of a study that no other object names as its predecessor."""
    uid = f"1.2.840.113619.2.{study}"
    own = [one for one in pacs.stored.values() if one.StudyInstanceUID == uid]
    replaced = {one.SeriesDescription.removeprefix("after ") for one in own}
    return [one for one in own if one.SOPInstanceUID not in replaced]


def test_a_study_is_sent_once_and_nothing_is_left(site, pacs):
    site.put("1", 3)
    worker = site.worker()
    worker.turn()
    assert states(worker) == {}, "it may still be arriving"
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert len(current(pacs, "1")) == len(pacs.stored) == 2
    assert site.left() == []
    for again in (worker, site.worker()):
        shutil.rmtree(site.watched / "1")
        site.rounds(again, 2)
        site.put("1", 3)
        site.rounds(again)
    assert pacs.num_received == 2
    assert states(worker) == {"committed": 1}


def test_late_slices_make_a_version_that_names_its_predecessor(site, pacs):
    site.put("1", 25)
    worker = site.worker()
    site.rounds(worker)
    first = current(pacs, "1")
    site.put("1", 3, first=25)
    site.rounds(worker)
    assert states(worker) == {"committed": 2}
    assert len(pacs.stored) == 4
    after = {one.SeriesDescription for one in current(pacs, "1")}
    assert after == {f"after {one.SOPInstanceUID}" for one in first}
    shutil.rmtree(site.watched / "1")
    site.put("1", 25)
    site.rounds(worker)
    assert len(pacs.stored) == 4, "fewer slices are nothing new"


def test_slices_that_come_before_the_prediction_leave_one_version(site, pacs):
    site.put("1", 2)
    worker = site.worker()
    for count in (0, 2):
        site.put("1", count, first=2)
        for _ in range(2):
            worker._look()
            site.clock.seconds += 6
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert {one.SeriesDescription for one in pacs.stored.values()} == {"first"}


def test_the_same_slices_under_a_corrected_patient_id_stop_nothing(site, pacs):
    site.put("1", 2)
    worker = site.worker()
    site.rounds(worker)
    shutil.move(site.watched / "1", site.watched / "old")
    site.put("1", 2, PatientID="CORRECT-D")
    site.put("2", 2)
    site.rounds(worker)
    assert states(worker) == {"committed": 2}


def test_slices_that_go_again_before_the_prediction_leave_the_others(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker()
    monkeypatch.setattr(worker, "_predict", lambda job: False)
    site.rounds(worker, 2)
    site.put("1", 1, first=2)
    site.rounds(worker, 2)
    monkeypatch.undo()
    (site.watched / "1" / "2.dcm").unlink()
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert worker.journal.in_states(["committed"])[0].num_slices == 2


def test_two_studies_of_a_patient_are_two_jobs(site, pacs):
    site.put("1", 2)
    site.put("2", 2)
    worker = site.worker()
    site.rounds(worker)
    assert states(worker) == {"committed": 2}
    assert len(current(pacs, "1")) == len(current(pacs, "2")) == 2


def test_the_oldest_study_comes_first(site):
    for number, study in enumerate(("3", "1", "2")):
        site.put(study, 1 + number)
        for path in (site.watched / study).iterdir():
            os.utime(path, (number, number))
    worker = site.worker(wk_shadow=1)
    site.rounds(worker)
    lines = (site.work / "audit-2027-01.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [one["slices"] for one in events if one["event"] == "shadow"] == [1, 2, 3]


def test_junk_between_good_studies_is_rejected_with_its_reason(site, pacs):
    for study in ("1", "2"):
        site.put(study, 2)
    (site.watched / "junk").mkdir()
    (site.watched / "junk" / "SECRET^NAME.dcm").write_bytes(b"MZ" + bytes(1000))
    site.put("3", 1, StudyDescription="reject")
    site.put("4", 1, StudyDescription="fault")
    site.put("5", 1, Modality="MR")
    worker = site.worker()
    site.rounds(worker, 20)
    assert states(worker) == {"committed": 2, "rejected": 3, "left_out": 1}
    reasons = {job.reason for job in worker.journal.in_states(["rejected"])}
    assert reasons == {
        "no slice can be read: read 1 file, rejected 1 (not_dicom)",
        "no head CT in ... of '...' line",
        next(reason for reason in reasons if reason.startswith("KeyError at worker_standin.py:")),
    }
    assert site.left() == []


def test_nothing_that_is_written_names_a_patient(site, pacs, caplog):
    caplog.set_level("DEBUG")
    site.put("1", 2, StationName="SECRET^NAME", StudyDescription="<script>SECRET^NAME")
    site.put("2", 1, StudyDescription="reject")
    site.put("3", 1, StudyDescription="fault")
    worker = site.worker(wk_admit="station=SECRET")
    site.rounds(worker)
    pacs.stop()
    site.put("1", 1, first=2, StationName="SECRET^NAME")
    site.rounds(worker, 4)
    shown = site.written() + caplog.text.encode() + "\n".join(status(site.work)[0]).encode()
    for secret in SECRETS:
        assert secret.encode() not in shown, secret


@pytest.mark.parametrize("mishap, cause", [("crash", "crashed"), ("hang", "timeout")])
def test_a_study_that_ends_the_child_is_tried_once_more_alone(site, pacs, mishap, cause):
    site.put("1", 1, StudyDescription=mishap)
    site.put("2", 1)
    worker = site.worker(limits=Limits(1.0 if mishap == "hang" else 60, 2000))
    site.rounds(worker, 5)
    assert states(worker) == {"rejected": 1, "committed": 1}
    job = worker.journal.in_states(["rejected"])[0]
    assert (job.reason, job.deaths) == (cause, 2)
    assert worker.child.num_starts == 3


def test_memory_is_bounded(site, pacs):
    site.put("1", 1, StudyDescription="memory")
    worker = site.worker(limits=Limits(60, 250), kind=Child)
    site.rounds(worker, 5)
    assert worker.journal.in_states(["rejected"])[0].reason == "memory"


def test_a_child_killed_from_outside_costs_nothing(site, pacs):
    for study in ("1", "2"):
        site.put(study, 2)
    worker = site.worker(settings={"seconds": 0.3})

    def kill() -> None:
        for _ in range(3):
            time.sleep(0.2)
            process = worker.child.process
            if process is not None:
                os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    worker.child.start()
    thread.start()
    site.rounds(worker)
    thread.join()
    site.rounds(worker)
    assert states(worker) == {"committed": 2}
    assert worker.child.num_starts > 1
    assert site.left() == []


@pytest.mark.parametrize("is_for_all", [False, True])
def test_sigterm_waits_for_no_study_and_leaves_it_for_the_next_start(
    site, pacs, tmp_path, is_for_all
):
    """Also where systemd sends it to the child as well (KillMode=control-group)."""
    site.put("1", 2)
    helper = Path(__file__).resolve().parents[2] / "helpers" / "worker_process.py"
    given = {"work": str(site.work), "watch": str(site.watched), "seconds": 600, "stable_s": 1}
    process = subprocess.Popen([sys.executable, str(helper), json.dumps(given)])
    try:
        until(lambda: any((site.work / "jobs").glob("*/in/*1.dcm")), 60)
        time.sleep(0.5)
        children = psutil.Process(process.pid).children()
        for target in (process, *(children if is_for_all else ())):
            target.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert children and not any(child.is_running() for child in children)
    worker = site.worker()
    (job,) = worker.journal.in_states(["new"])
    assert job.deaths == 0
    assert not (site.work / "jobs").exists()
    site.rounds(worker)
    assert states(worker) == {"committed": 1}


def test_a_child_that_is_ended_by_sigterm_is_not_the_fault_of_its_study(site, pacs):
    site.put("1", 2)
    worker = site.worker(settings={"seconds": 0.5})
    worker.child.start()
    threading.Timer(0.2, lambda: worker.child.process.terminate()).start()
    assert worker.turn() is False
    site.clock.seconds += 10
    worker.turn()
    (job,) = worker.journal.of_study(worker.journal.in_states(["new"])[0].study)
    assert (job.reason, job.deaths) == ("killed", 1)


def test_a_child_that_can_not_start_rejects_nothing(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker()
    monkeypatch.setattr(worker.child, "module", "no_such_module")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        site.rounds(worker, 3)
    assert states(worker) == {"new": 1}
    site.rounds(site.worker())
    assert len(pacs.stored) == 2


def test_a_pacs_that_is_down_gets_it_later(site, pacs):
    site.put("1", 2)
    pacs.stop()
    worker = site.worker()
    site.rounds(worker, 8)
    assert states(worker) == {"predicted": 1}
    assert worker.outbox.waits.num_failures("pacs") >= 3
    pacs.start()
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert site.left() == []


def test_the_wait_between_attempts_grows_to_a_minute(site, pacs):
    site.put("1", 2)
    pacs.stop()
    worker = site.worker()
    site.rounds(worker, 3)
    waits = []
    for _ in range(12):
        start = site.clock.seconds
        failures = worker.outbox.waits.num_failures("pacs")
        while worker.outbox.waits.num_failures("pacs") == failures:
            worker.outbox.turn()
            site.clock.seconds += 1.0
        waits.append(site.clock.seconds - start)
    assert waits == sorted(waits)
    assert max(waits) == 60


def test_an_object_lost_before_commitment_is_sent_again(site, pacs):
    site.put("1", 2)
    pacs.num_to_lose = 1
    worker = site.worker()
    site.rounds(worker)
    assert len(pacs.stored) == 2
    assert states(worker) == {"committed": 1}
    assert "lacks 1 of 2" in (site.work / "audit-2027-01.jsonl").read_text()
    assert site.left() == []


def test_a_full_disk_of_the_pacs_is_waited_for(site, pacs):
    site.put("1", 2)
    pacs.status = lambda _: 0xA700
    worker = site.worker()
    site.rounds(worker)
    assert states(worker) == {"predicted": 1}
    pacs.status = lambda _: 0
    site.rounds(worker)
    assert states(worker) == {"committed": 1}


def test_a_study_that_the_pacs_never_takes_holds_back_no_other(site, pacs):
    site.put("1", 2)
    pacs.status = lambda one: 0x0110 if one.StudyInstanceUID.endswith(".1") else 0
    worker = site.worker()
    site.rounds(worker, 6)
    site.put("2", 2)
    site.rounds(worker, 3)
    assert states(worker) == {"predicted": 1, "committed": 1}


def test_results_that_are_damaged_hold_back_no_other(site, pacs):
    site.put("1", 2)
    site.put("2", 2)
    worker = site.worker()
    worker.outbox.waits.failed("pacs")
    worker.outbox.waits.clock = lambda: -1.0
    site.rounds(worker, 4)
    worker.outbox.waits.clock = site.clock
    next(worker.outbox.waiting.rglob("*.dcm")).write_bytes(b"")
    site.rounds(worker, 4)
    assert states(worker) == {"predicted": 1, "committed": 1}
    assert (
        '"pacs_failed", "reason": "InvalidDicomError"'
        in (site.work / "audit-2027-01.jsonl").read_text()
    )


def test_a_front_that_answers_404_is_waited_for(site, pacs):
    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        front = OrthancFront(f"http://127.0.0.1:{server.server_port}", None)
        worker = site.worker(front=front)
        site.rounds(worker, 3)
        assert worker.waits.num_failures("front") == 3
        server.shutdown()


def test_a_time_in_results_is_that_of_the_place(site, pacs, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    site.put("1", 2)
    worker = site.worker()
    site.rounds(worker)
    monkeypatch.undo()
    time.tzset()
    # 1.8e9 s is 2027-01-15 08:00 UTC.
    assert {one.ContentTime for one in pacs.stored.values()} == {"030010"}


def test_what_others_put_into_the_outbox_stays(site):
    worker = site.worker()
    (worker.outbox.waiting / "lost+found").mkdir()
    (worker.outbox.waiting / "notes.txt").write_text("x")
    site.worker()
    assert len(list(worker.outbox.waiting.iterdir())) == 2


def test_a_study_that_can_not_be_fetched_holds_back_no_other(site, pacs, monkeypatch):
    site.put("1", 2)
    site.put("2", 2)
    worker = site.worker()
    fetch, looked = worker.front.fetch, []

    def fail_for_the_first(arrival, folder) -> None:
        looked.append(arrival.study)
        if arrival.study == looked[0]:
            raise FrontFailure("an answer of more than 1 bytes")
        fetch(arrival, folder)

    monkeypatch.setattr(worker.front, "fetch", fail_for_the_first)
    site.rounds(worker, 8)
    assert states(worker) == {"new": 1, "committed": 1}


def give_all_but(front, study: str, error: Exception):
    """Return `fetch` of a front that does not give the last image of a study."""
    fetch = front.fetch

    def fetch_the_others(arrival, folder) -> None:
        own = f"1.2.840.113619.2.{study}."
        if any(one.uid.startswith(own) for one in arrival.instances):
            raise error
        fetch(arrival, folder)

    return fetch_the_others


def test_an_image_that_is_listed_and_not_given_is_rejected_after_minutes(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker()
    withheld = give_all_but(worker.front, "1", Gone("HTTP status 500"))
    monkeypatch.setattr(worker.front, "fetch", withheld)
    looked = []
    look = worker.front.look
    monkeypatch.setattr(worker.front, "look", lambda name: looked.append(name) or look(name))
    site.rounds(worker, 2)
    start = site.clock.seconds
    site.put("2", 2)
    site.rounds(worker, 6)
    assert states(worker) == {"new": 1, "committed": 1}, "it held back the other"
    while states(worker).get("new"):
        site.rounds(worker, 1)
        assert site.clock.seconds - start < 600
    assert site.clock.seconds - start > 60
    (job,) = worker.journal.in_states(["rejected"])
    assert job.reason == "an image that is listed can't be fetched (HTTP status 500)"
    assert job.deaths == 0
    assert len([name for name in looked if name == job.study]) == MOST_WITHHELD
    assert len(looked) == MOST_WITHHELD + 1, "the other study was looked at again"
    monkeypatch.undo()
    assert retry(site.work, job.short) == 1
    site.rounds(worker)
    assert states(worker) == {"committed": 2}


def test_a_front_that_breaks_off_rejects_nothing(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker()
    failing = give_all_but(worker.front, "1", FrontFailure("ReadTimeout"))
    monkeypatch.setattr(worker.front, "fetch", failing)
    site.rounds(worker, 100)
    assert states(worker) == {"new": 1}
    monkeypatch.undo()
    site.rounds(worker)
    assert states(worker) == {"committed": 1}


def test_what_was_rejected_or_refused_is_tried_again_when_asked_for(site, pacs):
    """The worker goes on meanwhile, and needs no signal."""
    for study in ("1", "2"):
        site.put(study, 2, StudyDescription="reject")
    site.put("3", 2)
    pacs.status = lambda _: 0xC000
    worker = site.worker()
    site.rounds(worker)
    assert states(worker) == {"rejected": 2, "refused": 1}
    first, second = worker.journal.in_states(["rejected"])
    site.rounds(worker)
    assert states(worker) == {"rejected": 2, "refused": 1}
    pacs.status = lambda _: 0
    worker.child.settings |= {"is_mended": True}
    worker.child.close()
    assert retry(site.work, first.short) == 1
    site.rounds(worker)
    assert states(worker) == {"rejected": 1, "refused": 1, "committed": 1}
    assert retry(site.work, "all") == 2
    site.rounds(worker)
    assert states(worker) == {"committed": 3}
    assert len(pacs.stored) == 6
    assert worker.journal.find(second.key).number > second.number
    lines = [line for path in site.work.glob("audit-*") for line in path.open()]
    events = [json.loads(line) for line in lines]
    retried = [one["key"] for one in events if one["event"] == "retry"]
    assert len(retried) == 3
    assert retried[0] == first.short
    with pytest.raises(InputError, match="--wk_retry all: no such study is rejected or refused"):
        retry(site.work, "all")


def test_nobody_else_begins_a_log_that_the_worker_writes_to(site, pacs, monkeypatch):
    site.put("1", 2, StudyDescription="reject")
    worker = site.worker()
    site.rounds(worker)
    logs = list(site.work.glob("audit-*"))
    for path in logs:
        path.unlink()  # as in the first hour of a month
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match=f"run this as its user .sudo -u '#{os.getuid()}'"):
        retry(site.work, "all")
    assert logs and not list(site.work.glob("audit-*"))
    assert states(worker) == {"rejected": 1}


def test_an_object_that_the_pacs_refuses_is_alarmed_and_tried_at_the_next_start(site, pacs):
    site.put("1", 2)
    site.put("2", 2)
    refused = "1.2.840.113619.2.1"
    pacs.status = lambda one: (
        0xC000 if (one.StudyInstanceUID, one.SOPClassUID) == (refused, EnhancedSRStorage) else 0
    )
    worker = site.worker()
    site.rounds(worker)
    assert states(worker) == {"refused": 1, "committed": 1}
    assert "1 study refused by the PACS" in status(site.work)[1]
    pacs.status = lambda _: 0
    site.rounds(site.worker())
    assert states(worker) == {"committed": 2}
    assert site.left() == []


def test_without_space_no_study_is_begun(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker(wk_disk_mb=1000)
    free = shutil.disk_usage(site.work)._replace(free=int(999e6))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    site.rounds(worker, 4)
    assert states(worker) == {"new": 1}
    assert worker.child.num_starts == 0
    monkeypatch.undo()
    site.rounds(worker)
    assert states(worker) == {"committed": 1}


def test_a_disk_that_is_full_meanwhile_costs_nothing(site, pacs, monkeypatch):
    site.put("1", 2)
    worker = site.worker()
    put = worker.outbox.put

    def full(job, made) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.outbox, "put", full)
    site.rounds(worker, 5)
    assert states(worker) == {"new": 1}
    monkeypatch.setattr(worker.outbox, "put", put)
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert site.left() == []


def test_a_study_that_fails_while_the_disk_is_full_is_tried_again(site, pacs, monkeypatch):
    """Codecs and tables do not say that it was the disk."""
    site.put("1", 2, StudyDescription="fault")
    worker = site.worker(wk_disk_mb=1000)
    free = shutil.disk_usage(site.work)
    usages = itertools.cycle([free._replace(free=int(5e9)), free._replace(free=int(9e8))])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: next(usages))
    site.rounds(worker, 20)
    (job,) = worker.journal.in_states(["new"])
    assert (job.reason, job.deaths) == ("", 0)
    assert next(usages).free > 1e9, "each attempt has asked twice"


def test_a_study_that_can_not_be_looked_at_holds_back_no_other(site, pacs, monkeypatch):
    for study in ("1", "2"):
        site.put(study, 2)
    worker = site.worker()
    look, bad = worker.front.look, []

    def fail_for_the_first(name):
        bad.append(name)
        if name == bad[0]:
            raise FrontFailure("HTTP status 500 of 1.2.840.113619.2.1 'SECRET^NAME'")
        return look(name)

    monkeypatch.setattr(worker.front, "look", fail_for_the_first)
    site.rounds(worker, 60)
    assert states(worker) == {"committed": 1}
    assert 10 < bad.count(bad[0]) < 20, "it waits for up to a minute"
    for secret in SECRETS:
        assert secret.encode() not in site.written()


def test_a_study_larger_than_any_head_is_not_fetched(site, pacs, monkeypatch):
    site.put("1", 3)
    site.put("2", 2)
    monkeypatch.setattr("rsna.worker.worker.MOST_SLICES", 2)
    worker = site.worker()
    site.rounds(worker)
    assert states(worker) == {"committed": 1, "rejected": 1}
    assert worker.journal.in_states(["rejected"])[0].reason == "larger than any head CT"
    monkeypatch.setattr("rsna.worker.worker.MAX_FILE_BYTES", 10)
    site.put("3", 1)
    site.rounds(worker)
    assert states(worker) == {"committed": 1, "rejected": 2}


def test_a_study_that_changes_is_complete_only_when_it_was_still_for_a_while(site):
    worker = site.worker(wk_shadow=1)
    for number in range(5):
        site.put("1", 1, first=number)
        worker.turn()
        site.clock.seconds += 4.0
    assert states(worker) == {}
    site.rounds(worker, 3)
    (job,) = worker.journal.in_states(["shadow"])
    assert job.num_slices == 5


def test_a_study_that_waits_too_long_is_alarmed(site, pacs):
    site.put("1", 2)
    pacs.stop()
    worker = site.worker()
    site.rounds(worker, 3)
    assert status(site.work)[1] == ["no worker is running"]
    worker.journal.move(worker.journal.in_states(["predicted"])[0], "predicted")
    worker.journal._file.execute("UPDATE jobs SET created=?", (time.time() - 700,))
    assert status(site.work)[1][1].startswith("1 study waiting, one for 12 min")


def test_a_clock_that_is_set_back_stops_nothing(site, pacs):
    site.put("1", 2)
    worker = site.worker(wk_keep_days=1)
    site.rounds(worker, 2)
    site.now.seconds -= 1e7
    site.put("2", 2)
    site.put("1", 1, first=2)
    site.rounds(worker)
    assert states(worker) == {"committed": 3}
    assert worker.journal.oldest_s() == 0.0
    assert len(list((site.work / "kept").iterdir())) == 3


def test_own_results_are_no_input(site, pacs):
    site.put("1", 2)
    worker = site.worker()
    site.rounds(worker)
    for number, one in enumerate(list(pacs.stored.values())):
        one.Modality = "CT" if number else "SR"
        one.file_meta = FileMetaDataset()
        write_dataset(site.watched / "1" / f"back_{number}.dcm", one, ExplicitVRLittleEndian)
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert len(pacs.stored) == 2


def test_shadow_sends_nothing_then_or_later(site, pacs):
    site.put("1", 2)
    worker = site.worker(wk_shadow=1, wk_keep_days=1)
    site.rounds(worker)
    assert states(worker) == {"shadow": 1}
    assert len(list((site.work / "kept").rglob("*.dcm"))) == 2
    site.put("2", 2)
    site.rounds(site.worker())
    assert {one.StudyInstanceUID for one in pacs.stored.values()} == {"1.2.840.113619.2.2"}


def test_another_predictor_makes_a_version_and_the_older_one_none(site, pacs):
    site.put("1", 2)
    site.rounds(site.worker("a"))
    site.put("2", 2)
    worker = site.worker("b")
    site.rounds(worker)
    jobs = worker.journal.in_states(["committed"])
    assert [job.predictor[0] for job in jobs] == ["a", "b", "b"]
    assert jobs[2 if jobs[1].predecessor is None else 1].predecessor == jobs[0].key
    num_stored = len(pacs.stored)
    worker = site.worker("a")
    site.rounds(worker)
    assert len(pacs.stored) == num_stored + 2, "study 2 has no result by the older one"
    values = [
        row[0]
        for row in worker.journal._file.execute(
            "SELECT value FROM settings WHERE name='predictor' ORDER BY number"
        )
    ]
    assert [value[0] for value in values] == ["a", "b", "a"]


def test_results_are_kept_for_days(site, pacs):
    site.put("1", 2)
    worker = site.worker(wk_keep_days=2)
    site.rounds(worker)
    assert len(list((site.work / "kept").rglob("*.dcm"))) == 2
    site.now.seconds += 2.5 * 86400
    site.rounds(worker, 1)
    assert list((site.work / "kept").iterdir()) == []


def test_admission_leaves_out_and_a_changed_rule_looks_again(site, pacs):
    site.put("1", 2, StationName="CT1", PatientAge="070Y")
    site.put("2", 2, StationName="CT2", PatientAge="070Y")
    site.put("3", 2, StationName="CT1", PatientAge="007Y")
    worker = site.worker(wk_admit="station=^CT1$,age=18-120")
    site.rounds(worker)
    assert states(worker) == {"committed": 1, "left_out": 2}
    reasons = sorted(job.reason for job in worker.journal.in_states(["left_out"]))
    assert reasons == ["age", "station"]
    worker = site.worker(wk_admit="age=18-120")
    site.rounds(worker)
    assert states(worker) == {"committed": 2, "left_out": 1}


def test_a_changed_rule_holds_for_what_waits_too(site, pacs, monkeypatch):
    site.put("1", 2, PatientAge="007Y")
    worker = site.worker()
    monkeypatch.setattr(worker, "_predict", lambda job: False)
    site.rounds(worker, 2)
    assert states(worker) == {"new": 1}
    worker = site.worker(wk_admit="age=18-120")
    site.rounds(worker)
    assert states(worker) == {"left_out": 1}


def test_two_workers_on_one_folder_are_refused(site):
    with locked(site.work), pytest.raises(InputError, match="another worker"), locked(site.work):
        pass
    with locked(site.work):
        pass


def test_the_index_is_sorted_and_the_metrics_count(site, pacs):
    from prometheus_client import generate_latest

    for study, count in (("1", 1), ("2", 3), ("3", 2)):
        site.put(study, count)
    worker = site.worker()
    site.rounds(worker)
    rows = (site.work / "index.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["0.03", "0.02", "0.01"]
    assert all(len(row.split(",")[0]) == 8 for row in rows[1:])
    shown = generate_latest(worker.records.registry).decode()
    assert 'ich_jobs{state="committed"} 3.0' in shown
    assert 'ich_latency_seconds_count{state="committed"} 3.0' in shown
    assert "<td>0.03" in (site.work / "index.html").read_text()


def test_the_index_says_what_was_not_seen_whatever_the_pacs_does(site, pacs):
    site.put("1", 2)
    words = "2 slices can't be read; slices seem to be missing in 1 place"
    worker = site.worker(settings={"reason": f"partial: {words}"})
    pacs.num_to_lose = 1
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    row = (site.work / "index.csv").read_text().splitlines()[1]
    assert row.endswith(f",{words}")
    audit = (site.work / "audit-2027-01.jsonl").read_text()
    assert f'"reason": "partial: {words} | the PACS lacks' in audit
    (job,) = worker.journal.in_states(["committed"])
    again = worker.journal.move(job, "new")
    assert (job.missing, again.missing) == (words, "")


def test_the_index_of_shadow_mode_names_the_version_before(site):
    site.put("1", 2)
    worker = site.worker(wk_shadow=1)
    site.rounds(worker)
    site.put("1", 1, first=2)
    site.put("2", 1)
    site.rounds(worker)
    rows = [row.split(",") for row in (site.work / "index.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["0.03", "0.02", "0.01"]
    assert [row[4] for row in rows] == [rows[1][0], "", ""]
    assert all(job.predecessor is None for job in worker.journal.in_states(["shadow"]))


@pytest.mark.parametrize("name", ["index.csv", "index.html"])
def test_an_index_that_cannot_be_written_costs_nothing(site, pacs, name):
    (site.work / name).mkdir()  # As where the disk is full from the start on.
    site.put("1", 3)
    worker = site.worker()
    site.rounds(worker)
    assert worker.waits.num_failures("front")
    (site.work / name).rmdir()
    site.rounds(worker)
    assert not worker.waits.num_failures("front")
    assert "committed" in (site.work / name).read_text()


def test_the_child_ends_with_its_parent(site):
    worker = site.worker()
    worker.child.start()
    process = psutil.Process(worker.child.process.pid)
    worker.child.close()
    assert not process.is_running()


def test_what_a_killed_worker_left_is_put_right(site, pacs):
    site.put("1", 2)
    worker = site.worker()
    site.rounds(worker, 2)
    for name in ("jobs/x/in", "outbox/" + "0" * 64):
        (site.work / name).mkdir(parents=True, exist_ok=True)
    again = site.worker()
    assert not (site.work / "jobs").exists()
    site.rounds(again)
    assert site.left() == []
    assert states(again) == {"committed": 1}
