"""What is sent, in which order, and what is on disk at each step."""

import os
import shutil
import sqlite3

import pytest
from worker_factory import states

from common.delivery.sending import Busy
from rsna.worker import outbox


def waiting_to_be_sent(site, *studies: str):
    """Return a worker with results that are not sent yet."""
    for study in studies:
        site.put(study, 2)
    worker = site.worker()
    send = worker.outbox.turn
    worker.outbox.turn = lambda: None
    site.rounds(worker, 6)
    worker.outbox.turn = send
    assert states(worker) == {"predicted": len(studies)}
    return worker


def test_the_name_of_a_result_is_on_disk_before_the_journal_counts_on_it(site, monkeypatch):
    worker, events = site.worker(), []
    sync, move = outbox.sync_folder, worker.journal.move
    monkeypatch.setattr(outbox, "sync_folder", lambda path: events.append("sync") or sync(path))
    monkeypatch.setattr(
        worker.journal,
        "move",
        lambda job, state, *more, **columns: (
            events.append(state) or move(job, state, *more, **columns)
        ),
    )
    site.put("1", 2)
    site.rounds(worker, 3)
    assert events == ["sync", "predicted", "sent", "committed"]


def test_a_journal_that_can_not_be_written_after_the_results_are_there_costs_nothing(
    site, pacs, monkeypatch
):
    site.put("1", 2)
    worker = site.worker()
    move = worker.journal.move

    def full(*_, **__) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(worker.journal, "move", full)
    site.rounds(worker, 5)
    assert states(worker) == {"new": 1}
    assert list(worker.outbox.waiting.iterdir()), "they are made again over these"
    monkeypatch.setattr(worker.journal, "move", move)
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert len(pacs.stored) == 2


def test_results_are_sent_in_the_order_of_arrival(site, pacs):
    worker = waiting_to_be_sent(site, "3", "1", "2")
    arrived = [job.study for job in worker.journal.in_states(["predicted"])]
    worker.outbox.turn()
    sent = list(dict.fromkeys(str(one.StudyInstanceUID) for one in pacs.stored.values()))
    by_study = {job.objects[0]: job.study for job in worker.journal.in_states(["committed"])}
    first = {one.StudyInstanceUID: by_study.get(uid) for uid, one in pacs.stored.items()
             if uid in by_study}  # fmt: skip
    assert [first[uid] for uid in sent] == arrived


def test_results_stay_until_the_journal_says_that_the_pacs_has_them(site, monkeypatch):
    worker = waiting_to_be_sent(site, "1")
    move = worker.journal.move

    def killed(job, state, *more, **columns):
        if state == "committed":
            raise KeyboardInterrupt
        return move(job, state, *more, **columns)

    monkeypatch.setattr(worker.journal, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        worker.outbox.turn()
    assert len(list(worker.outbox.waiting.rglob("*.dcm"))) == 2


def test_results_that_the_journal_knows_to_be_in_the_pacs_go_at_the_next_start(site):
    worker = waiting_to_be_sent(site, "1")
    (job,) = worker.journal.in_states(["predicted"])
    worker.journal.move(job, "committed")
    site.worker()
    assert site.left() == []


def test_results_that_were_removed_before_the_pacs_answered_are_made_again(site, pacs, monkeypatch):
    worker = waiting_to_be_sent(site, "1")
    missing = worker.outbox.destination.missing

    def busy(_) -> None:
        raise Busy("no report of storage commitment")

    monkeypatch.setattr(worker.outbox.destination, "missing", busy)
    worker.outbox.turn()
    assert states(worker) == {"sent": 1}
    for folder in worker.outbox.waiting.iterdir():
        shutil.rmtree(folder)
    pacs.stored.clear()
    monkeypatch.setattr(worker.outbox.destination, "missing", missing)
    site.rounds(worker)
    assert states(worker) == {"committed": 1}
    assert len(pacs.stored) == 2


def test_what_the_pacs_loses_again_and_again_is_not_sent_without_a_pause(site, pacs):
    worker = waiting_to_be_sent(site, "1")
    pacs.num_to_lose = 10_000
    for _ in range(100):
        worker.outbox.turn()
        site.clock.seconds += 1.0
    assert 2 * 5 <= pacs.num_received <= 2 * 8  # after 1, 2, 4, 8, 16, 32, 60 s


def test_files_of_the_worker_are_for_its_user_alone(site, monkeypatch):
    synced = []
    worker = site.worker()
    monkeypatch.setattr(os, "fsync", synced.append)
    worker.records.note(None, "something")
    assert len(synced) == 1, "a line of the audit log is on disk"
