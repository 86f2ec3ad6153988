"""Shows a run in MLflow."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.experiment import experiment_id_of
from common.files import write_text
from common.trackers.backend import Backend, Point, Status

RUN_ID_FILE = "mlflow_run_id.txt"
EXPERIMENT_NAME = "head-ct"
# Makes the page open at runs and charts, not at an overview of language model traces.
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
# What MLflow takes in one call, and what it gives.
MAX_PARAMS_PER_BATCH = 100
MAX_PARAM_LENGTH = 6000


class MLflowBackend(Backend):
    """A run of an MLflow store.

    The id of the run is kept in the experiment folder, so that a resumed training, an evaluation
    and a resend go on with the same run. A point is known by its metric and iteration; the same
    point sent twice has the same time, which MLflow takes for one.

    Args:
        experiment_folder: its name is the run's name.
        output_dir: where mlflow.db and mlflow_artifacts are, unless `uri` is given.
        uri: an MLflow server (http://...) or another store (sqlite:///...).
    """

    title = "MLflow"

    def __init__(self, experiment_folder: Path, output_dir: Path, uri: str | None = None) -> None:
        self.uri = uri or f"sqlite:///{output_dir.resolve() / 'mlflow.db'}"
        self._artifact_location = (output_dir.resolve() / "mlflow_artifacts").as_uri()
        self._run_id_file = experiment_folder.resolve() / RUN_ID_FILE
        self._client: Any = None
        self._run_id = ""
        self._has_history = False

    def connect(self) -> None:
        client = _make_client(self.uri)
        run_id = self._known_run(client)
        self._has_history = run_id is not None
        if run_id is None:
            name = experiment_id_of(self._run_id_file.parent)
            run_id = client.create_run(self._experiment(client), run_name=name).info.run_id
            write_text(self._run_id_file, run_id + "\n")
        else:
            client.update_run(run_id, status="RUNNING")
        self._client, self._run_id = client, run_id

    def known_iterations(self, name: str) -> set[int]:
        if not self._has_history:
            return set()
        return {int(point.step) for point in self._client.get_metric_history(self._run_id, name)}

    def send_params(self, params: Mapping[str, str]) -> None:
        """Add parameters. One can't be changed: a resumed run keeps those it started with."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        new = [Param(k, v[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
        for start in range(0, len(new), MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + MAX_PARAMS_PER_BATCH])

    def send_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self._run_id, metrics=[Metric(*point) for point in points])

    def send_file(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))

    def end(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, status.upper())

    def _known_run(self, client: Any) -> str | None:
        if not self._run_id_file.exists():
            return None
        run_id = self._run_id_file.read_text(encoding="utf-8").strip()
        try:
            client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run_id

    def _experiment(self, client: Any) -> str:
        known = client.get_experiment_by_name(EXPERIMENT_NAME)
        if known is not None:
            if KIND_TAG not in known.tags:
                client.set_experiment_tag(known.experiment_id, KIND_TAG, KIND)
            return known.experiment_id
        location = self._artifact_location if self.uri.startswith("sqlite:") else None
        try:
            return client.create_experiment(EXPERIMENT_NAME, location, {KIND_TAG: KIND})
        except Exception:
            # Another run was quicker.
            known = client.get_experiment_by_name(EXPERIMENT_NAME)
            if known is None:
                raise
            return known.experiment_id


def _make_client(uri: str) -> Any:
    """Return an MLflow client that gives up on a dead server within seconds."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    from mlflow import MlflowClient

    # The making of the tables is told in fifty lines.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
