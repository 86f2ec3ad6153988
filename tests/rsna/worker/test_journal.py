"""The journal: one row per set of slices and predictor, in an order that no clock changes."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from rsna.worker.journal import Journal, is_locked, job_key, locked, slice_hashes


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite", now=iter(range(1_000_000, 0, -1000)).__next__)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.randoms())
def test_a_key_is_of_the_set_of_slices_and_the_predictor(names, random):
    mixed = names.copy()
    random.shuffle(mixed)
    assert job_key(mixed, "p") == job_key(names, "p") != job_key(names, "q")
    assert slice_hashes(mixed) == slice_hashes(names)
    assert job_key([*names, "".join(names) + "x"], "p") != job_key(names, "p")


def test_a_set_of_slices_is_taken_once(journal):
    assert journal.add("s", ["a", "b"], "p", "new") is not None
    assert journal.add("s", ["b", "a"], "p", "new") is None
    assert journal.add("s", ["a"], "p", "new") is None, "fewer are nothing new"
    assert journal.add("s", ["a"], "q", "new") is not None
    assert journal.add("t", ["a"], "p", "new").number == 3


def test_slices_under_another_patient_are_known_too(journal):
    first = journal.add("patient 1", ["a", "b"], "p", "new")
    assert journal.add("patient 2", ["a", "b"], "p", "new") is None
    assert journal.find(first.key).study == "patient 1"


def test_slices_that_are_left_of_what_was_never_predicted_are_new(journal):
    journal.add("s", ["a", "b"], "p", "new")
    waiting = journal.add("s", ["a", "b", "c"], "p", "new")
    journal.forget("key", waiting.key)
    again = journal.add("s", ["a", "b"], "p", "new")
    journal.move(again, "rejected", "crashed")
    assert journal.add("s", ["a"], "p", "new") is not None, "without the slice that crashed"


def test_the_order_is_that_of_arrival_though_the_clock_goes_back(journal):
    for name in "abc":
        journal.add(name, [name], "p", "new")
    found = [journal.find(key) for key in journal.waiting()]
    assert [job.study for job in found] == ["a", "b", "c"]
    assert found[0].created > found[-1].created


def test_what_another_predictor_has_seen_waits_for_all_others(journal):
    old = journal.add("a", ["a"], "p", "new")
    journal.move(old, "predicted")
    journal.add("a", ["a"], "q", "new")
    journal.add("b", ["b"], "q", "new")
    assert [journal.find(key).study for key in journal.waiting()] == ["b", "a"]


def test_a_version_is_pinned_to_its_predecessor_when_it_comes(journal):
    first = journal.add("s", ["a"], "p", "new")
    journal.move(first, "predicted", objects=["1"], documents={"f": {"report": {}}})
    second = journal.add("s", ["a", "b"], "p", "new")
    assert second.predecessor == first.key
    third = journal.add("s", ["a", "b", "c"], "p", "new")
    assert journal.find(second.key) is None, "nothing was made of it"
    assert third.predecessor == first.key
    journal.move(third, "refused", objects=["2"])
    assert journal.add("s", ["a", "b", "c", "d"], "p", "new").predecessor == third.key


def test_a_setting_is_noted_when_it_changes(journal):
    assert [journal.record("predictor", value) for value in "aabba"] == [1, 0, 1, 0, 1]
    assert journal.setting("predictor") == "a"


def test_a_failed_change_changes_nothing(journal):
    job = journal.add("s", ["a"], "p", "new")
    with pytest.raises(sqlite3.IntegrityError):
        journal.move(job, None)
    assert journal.find(job.key) == job


def test_a_version_that_can_not_be_added_leaves_the_one_before(journal):
    waiting = journal.add("s", ["a"], "p", "new")
    with pytest.raises(sqlite3.IntegrityError):
        journal.add("s", ["a", "b"], "p", None)
    assert journal.find(waiting.key) == waiting


def test_times_are_those_of_the_first_time_in_a_state(journal):
    job = journal.move(journal.add("s", ["a"], "p", "new"), "sent")
    assert journal.move(job, "sent", "again").sent == job.sent


def test_a_job_knows_its_slices_and_the_folder_how_long_the_oldest_waits(journal):
    journal.now = iter([1000.0, 1500.0, 1600.0, 1700.0, 1800.0, 1900.0]).__next__
    assert journal.oldest_s() == 0.0
    job = journal.add("s", ["a", "b", "c"], "p", "new")
    assert job.num_slices == 3 and journal.oldest_s() == 500.0
    journal.add("t", ["d"], "p", "new")
    assert journal.oldest_s() == 700.0
    journal.move(job, "committed")
    assert journal.oldest_s() == 300.0


def test_a_folder_is_locked_while_a_worker_holds_it(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(InputError, match="another worker works there"), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "text").write_text("no journal at all, but text that is long enough" * 20)
    with pytest.raises(InputError, match=r"can't be used .*give another --wk_work"):
        Journal(tmp_path / "text")
    with pytest.raises(InputError, match="unable to open"):
        Journal(tmp_path / "none", read_only=True)
    made = Journal(tmp_path / "later")
    made._file.execute("PRAGMA user_version=2")
    made.close()
    with pytest.raises(InputError, match="is of version 2, not 1"):
        Journal(tmp_path / "later")


def test_a_journal_that_is_damaged_inside_is_refused(tmp_path):
    path = tmp_path / "journal"
    made = Journal(path)
    for number in range(200):
        made.add(str(number), [str(number)], "p", "new")
    made.close()
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\xff" * 32768
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|malformed"):
        Journal(path)


def test_a_change_is_on_disk_when_it_returns(tmp_path, project_root):
    """The process is killed right after the call, without closing anything."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from rsna.worker.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "assert journal._file.execute('PRAGMA synchronous').fetchone()[0] == 2\n"
        "assert journal._file.execute('PRAGMA journal_mode').fetchone()[0] == 'wal'\n"
        "journal.move(journal.add('s', ['a'], 'p', 'new'), 'predicted')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "journal.sqlite"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=project_root, check=False)
    assert done.returncode == -9
    assert [job.state for job in Journal(path).of_study("s")] == ["predicted"]
