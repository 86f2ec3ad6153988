"""The run monitor: its addresses, its server, what it refuses, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from common.cli import status_of
from common.experiment import Experiment
from common.trackers.mlflow import MLflowBackend
from scripts import monitor

ROOT = Path(__file__).resolve().parents[2]


def call(monkeypatch: pytest.MonkeyPatch, root: Path, *flags: str) -> int:
    argv = ["monitor.py", "--output_dir", str(root), *flags]
    monkeypatch.setattr(sys, "argv", argv)
    return status_of(monitor.main)


def experiment(root: Path, name: str, run_id: str | None, time: int = 0) -> Path:
    folder = Experiment.create(root / "results", name, "seed: 1\n").folder
    if run_id is not None:
        (folder / "mlflow_run_id.txt").write_text(run_id + "\n")
        os.utime(folder / "mlflow_run_id.txt", (time, time))
    return folder


@pytest.fixture
def store():
    """The address of what answers for the runs a, b and c as MLflow does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            run_id = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["run_id"][0]
            self.send_response(200 if run_id in "abc" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"run": {"info": {"experiment_id": "7"}}}).encode())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_of_a_server_the_addresses_of_the_newest_run_are_printed(
    tmp_path, monkeypatch, capsys, store
):
    experiment(tmp_path, "0001", "a", time=100)
    experiment(tmp_path, "0002", "b", time=50)
    assert call(monkeypatch, tmp_path, "--mlflow_uri", store) == 0
    out = capsys.readouterr().out
    assert f"0001, all charts:    {store}/#/experiments/7/runs/a/model-metrics?" in out
    loss = re.search(r"0001, loss: +(\S+)", out).group(1)
    query = urllib.parse.parse_qs(loss.partition("?")[2])
    assert json.loads(query["runs"][0]) == ["a"] and json.loads(query["experiments"][0]) == ["7"]
    assert json.loads(query["plot_metric_keys"][0]) == ["train_loss", "valid_loss"]
    assert call(monkeypatch, tmp_path, "--mlflow_uri", store, "--experiment_id", "0002") == 0
    assert "/runs/b/model-metrics" in capsys.readouterr().out


def test_an_experiment_of_all_folds_shows_its_newest_fold(tmp_path, monkeypatch, capsys, store):
    parent = experiment(tmp_path, "0001", None)
    for fold, run_id in enumerate("ab"):
        experiment(tmp_path, f"0001/fold_{fold}", run_id, time=fold)
    assert (parent / "fold_1").is_dir()
    flags = ("--mlflow_uri", store, "--experiment_id", "0001")
    assert call(monkeypatch, tmp_path, *flags) == 0
    assert "0001/fold_1, loss:" in capsys.readouterr().out


def test_what_is_not_there_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, store):
    assert call(monkeypatch, tmp_path) == 2
    assert "no run of MLflow in" in capsys.readouterr().err
    experiment(tmp_path, "0001", "unknown")
    assert call(monkeypatch, tmp_path, "--mlflow_uri", store) == 2
    assert "does not have the run unknown" in capsys.readouterr().err
    assert call(monkeypatch, tmp_path, "--mlflow_uri", "http://127.0.0.1:9") == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert call(monkeypatch, tmp_path, "--mon_port", port) == 2
    assert f"error: --mon_port {port}: it can't be listened on" in capsys.readouterr().err
    monkeypatch.setattr("scripts.monitor.find_spec", lambda name: None)
    assert call(monkeypatch, tmp_path) == 2
    assert "pip install -r requirements.txt" in capsys.readouterr().err


@pytest.mark.long
def test_it_serves_the_run_until_it_is_interrupted(tmp_path):
    folder = experiment(tmp_path, "0001", None)
    backend = MLflowBackend(folder, tmp_path)
    backend.connect()
    kind = backend._client.get_experiment_by_name("head-ct").tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    command = [sys.executable, "-m", "scripts.monitor", "--output_dir", str(tmp_path)]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # Tests that a shell runs in the background inherit that it is ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        )
        stack.callback(process.kill)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl+C"):
                break
        address = re.search(r"0001, all charts: +(\S+)", "".join(lines)).group(1)
        run_id = (folder / "mlflow_run_id.txt").read_text().strip()
        assert f"/runs/{run_id}/model-metrics?" in address
        server = address.partition("/#/")[0]
        assert urllib.request.urlopen(server, timeout=30).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        with contextlib.suppress(OSError):
            urllib.request.urlopen(server, timeout=5).close()
            pytest.fail("the server is still there")
