import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.trackers import MLflowTracker

PATIENT = "ID_93407cad"


class Client:
    """An MLflow client that keeps what it gets."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.params: dict[str, str] = {}
        self.batches: list[int] = []
        self.artifacts: list[str] = []
        self.statuses: list[str] = []
        self.runs: list[str] = []

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.runs)}"))

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def update_run(self, run_id: str, status: str) -> None:
        self.statuses.append(status)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.batches.append(len(metrics))
        self.metrics += metrics
        self.params |= {param.key: param.value for param in params}

    def log_artifact(self, run_id: str, local_path: str) -> None:
        self.artifacts.append(local_path)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.statuses.append(status)


class DeadClient(Client):
    calls = 0

    def get_experiment_by_name(self, name: str) -> Any:
        DeadClient.calls += 1
        raise ConnectionError("nobody answers")


def tracker_on(client: Client, folder: Path, **settings: Any) -> MLflowTracker:
    experiment = folder / "results" / "0001"
    experiment.mkdir(parents=True, exist_ok=True)
    settings = {"batch_seconds": 0.05, **settings}
    return MLflowTracker(experiment, folder, make_client=lambda uri: client, **settings)


def test_delivers_in_batches(tmp_path: Path) -> None:
    client = Client()
    tracker = tracker_on(client, tmp_path, batch_seconds=5.0)
    tracker.log_params({"seed": 4667, "net_model": "tf_efficientnet_lite0"})
    for iteration in range(2500):
        tracker.log_metrics(iteration, {"train_loss": 1.0 / (iteration + 1)})
    report = tmp_path / "report.html"
    report.write_text("<p>")
    tracker.log_artifact(report)
    tracker.close("finished")
    assert [metric.step for metric in client.metrics] == list(range(2500))
    assert client.metrics[3].value == 0.25 and client.metrics[3].key == "train_loss"
    assert sum(size > 0 for size in client.batches) <= 4
    assert client.params == {"seed": "4667", "net_model": "tf_efficientnet_lite0"}
    assert client.artifacts == [str(report)]
    assert client.statuses == ["FINISHED"] and tracker.num_undelivered == 0


def test_values_arrive_without_a_close(tmp_path: Path) -> None:
    client = Client()
    tracker = tracker_on(client, tmp_path)
    tracker.log_metrics(1, {"train_loss": 1.0})
    deadline = time.monotonic() + 10
    while not client.metrics and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.metrics
    tracker.close()


def test_resumes_the_same_run(tmp_path: Path) -> None:
    client = Client()
    first = tracker_on(client, tmp_path)
    first.log_params({"seed": 1})
    first.close("killed")
    second = tracker_on(client, tmp_path)
    second.log_params({"seed": 1, "n_jobs": 4})
    second.close()
    assert client.runs == ["0001"]
    assert client.statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert client.params == {"seed": "1", "n_jobs": "4"}


def test_dead_store_costs_one_warning_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DeadClient.calls = 0
    tracker = tracker_on(DeadClient(), tmp_path)
    began = time.monotonic()
    for iteration in range(500):
        tracker.log_metrics(iteration, {"train_loss": 1.0, "memory_mb": 2.0})
    assert time.monotonic() - began < 1.0
    tracker.close()
    assert tracker.num_undelivered == 1000 and DeadClient.calls == 1
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("nobody answers" in warning for warning in warnings) == 1
    assert "1000 values and files did not reach MLflow" in warnings[-1]


def test_store_that_comes_back_is_used_again(tmp_path: Path) -> None:
    client = Client()
    answers = iter([ConnectionError("down"), client])

    def make_client(uri: str) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    experiment = tmp_path / "0001"
    experiment.mkdir()
    tracker = MLflowTracker(
        experiment, tmp_path, make_client=make_client, retry_seconds=0.0, batch_seconds=0.05
    )
    tracker.log_params({"seed": 1})
    tracker.log_metrics(1, {"train_loss": 1.0})
    tracker.close()
    assert len(client.metrics) == 1 and client.params == {"seed": "1"}


def test_stuck_store_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    freed = threading.Event()

    class StuckClient(Client):
        def log_batch(self, *args: Any, **kwargs: Any) -> None:
            freed.wait(30)

    tracker = tracker_on(StuckClient(), tmp_path, queue_size=10, close_seconds=0.3)
    began = time.monotonic()
    for iteration in range(1000):
        tracker.log_metrics(iteration, {"train_loss": 1.0})
        time.sleep(0.0002)
    tracker.close("failed")
    assert time.monotonic() - began < 5.0
    assert tracker.num_undelivered == 1000
    assert "did not reach MLflow" in caplog.text
    freed.set()


def test_stuck_connection_is_waited_for_a_while_only(tmp_path: Path) -> None:
    freed = threading.Event()

    class StuckClient(Client):
        def get_experiment_by_name(self, name: str) -> Any:
            freed.wait(30)
            return super().get_experiment_by_name(name)

    began = time.monotonic()
    tracker_on(StuckClient(), tmp_path, connect_seconds=0.2, close_seconds=0.2).close()
    assert time.monotonic() - began < 5.0
    freed.set()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder after a run with a real store, ids of patients all around it."""
    folder = tmp_path_factory.mktemp(f"of_{PATIENT}") / "output"
    experiment = folder / "results" / "0001"
    experiment.mkdir(parents=True)
    tracker = MLflowTracker(experiment, folder, batch_seconds=0.1)
    tracker.log_params({"seed": 4667, "pre_folder": f"/data/{PATIENT}", "pr_input": Path(PATIENT)})
    tracker.log_metrics(10, {"valid_auc.any": 0.75, PATIENT: 1.0})
    for name in ("report.html", "predictions.parquet"):
        (experiment / name).write_text("<p>")
        tracker.log_artifact(experiment / name)
    tracker.close()
    assert tracker.num_undelivered == 0
    return folder


def test_real_store_has_the_run(output: Path) -> None:
    with sqlite3.connect(output / "mlflow.db") as database:
        metrics = database.execute("select key, value, step from metrics").fetchall()
        params = database.execute("select key, value from params").fetchall()
        runs = database.execute("select name, status from runs").fetchall()
    assert metrics == [("valid_auc.any", 0.75, 10)]
    assert params == [("seed", "4667")]
    assert runs == [("0001", "FINISHED")]
    artifacts = [path.name for path in (output / "mlflow_artifacts").rglob("*") if path.is_file()]
    assert artifacts == ["report.html"]


def test_no_patient_id_reaches_the_store(output: Path) -> None:
    with sqlite3.connect(output / "mlflow.db") as database:
        rows = "\n".join(database.iterdump()).replace(str(output), "")
    assert PATIENT not in rows and "predictions.parquet" not in rows


def test_ui_command_names_the_store(output: Path, tmp_path: Path) -> None:
    tracker = tracker_on(Client(), tmp_path)
    command = tracker.ui_command()
    tracker.close()
    assert command.endswith(f" --backend-store-uri sqlite:///{tmp_path}/mlflow.db")
    assert "mlflow server" in command
    server = tracker_on(Client(), tmp_path, uri="http://127.0.0.1:5000")
    server.close()
    assert server.ui_command() == "http://127.0.0.1:5000"


def test_importing_the_trackers_leaves_mlflow_alone() -> None:
    code = "import sys, common.trackers; sys.exit('mlflow' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
