"""The process beside a training: what it delivers, and what it never holds up."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import ToyDataset, make_toy, toy_loader, weights_of
from tracker_stubs import (
    BrokenBackend,
    FullBackend,
    RecordingBackend,
    RefusingBackend,
    StuckBackend,
)

from common.callbacks import TrainingMonitor
from common.networks import FitSettings
from common.trackers import MLflowBackend, Tracker

ROOT = Path(__file__).resolve().parents[3]


def make(folder: Path, kind: type[RecordingBackend] = RecordingBackend, **options) -> Tracker:
    options = {"batch_seconds": 0.1, "close_seconds": 30.0, **options}
    return Tracker(folder, [kind(folder / "calls")], **options)


def fit(folder: Path, tracker: Tracker | None, num: int = 60, state=None):
    monitor = TrainingMonitor(folder / "metrics.jsonl", tracker, every=5)
    settings = FitSettings(iteration_num=num, iteration_valid=20)
    network = make_toy(settings, callbacks=(monitor,))
    if state is not None:
        network.load_state_dict(state)
    network.fit(toy_loader(ToyDataset(16), 4), toy_loader(ToyDataset(8), 4))
    return network


def points(folder: Path) -> list[tuple]:
    backend = RecordingBackend(folder / "calls")
    return [tuple(point) for batch in backend.calls("points") for point in batch]


def record(folder: Path) -> set[tuple]:
    found = set()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        places = {"iteration", "micro_step", "epoch", "time"}
        found |= {(k, v, values["iteration"]) for k, v in values.items() if k not in places}
    return found


def test_everything_arrives(tmp_path):
    tracker = make(tmp_path)
    flags = "".join(f"flag_{n}: {'x' * 100}\n" for n in range(100))
    (tmp_path / "config.yaml").write_text(flags)
    fit(tmp_path, tracker)
    (tmp_path / "report.html").write_text("<p>")
    tracker.close("finished")
    assert {(name, value, at) for name, value, _, at in points(tmp_path)} == record(tmp_path)
    assert len(points(tmp_path)) == len(record(tmp_path))
    backend = RecordingBackend(tmp_path / "calls")
    assert sum(map(len, backend.calls("params"))) == 100
    assert backend.calls("file") == ["report.html"] and backend.calls("end") == ["finished"]
    assert not tracker.has_missed


def test_values_arrive_without_a_close_and_a_resumed_run_repeats_none(tmp_path):
    tracker = make(tmp_path)
    network = fit(tmp_path, tracker, num=40)
    deadline = time.monotonic() + 30
    while len(points(tmp_path)) < len(record(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(points(tmp_path)) == len(record(tmp_path))
    tracker.close("killed")
    state = network.state_dict() | {"iteration": 20, "validated": 20}
    second = make(tmp_path)
    fit(tmp_path, second, num=40, state=state)
    second.close()
    keys = [(name, at) for name, _, _, at in points(tmp_path)]
    assert len(keys) == len(set(keys)) == len(record(tmp_path))
    assert RecordingBackend(tmp_path / "calls").calls("end") == ["killed", "finished"]


@pytest.mark.parametrize("kind", [StuckBackend, RefusingBackend, FullBackend])
def test_a_bad_store_costs_the_training_nothing(tmp_path, caplog, kind):
    plain = fit(tmp_path / "plain", None)
    caplog.clear()
    tracker = make(tmp_path, kind, close_seconds=1.0 if kind == StuckBackend else 30.0)
    fit(tmp_path, tracker, num=20)
    began = time.monotonic()
    network = fit(tmp_path, tracker)
    assert time.monotonic() - began < 5.0
    assert torch.equal(weights_of(network), weights_of(plain))
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 30.0
    assert tracker.has_missed
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    told = [w for w in warnings if "fails, and the run goes on without it" in w]
    assert len(told) == (0 if kind == StuckBackend else 1)
    assert "metrics.jsonl has" in warnings[-1]


def test_no_call_waits_even_if_the_process_does_not_listen(tmp_path):
    tracker = make(tmp_path, close_seconds=0.5)
    tracker.start()
    process = tracker.sidecars[0].process
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(2000):
        tracker.start()
        tracker.check()
    assert time.monotonic() - began < 5.0
    tracker.close()
    assert process.returncode == -signal.SIGKILL and tracker.has_missed


def test_a_process_that_cannot_work_is_told_of(tmp_path, caplog):
    tracker = make(tmp_path, BrokenBackend)
    tracker.start()
    tracker.close()
    assert "ImportError: no such client" in caplog.text and tracker.has_missed


@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_never_answers_or_refuses_delays_no_step(tmp_path, answers):
    server = socket.create_server(("127.0.0.1", 0))
    uri = f"http://127.0.0.1:{server.getsockname()[1]}"
    if not answers:
        server.close()
    plain = fit(tmp_path / "plain", None)
    began = time.monotonic()
    tracker = Tracker(tmp_path, [MLflowBackend(tmp_path, tmp_path, uri)], close_seconds=0.5)
    network = fit(tmp_path, tracker)
    assert time.monotonic() - began < 5.0
    tracker.close()
    assert tracker.has_missed
    assert torch.equal(weights_of(network), weights_of(plain))
    server.close()


def test_who_has_nothing_to_show_starts_no_process(tmp_path):
    tracker = make(tmp_path)
    tracker.check()
    tracker.close()
    assert not (tmp_path / "calls").exists() and not tracker.has_missed


def test_the_end_of_a_killed_training_is_told(tmp_path):
    code = f"""
import os, signal, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests" / "helpers")!r}]
from pathlib import Path
from tracker_stubs import RecordingBackend
from common.trackers import Tracker
folder = Path({str(tmp_path)!r})
tracker = Tracker(folder, [RecordingBackend(folder / "calls")])
(folder / "metrics.jsonl").write_text('{{"iteration": 1, "time": 1.0, "train_loss": 0.5}}\\n')
tracker.start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", code], check=False)
    assert process.returncode == -signal.SIGKILL
    backend = RecordingBackend(tmp_path / "calls")
    deadline = time.monotonic() + 30
    while not backend.calls("end") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert backend.calls("end") == ["killed"]
    assert points(tmp_path) == [("train_loss", 0.5, 1000, 1)]
