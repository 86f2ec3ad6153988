"""Processes of this machine: few, kept, and each alone with its task."""

import os
import time

import psutil
import pytest
from task_functions import abort_on_three, own_pid, square_or_fail, square_slowly

from common.preparation.workers import local
from common.preparation.workers.limits import TIMEOUT, Limits
from common.preparation.workers.local import LocalProcesses, memory_share_mb

NONE = Limits()


@pytest.fixture
def processes(monkeypatch):
    """Two processes that import nothing but what their tasks need."""
    monkeypatch.setattr(local, "IMPORTED_FIRST", "common")
    found = LocalProcesses(2)
    yield found
    found.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_a_small_job_starts_one_process_and_the_next_has_the_same(processes):
    before = children()
    processes.start()
    processes.start()
    (started,) = children() - before
    first = [pid for _, pid, _ in processes.stream(own_pid, [0], NONE)]
    second = [pid for _, pid, _ in processes.stream(own_pid, [1], NONE)]
    assert first == second == [started]
    assert list(processes.stream(own_pid, [], NONE)) == []
    processes.close()
    assert children() == before
    (other,) = [pid for _, pid, _ in processes.stream(own_pid, [0], NONE)]
    assert other not in (started, os.getpid())


def test_a_task_that_kills_its_process_takes_no_other_along(processes):
    found = list(processes.stream(abort_on_three, range(6), NONE))
    results = {task: result for task, result, _ in found}
    assert results == {0: 0, 1: 1, 2: 4, 3: None, 4: 16, 5: 25}
    assert [task for task, _, exceeded in found if exceeded] == []


def test_what_takes_too_long_is_killed_alone(processes):
    limits = Limits(seconds=1.0)
    found = list(processes.stream(square_slowly, [60.0, 0.0, 0.1], limits))
    assert {task: (result, exceeded) for task, result, exceeded in found} == {
        60.0: (None, TIMEOUT),
        0.0: (0.0, None),
        0.1: (0.1**2, None),
    }


def test_an_exception_is_raised_here_and_leaves_no_process_at_work(processes):
    before = children()
    with pytest.raises(ArithmeticError, match="three") as raised:
        list(processes.stream(square_or_fail, [3, 1, 2], NONE))
    assert "square_or_fail" in raised.value.__notes__[0]
    processes.close()
    assert children() == before


def test_a_process_without_a_parent_ends(processes):
    processes.start()
    (worker,) = processes._idle
    watched = psutil.Process(worker._process.pid)
    worker.pipe.close()  # as the kernel does for a parent that is killed
    deadline = time.monotonic() + 60
    while watched.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watched.status() == psutil.STATUS_ZOMBIE


def test_processes_share_the_memory_of_the_machine():
    assert 0 < memory_share_mb(2) == memory_share_mb(1) / 2
    assert memory_share_mb(1) < psutil.virtual_memory().total / 1e6


def test_a_process_that_is_killed_while_idle_costs_nothing(processes):
    processes.start()
    (idle,) = processes._idle
    idle._process.kill()
    idle._process.wait()
    assert [result for _, result, _ in processes.stream(square_or_fail, [2], NONE)] == [4]


def test_the_present_folder_hides_no_module_of_a_process(processes, tmp_path, monkeypatch):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert [result for _, result, _ in processes.stream(square_or_fail, [2], NONE)] == [4]
