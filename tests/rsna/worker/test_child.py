"""The child: what reaches it, and what of it reaches others."""

import os
import time

import psutil
import pytest
from worker_factory import LIMITS

from common.errors import InputError
from common.preparation.workers.limits import Limits
from rsna.worker import child as child_module
from rsna.worker.child import Child, ChildDied, Stopped


@pytest.fixture
def child():
    made = Child("worker_standin", {"digest": "a"}, LIMITS)
    yield made
    made.close()


def request(tmp_path) -> dict:
    (tmp_path / "in").mkdir(exist_ok=True)
    paths = {"source": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    return {**paths, "time": "2026-01-01T00:00:00", "predecessors": {}}


def test_no_secret_and_no_signal_of_the_terminal_reach_the_child(child, monkeypatch):
    monkeypatch.setenv("ICH_SEND_AUTH", "worker:pass-word")
    monkeypatch.setenv("ICH_ORTHANC_AUTH_FILE", "/etc/secret")
    child.start()
    shown = psutil.Process(child.process.pid).environ()
    assert "PYTHONPATH" in shown
    assert not [name for name in shown if "_AUTH" in name]
    assert os.getsid(child.process.pid) != os.getsid(0)


def test_what_libraries_print_in_the_child_is_no_reply_and_not_shown(child, tmp_path, capfd):
    child.start()
    write_nothing = child.ask(request(tmp_path))
    assert "fault" in write_nothing
    assert "codec" not in "".join(capfd.readouterr())


def test_a_reply_without_end_is_a_death(child, tmp_path, monkeypatch):
    child.start()
    monkeypatch.setattr(child_module, "MOST_REPLY_BYTES", 5)
    with pytest.raises(ChildDied, match="crashed"):
        child.ask(request(tmp_path))
    assert child.process is None


def test_nothing_is_waited_for_when_the_worker_is_to_end(tmp_path):
    child = Child("worker_standin", {"seconds": 60}, Limits(60, 2000))
    child.start()
    child.is_over = lambda: True
    start = time.monotonic()
    with pytest.raises(Stopped):
        child.ask(request(tmp_path))
    assert time.monotonic() - start < 10
    with pytest.raises(Stopped):
        child.start()
    assert child.process is None


def test_a_child_that_says_why_it_can_not_work_is_not_asked(child):
    child.settings = {"refuse": True}
    with pytest.raises(InputError, match="the predictor is damaged"):
        child.start()
    assert child.process is None
