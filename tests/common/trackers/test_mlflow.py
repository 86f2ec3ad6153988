import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.trackers import FolderSender, MLflowBackend


class Client:
    """An MLflow client that keeps what it gets."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.params: dict[str, str] = {}
        self.artifacts: list[str] = []
        self.statuses: list[str] = []
        self.runs: list[str] = []
        self.tags: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", tags=self.tags)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.tags[key] = value

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.runs)}"))

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def get_metric_history(self, run_id: str, key: str) -> Any:
        return [metric for metric in self.metrics if metric.key == key]

    def update_run(self, run_id: str, status: str) -> None:
        self.statuses.append(status)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.metrics += metrics
        self.params |= {param.key: param.value for param in params}

    def log_artifact(self, run_id: str, local_path: str) -> None:
        self.artifacts.append(local_path)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.statuses.append(status)


def line(iteration: int, **values: float) -> str:
    body = ", ".join(f'"{name}": {value}' for name, value in values.items())
    return f'{{"iteration": {iteration}, "time": {iteration}.25, {body}}}\n'


def test_resumes_the_same_run_and_keeps_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    monkeypatch.setattr("common.trackers.mlflow._make_client", lambda uri: client)
    experiment = tmp_path / "results" / "0001"
    experiment.mkdir(parents=True)
    for number, flags in enumerate(["seed: 1\n", "seed: 2\nn_jobs: 4\n"]):
        (experiment / "config.yaml").write_text(flags)
        lines = "".join(line(i, train_loss=0.5) for i in range(3 + number))
        (experiment / "metrics.jsonl").write_text(lines)
        sender = FolderSender(MLflowBackend(experiment, tmp_path), experiment)
        sender.send()
        sender.finish("killed" if number == 0 else "finished")
    assert client.runs == ["0001"]
    assert client.tags == {"mlflow.experimentKind": "custom_model_development"}
    assert client.statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert client.params == {"seed": "1", "n_jobs": "4"}
    assert [(m.key, m.step, m.timestamp) for m in client.metrics] == [
        ("train_loss", step, 1000 * step + 250) for step in range(4)
    ]


def test_importing_the_trackers_leaves_their_clients_alone() -> None:
    code = "import sys, common.trackers as t; sys.exit(any(m in sys.modules for m in %r))"
    root = Path(__file__).resolve().parents[3]
    clients = ("mlflow", "tensorboard", "neptune")
    command = [sys.executable, "-c", code % (clients,)]
    assert subprocess.run(command, cwd=root, check=False).returncode == 0
