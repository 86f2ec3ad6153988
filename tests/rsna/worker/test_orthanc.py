"""The worker between two real Orthancs: nothing lost, nothing doubled, whatever is killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pydicom
import pytest
import requests
from delivered import write_predictor
from orthanc import Orthanc, free_port, require_orthanc
from small_disk import filled, mounted
from worker_factory import SECRETS, Site, states, until

from rsna.worker.fronts import OrthancFront
from rsna.worker.journal import JOURNAL_FILE, Journal

pytestmark = pytest.mark.long


@pytest.fixture
def commit_port() -> int:
    return free_port()


@pytest.fixture
def servers(tmp_path: Path, commit_port: int) -> Iterator[tuple[Orthanc, Orthanc]]:
    require_orthanc()
    front = Orthanc(tmp_path / "front", "FRONT")
    known = {"DicomModalities": {"ich": ["ICH", "127.0.0.1", commit_port]}}
    pacs = Orthanc(tmp_path / "pacs", "PACS", more=known)
    try:
        yield front.start(), pacs.start()
    finally:
        front.stop(signal.SIGKILL)
        pacs.stop(signal.SIGKILL)


def address(pacs: Orthanc) -> str:
    return f"dicom:PACS@127.0.0.1:{pacs.dicom}"


class Process:
    """The worker with the stand-in child, started and killed."""

    def __init__(self, work: Path, front: Orthanc, pacs: Orthanc, **more: object) -> None:
        given = {"work": str(work), "orthanc": front.address, "send": address(pacs), **more}
        helper = Path(__file__).resolve().parents[2] / "helpers" / "worker_process.py"
        self.command = [sys.executable, str(helper), json.dumps(given)]
        self.work = work
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.work.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def kill_child(self) -> None:
        for child in psutil.Process(self.process.pid).children():
            child.kill()


def journal_counts(work: Path) -> dict[str, int]:
    if not (work / "index.csv").is_file():  # It comes after the journal.
        return {}
    journal = Journal(work / JOURNAL_FILE, read_only=True)
    try:
        return {state: number for state, number in journal.counts().items() if number}
    finally:
        journal.close()


def sets_in(pacs: Orthanc) -> Counter[tuple[str, str]]:
    """Count the current reports by study and class: those that none names as its predecessor."""
    found = []
    for name in pacs.get("/instances"):
        answer = requests.get(f"{pacs.address}/instances/{name}/file", timeout=30)
        found.append(pydicom.dcmread(pydicom.filebase.DicomBytesIO(answer.content)))
    replaced = {one.SeriesDescription.removeprefix("after ") for one in found}
    return Counter(
        (str(one.StudyInstanceUID), str(one.SOPClassUID))
        for one in found
        if one.SOPInstanceUID not in replaced
    )


def left_in(work: Path) -> list[Path]:
    # os.walk passes over folders that are removed meanwhile, rglob raises.
    walked = [each for place in ("outbox", "jobs") for each in os.walk(work / place)]
    return [Path(folder, name) for folder, folders, files in walked for name in folders + files]


def is_done(work: Path, num_committed: int) -> bool:
    counts = journal_counts(work)
    is_open = counts.keys() & {"new", "predicted", "sent"}
    return not is_open and counts.get("committed", 0) >= num_committed and not left_in(work)


def test_kills_at_random_moments_lose_and_double_nothing(servers, tmp_path, commit_port):
    front, pacs = servers
    site = Site(tmp_path, None)
    process = Process(site.work, front, pacs, seconds=0.3, commit_port=commit_port)
    moments = random.Random(7)

    def send(number: int) -> None:
        site.put(str(number), 25)
        assert front.storescu(site.watched / str(number)).returncode == 0

    try:
        send(0)
        process.start()
        until(lambda: pacs.statistics()["CountInstances"] == 2, 90)
        process.kill()
        for number in range(20):
            if number % 3 == 1 and number < 16:
                send(number)
            if number == 8:
                site.put("0", 3, first=25)
                front.storescu(site.watched / "0")
            if number == 12:
                pacs.stop(signal.SIGKILL)
            if number == 15:
                pacs.start()
            process.start()
            time.sleep(moments.uniform(0.3, 5.0))
            if number % 4 == 1:
                process.kill_child()
                time.sleep(moments.uniform(0.0, 1.0))
            process.kill()
        process.start()
        until(lambda: is_done(site.work, 7), 240)
    finally:
        process.kill()
    counts = sets_in(pacs)
    assert len(counts) == 6 * 2
    assert set(counts.values()) == {1}
    assert pacs.statistics()["CountInstances"] == 7 * 2
    written = site.written() + site.work.with_suffix(".log").read_bytes()
    for secret in SECRETS:
        assert secret.encode() not in written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_front_that_is_ended_before_a_study_is_stable_loses_nothing(servers, tmp_path, number):
    front, pacs = servers
    site = Site(tmp_path, None)
    process = Process(site.work, front, pacs)
    site.put("1", 5)
    process.start()
    try:
        front.storescu(site.watched / "1")
        front.stop(number)
        time.sleep(1.5)
        front.start()
        until(lambda: pacs.statistics()["CountInstances"] == 2, 30)
        until(lambda: is_done(site.work, 1), 10)
    finally:
        process.kill()


@pytest.mark.parametrize("by", ["query", "commitment", "web"])
def test_an_object_that_the_pacs_loses_before_it_answers_is_sent_again(
    servers, tmp_path, commit_port, monkeypatch, by
):
    _, pacs = servers
    site = Site(tmp_path, f"{pacs.address}/dicom-web" if by == "web" else address(pacs))
    site.commit_port = commit_port if by == "commitment" else 0
    site.put("1", 3)
    site.put("2", 3)
    worker = site.worker()
    destination = worker.outbox.destination
    ask, num_asked = destination.missing, 0

    def lose_one_and_ask(objects):
        nonlocal num_asked
        num_asked += 1
        if num_asked == 1:
            [lost] = requests.post(
                f"{pacs.address}/tools/lookup", data=objects[1].instance, timeout=30
            ).json()
            requests.delete(pacs.address + lost["Path"], timeout=30).raise_for_status()
        return ask(objects)

    monkeypatch.setattr(destination, "missing", lose_one_and_ask)
    try:
        site.rounds(worker)
    finally:
        worker.child.close()
        worker.outbox.close()
    assert states(worker) == {"committed": 2}
    assert num_asked == 3
    assert set(sets_in(pacs).values()) == {1}
    assert pacs.statistics()["CountInstances"] == 4
    assert "lacks 1 of 2 objects" in site.written().decode(errors="replace")
    assert site.left() == []


def test_a_pacs_that_is_killed_and_down_for_a_minute_gets_all(servers, tmp_path):
    front, pacs = servers
    site = Site(tmp_path, None)
    process = Process(site.work, front, pacs)
    site.put("1", 3)
    front.storescu(site.watched / "1")
    process.start()
    try:
        until(lambda: is_done(site.work, 1), 90)
        pacs.stop(signal.SIGKILL)
        for study in ("2", "3"):
            site.put(study, 3)
            front.storescu(site.watched / study)
        time.sleep(60)
        assert journal_counts(site.work) == {"committed": 1, "predicted": 2}
        assert b'"event": "pacs_failed", "reason": "no connection"' in site.written()
        pacs.start()
        until(lambda: is_done(site.work, 3), 62 + 10)
    finally:
        process.kill()
    assert Counter(sets_in(pacs).values()) == {1: 6}


def test_a_disk_of_the_worker_that_is_full_costs_nothing(servers, tmp_path):
    """Full at whatever step: images, results, journal, audit log."""
    front, pacs = servers
    site = Site(tmp_path, None)
    process = Process(site.work, front, pacs)
    num_studies = 6
    with mounted(site.work, 2 << 20):
        process.start()
        try:
            until((site.work / "index.csv").is_file, 90)
            for number in range(num_studies):
                with filled(site.work, number * 8192):
                    site.put(str(number), 9)
                    front.storescu(site.watched / str(number))
                    time.sleep(5)
            until(lambda: is_done(site.work, num_studies), 240)
            assert process.process.poll() is None
        finally:
            process.kill()
        assert Counter(sets_in(pacs).values()) == {1: 2 * num_studies}
        journal = Journal(site.work / JOURNAL_FILE, read_only=True)
        assert {job.deaths for job in journal.in_states(["committed"])} == {0}
        journal.close()
        for line in b"".join(p.read_bytes() for p in site.work.glob("*.jsonl")).splitlines():
            json.loads(line)


def num_whole(work: Path) -> int:
    """Count the studies in the PACS of which no slice was lacking."""
    journal = Journal(work / JOURNAL_FILE, read_only=True)
    try:
        return sum(job.num_slices == 3 for job in journal.in_states(["committed"]))
    finally:
        journal.close()


@pytest.mark.parametrize("which", ["front", "pacs"])
def test_a_disk_of_an_orthanc_that_is_full_costs_nothing(tmp_path, which):
    """What the front does not take its sender sends again; what the PACS does not, the worker.

    Objects are large: of those below 8 KB Orthanc 1.10 says that it has them, and keeps nothing.
    """
    require_orthanc()
    front, pacs = Orthanc(tmp_path / "front", "FRONT"), Orthanc(tmp_path / "pacs", "PACS")
    site = Site(tmp_path, None)
    process = Process(site.work, front, pacs, num_padded=100_000)
    full = front if which == "front" else pacs
    # The index of an Orthanc takes 30 MB at most of the tests.
    with mounted(full.folder / "data", 48 << 20) as disk:
        try:
            front.start()
            pacs.start()
            process.start()
            for study in ("1", "2"):
                site.put(study, 3, size=256)
            front.storescu(site.watched / "1")
            until(lambda: is_done(site.work, 1), 90)
            with filled(disk):
                done = front.storescu(site.watched / "2")
                assert (done.returncode == 0) == (which == "pacs"), done.stdout
                time.sleep(8)
                assert full.process.poll() is None
                assert num_whole(site.work) == 1
            if which == "front":
                assert front.storescu(site.watched / "2").returncode == 0
            until(lambda: num_whole(site.work) == 2 and is_done(site.work, 2), 90)
            assert Counter(sets_in(pacs).values()) == {1: 4}
        finally:
            process.kill()
            front.stop(signal.SIGKILL)
            pacs.stop(signal.SIGKILL)


def test_an_image_whose_file_the_front_has_lost_costs_its_own_study_alone(servers, tmp_path):
    front, pacs = servers
    site = Site(tmp_path, address(pacs))
    for study in ("1", "2"):
        site.put(study, 3)
        front.storescu(site.watched / study)
    front.stop()
    for path in (front.folder / "data").rglob("????????-*"):
        if b"1.2.840.113619.2.1.1.2" in path.read_bytes():
            path.unlink()
    front.start()
    worker = site.worker(front=OrthancFront(front.address, None))
    try:
        site.rounds(worker, 10)
        assert states(worker) == {"new": 1, "committed": 1}
        site.rounds(worker, 30)
    finally:
        worker.child.close()
        worker.outbox.close()
    (job,) = worker.journal.in_states(["rejected"])
    assert job.reason == "an image that is listed can't be fetched (HTTP status 500)"
    assert Counter(sets_in(pacs).values()) == {1: 2}


def findscu(pacs: Orthanc, study: str) -> int:
    """Return how many instances dcmtk's findscu lists for a study."""
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", "SeriesInstanceUID"]
    options = [option for key in keys for option in ("-k", key)]
    called = ["-aet", "ICH", "-aec", "PACS", "127.0.0.1", str(pacs.dicom)]
    command = ["findscu", "-S", *options, *called]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return len(re.findall(r"I: \(0020,000e\) UI \[2\.25\.", done.stdout + done.stderr))


@pytest.mark.parametrize("by_web", [False, True])
def test_a_head_is_in_the_pacs_soon_after_it_is_stable(
    servers, tmp_path, test_data, project_root, by_web
):
    """The whole program with a network: C-STORE or STOW; sent again, nothing happens."""
    front, pacs = servers
    predictor, work = write_predictor(tmp_path / "net"), tmp_path / "work"
    send = f"{pacs.address}/dicom-web" if by_web else address(pacs)
    command = [sys.executable, "-m", "scripts.worker", "--pr_predictor", str(predictor)]
    command += ["--wk_orthanc", front.address, "--wk_work", str(work), "--wk_send", send]
    port = free_port()
    command += ["--wk_stable_s", "2", "--wk_metrics_port", str(port), "--dl_heat_map", "none"]
    log = tmp_path / "worker.log"
    head = test_data / "ge_head"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=project_root, stderr=file, stdout=file)
    try:
        until(lambda: (work / "index.csv").is_file(), 60)
        if by_web:
            stow(front, head)
        else:
            assert front.storescu(head).returncode == 0
        study = str(pydicom.dcmread(next(head.iterdir()), stop_before_pixels=True).StudyInstanceUID)
        until(lambda: findscu(pacs, study) == 3, 15 + 2 + 15)
        until(lambda: not left_in(work), 10)
        before = pacs.statistics(), front.statistics()
        front.storescu(head)
        time.sleep(6)
        assert (pacs.statistics(), front.statistics()) == before
        metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        assert 'ich_jobs{state="committed"} 1.0' in metrics
        status = subprocess.run(
            [sys.executable, "-m", "scripts.worker", "--wk_work", str(work), "--wk_status", "1"],
            cwd=project_root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert status.returncode == 0, status.stderr
        second = subprocess.run(
            command, cwd=project_root, capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert "another worker works there" in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    written = [path.read_bytes() for path in [*work.iterdir(), log] if path.is_file()]
    shown = b"\n".join([*written, metrics.encode(), status.stdout.encode()])
    for path in head.iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        words = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        for word in (*words, "StudyDate", "PatientBirthDate", "FrameOfReferenceUID"):
            value = str(header.get(word, "") or "")
            assert not value or value.encode() not in shown, word
        for part in str(header.get("PatientName", "")).split("^"):
            assert len(part) < 3 or part.encode() not in shown


def stow(server: Orthanc, folder: Path) -> None:
    from dicomweb_client import DICOMwebClient

    client = DICOMwebClient(f"{server.address}/dicom-web")
    client.store_instances([pydicom.dcmread(path) for path in sorted(folder.iterdir())])


def test_junk_between_good_studies_is_rejected_with_reasons(
    servers, tmp_path, test_data, project_root
):
    """Whatever the front takes of odd files: the worker lives, and the good study gets through."""
    front, pacs = servers
    predictor, work = write_predictor(tmp_path / "net"), tmp_path / "work"
    for path in sorted((test_data / "odd_dicom").rglob("*")):
        if path.is_file():
            requests.post(f"{front.address}/instances", data=path.read_bytes(), timeout=60)
    front.storescu(test_data / "ge_head")
    command = [sys.executable, "-m", "scripts.worker", "--pr_predictor", str(predictor)]
    command += ["--wk_orthanc", front.address, "--wk_work", str(work), "--wk_send", address(pacs)]
    command += ["--wk_stable_s", "2", "--dl_heat_map", "none", "--wk_time_s", "60"]
    with open(tmp_path / "worker.log", "wb") as log:
        process = subprocess.Popen(command, cwd=project_root, stderr=log, stdout=log)
    try:
        until((work / "index.csv").is_file, 60)
        until(lambda: bool(journal_counts(work)) and is_done(work, 1), 200)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    journal = Journal(work / JOURNAL_FILE, read_only=True)
    rejected = journal.in_states(["rejected"])
    assert len(rejected) >= 5
    assert all(job.reason for job in rejected), rejected
    assert len({job.study for job in journal.in_states(["committed"])}) >= 1
    journal.close()
