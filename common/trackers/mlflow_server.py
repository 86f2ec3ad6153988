"""The page of MLflow: a server of a store on this machine, and the address of a run in it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError

HOST = "127.0.0.1"
START_SECONDS = 180.0
ANSWER_SECONDS = 10.0
# The menu for model training, in place of that for language models.
TRAINING_VIEW = "workflowType=machine_learning"


@contextlib.contextmanager
def mlflow_server(uri: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server of the store `uri`; yield its address and its process once it answers.

    Args:
        uri: of the store, such as sqlite:////data/output/mlflow.db.
        port: on loopback; 0: a free one.

    Raises:
        InputError: the port is taken, or the server does not start.
    """
    address = f"http://{HOST}:{_free_port(port)}"
    # One worker and no job runners: 0.5 GB and seconds instead of several.
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST]
        command += ["--port", address.rpartition(":")[2], "--backend-store-uri", uri]
        command += ["--artifacts-destination", str(Path(folder) / "artifacts")]
        with open(log, "wb") as file:
            # A session of its own: Ctrl+C reaches this process, which then stops all of them.
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        try:
            _wait_until_it_answers(address, process, log)
            yield address, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_addresses(server: str, run_id: str) -> dict[str, str]:
    """Return the addresses of a run's pages on a server: its losses, all its charts, all runs.

    Raises:
        InputError: the server does not have the run, or does not answer.
    """
    url = f"{server}/api/2.0/mlflow/runs/get?run_id={run_id}"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            experiment = json.load(answer)["run"]["info"]["experiment_id"]
    except urllib.error.HTTPError as error:
        raise InputError(
            f"{server} does not have the run {run_id} (status {error.code}): name the store that "
            f"has it by --mlflow_uri, or send it by scripts.resend"
        ) from error
    except OSError as error:
        raise InputError(f"{server} does not answer ({error}): start it") from error
    losses = {
        "runs": json.dumps([run_id]),
        "experiments": json.dumps([experiment]),
        "metric": json.dumps("train_loss"),
        "plot_metric_keys": '["train_loss","valid_loss"]',
        "x_axis": "step",
    }
    query = urllib.parse.urlencode(losses)
    page = f"{server}/#/experiments/{experiment}/runs"
    return {
        "loss": f"{server}/#/metric?{query}&{TRAINING_VIEW}",
        "all charts": f"{page}/{run_id}/model-metrics?{TRAINING_VIEW}",
        "all runs": f"{page}?compareRunsMode=CHART&{TRAINING_VIEW}",
    }


def _free_port(port: int) -> int:
    try:
        with socket.create_server((HOST, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"--mon_port {port}: it can't be listened on ({error.strerror}): give another, or "
            f"leave the flag out for a free one"
        ) from error


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=ANSWER_SECONDS).close()
            return
        time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no reason"]
    raise InputError(f"the MLflow server does not start: {lines[-1][:300]}")
