"""Shows a run in MLflow, from a thread of its own."""

import contextlib
import logging
import os
import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.files import write_text
from common.trackers.base import (
    Status,
    Tracker,
    is_public_artifact,
    public_metrics,
    public_params,
)

logger = logging.getLogger(__name__)

RUN_ID_FILE = "mlflow_run_id.txt"
# What MLflow takes in one call.
MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
MAX_PARAM_LENGTH = 6000


class _Metric(NamedTuple):
    name: str
    value: float
    time_ms: int
    iteration: int


class MLflowTracker(Tracker):
    """Sends a run to MLflow in batches from a background thread.

    A store that is dead or slow costs the training nothing but the wait for the first connection:
    what can't be delivered is dropped, counted and warned of once. The id of the run is kept in the
    experiment folder, so that a resumed training and an evaluation go on with the same run.

    Args:
        experiment_folder: of the run; its name is the run's name.
        output_dir: where mlflow.db and mlflow_artifacts are, unless `uri` is given.
        uri: an MLflow server (http://...) or another store (sqlite:///...).
        experiment_name: the group of runs in MLflow.
        connect_seconds: the longest wait for the first connection. Data loaders fork after it:
            a worker forked while the thread imports MLflow could wait for ever for an import.
        close_seconds: the longest wait for what is left at the end.
        batch_seconds: how long values are gathered before they are sent.
        retry_seconds: how long a failed store is left alone.
        queue_size: how many calls may wait.
        make_client: makes the MLflow client for a uri.
    """

    def __init__(
        self,
        experiment_folder: Path,
        output_dir: Path,
        uri: str | None = None,
        *,
        experiment_name: str = "head-ct",
        connect_seconds: float = 60.0,
        close_seconds: float = 20.0,
        batch_seconds: float = 2.0,
        retry_seconds: float = 60.0,
        queue_size: int = 10_000,
        make_client: Callable[[str], Any] | None = None,
    ) -> None:
        self.uri = uri or f"sqlite:///{output_dir.resolve() / 'mlflow.db'}"
        self._artifact_location = (output_dir.resolve() / "mlflow_artifacts").as_uri()
        self._run_id_file = experiment_folder / RUN_ID_FILE
        self._experiment_name = experiment_name
        self._close_seconds = close_seconds
        self._batch_seconds = batch_seconds
        self._retry_seconds = retry_seconds
        self._make_client = make_client or _make_client

        # Each is written by one thread only.
        self._num_offered = 0
        self._num_delivered = 0
        self._params: dict[str, str] = {}
        self._client: Any = None
        self._run_id = ""
        self._retry_at = 0.0
        self._has_warned = False
        self._status: Status | None = None
        # Metrics, files, or None to wake the thread.
        self._queue: queue.Queue[list[_Metric] | Path | None] = queue.Queue(queue_size)
        self._has_tried = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._has_tried.wait(connect_seconds)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Shows the parameters that are plain words and numbers."""
        self._params = self._params | public_params(params)
        self._put(None)

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Shows the finite values, with the time of this call."""
        time_ms = int(time.time() * 1000)
        self._put(
            [
                _Metric(name, value, time_ms, iteration)
                for name, value in public_metrics(metrics).items()
            ]
        )

    def log_artifact(self, path: Path) -> None:
        """Shows a report or a table of metrics; no other file is sent."""
        if is_public_artifact(path):
            self._put(path)

    def close(self, status: Status = "finished") -> None:
        """Delivers what is left within `close_seconds`; says how much was dropped, if anything."""
        if self._status is not None:
            return
        self._status = status
        self._put(None)
        self._thread.join(self._close_seconds)
        if self.num_undelivered:
            logger.warning(
                "%d values and files did not reach MLflow; metrics.jsonl has all values",
                self.num_undelivered,
            )

    @property
    def num_undelivered(self) -> int:
        """The values and files that wait or were dropped; after close, those that never arrive."""
        return self._num_offered - self._num_delivered

    def ui_command(self) -> str:
        """Returns the command, or for a server the address, that shows the runs."""
        if self.uri.startswith(("http://", "https://")):
            return self.uri
        mlflow = shlex.quote(str(Path(sys.executable).with_name("mlflow")))
        # One worker and no job runners: 0.5 GB and seconds instead of several.
        return (
            f"MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {mlflow} "
            f"server --workers 1 --backend-store-uri {shlex.quote(self.uri)}"
        )

    def _put(self, item: list[_Metric] | Path | None) -> None:
        if item is not None:
            self._num_offered += 1 if isinstance(item, Path) else len(item)
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(item)

    # From here on everything runs in the thread.

    def _work(self) -> None:
        self._deliver(lambda: None, 0)
        self._has_tried.set()
        sent_params: dict[str, str] = {}
        while True:
            metrics, files = self._gather()
            params = {k: v for k, v in self._params.items() if k not in sent_params}
            if params and self._deliver(partial(self._send_params, params), 0):
                sent_params |= params
            for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
                batch = metrics[start : start + MAX_METRICS_PER_BATCH]
                self._deliver(partial(self._send_metrics, batch), len(batch))
            for path in files:
                self._deliver(partial(self._send_artifact, path), 1)
            if self._status is not None and self._queue.empty():
                self._deliver(partial(self._end, self._status), 0)
                return

    def _gather(self) -> tuple[list[_Metric], list[Path]]:
        """Waits for a call, and returns what comes in during the next `batch_seconds`."""
        metrics: list[_Metric] = []
        files: list[Path] = []
        item = self._queue.get()
        deadline = time.monotonic() + self._batch_seconds
        while True:
            if isinstance(item, Path):
                files.append(item)
            elif item is not None:
                metrics.extend(item)
            if len(metrics) >= MAX_METRICS_PER_BATCH:
                return metrics, files
            seconds = deadline - time.monotonic() if self._status is None else 0.0
            try:
                item = self._queue.get(block=seconds > 0, timeout=max(seconds, 0.0))
            except queue.Empty:
                return metrics, files

    def _deliver(self, send: Callable[[], None], num_values: int) -> bool:
        """Runs `send` unless the store has just failed; returns whether it went well."""
        if time.monotonic() >= self._retry_at:
            try:
                if self._client is None:
                    self._connect()
                send()
                self._num_delivered += num_values
                return True
            except Exception as error:
                # Whatever a store, a network or a disk throws must not reach the training.
                self._retry_at = time.monotonic() + self._retry_seconds
                self._warn_once(error)
        return False

    def _warn_once(self, error: Exception) -> None:
        if not self._has_warned:
            reason = (str(error).splitlines() or [""])[0][:200]
            logger.warning(
                "MLflow fails, and the run goes on without it: %s: %s", type(error).__name__, reason
            )
            self._has_warned = True

    def _connect(self) -> None:
        client = self._make_client(self.uri)
        name = self._run_id_file.parent.name
        run_id = self._known_run(client)
        if run_id is None:
            run_id = client.create_run(self._experiment(client), run_name=name).info.run_id
            write_text(self._run_id_file, run_id + "\n")
        else:
            client.update_run(run_id, status="RUNNING")
        self._client, self._run_id = client, run_id

    def _known_run(self, client: Any) -> str | None:
        """Returns the id of the run this experiment has in the store, if it has one."""
        if not self._run_id_file.exists():
            return None
        run_id = self._run_id_file.read_text(encoding="utf-8").strip()
        try:
            client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            logger.info("MLflow does not know run %s: a new one is made", run_id)
            return None
        return run_id

    def _experiment(self, client: Any) -> str:
        known = client.get_experiment_by_name(self._experiment_name)
        if known is not None:
            return known.experiment_id
        location = self._artifact_location if self.uri.startswith("sqlite:") else None
        try:
            return client.create_experiment(self._experiment_name, location)
        except Exception:
            # Another run was quicker.
            known = client.get_experiment_by_name(self._experiment_name)
            if known is None:
                raise
            return known.experiment_id

    def _send_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        # A parameter can't be changed: a resumed run keeps those it started with.
        known = self._client.get_run(self._run_id).data.params
        new = [Param(k, v[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
        for start in range(0, len(new), MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + MAX_PARAMS_PER_BATCH])

    def _send_metrics(self, metrics: list[_Metric]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self._run_id, metrics=[Metric(*metric) for metric in metrics])

    def _send_artifact(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))

    def _end(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, status.upper())


def _make_client(uri: str) -> Any:
    """Returns an MLflow client that gives up on a dead server within seconds."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    from mlflow import MlflowClient

    # The making of the tables is told in fifty lines.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
