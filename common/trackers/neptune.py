"""Shows a run in Neptune: a self-hosted server, or files that can be sent to one later."""

import base64
import binascii
import json
import os
import shutil
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.experiment import experiment_id_of
from common.files import write_text
from common.trackers.backend import Backend, Point, Status

NEPTUNE_FOLDER = "neptune"
RUN_ID_FILE = "neptune_run_id.txt"
TOKEN_VARIABLE = "NEPTUNE_API_TOKEN"
OFFLINE_PROJECT = "offline/head-ct"
HOSTED = "neptune.ai"
PROBE_SECONDS = 3.0


def token_address(token: str) -> str:
    """Return the address of the server that made a token, or an empty string."""
    try:
        content = json.loads(base64.b64decode(token, validate=True))
        return str(content.get("api_address") or content.get("api_url") or "")
    except (binascii.Error, ValueError, AttributeError):
        return ""


class NeptuneBackend(Backend):
    """A run of Neptune.

    The server is the one that the token in NEPTUNE_API_TOKEN names. Without a project or a token,
    or with a token of the hosted service (closed on 2026-03-05), the client works offline: each
    process that has values begins anew with all of them and removes the files of the one before.
    On a server the run is found again by its id; a series of Neptune can only grow, so what was
    missed before its last point stays missing there.

    Args:
        experiment_folder: its name is the run's name; offline files are in its folder `neptune`.
        project: `workspace/name` on the server.

    Attributes:
        where: one phrase that names the server, or why there is none.
    """

    title = "Neptune"

    def __init__(self, experiment_folder: Path, project: str | None = None) -> None:
        self.folder = experiment_folder.resolve()
        self.address = token_address(os.environ.get(TOKEN_VARIABLE, ""))
        self.project: str | None = None
        self._run: Any = None
        self._params: dict[str, str] = {}
        host = urlsplit(self.address).hostname or ""
        if f".{host}".endswith(f".{HOSTED}"):
            reason = "the hosted service closed on 2026-03-05"
        elif not host:
            reason = f"no token of a self-hosted server in {TOKEN_VARIABLE}"
        else:
            self.project, reason = project, "no --nml_project"
        offline = f"offline, in the experiment's folder {NEPTUNE_FOLDER} ({reason})"
        self.where = f"the server at {self.address}" if self.project else offline

    def connect(self) -> None:
        """Find or make the run on a server; offline, the run begins with its first values."""
        if self.project:
            _require_answer(self.address)
            self._begin()

    def _begin(self) -> None:
        # Its client reads these on import, and would write into the current folder.
        os.environ["NEPTUNE_DATA_DIRECTORY"] = str(self.folder / NEPTUNE_FOLDER)
        os.environ.setdefault("NEPTUNE_RETRIES_TIMEOUT", "5")
        if not self.project:
            shutil.rmtree(self.folder / NEPTUNE_FOLDER / "offline", ignore_errors=True)
        import neptune

        self._run = neptune.init_run(
            project=self.project or OFFLINE_PROJECT,
            mode="async" if self.project else "offline",
            custom_run_id=self._own_id(),
            name=experiment_id_of(self.folder),
            # Nothing is told that it is not asked: no console, host, code or git.
            capture_stdout=False,
            capture_stderr=False,
            capture_hardware_metrics=False,
            capture_traceback=False,
            git_ref=False,
            source_files=[],
        )
        if self._params:
            self._run["parameters"] = self._params

    def known_iterations(self, name: str) -> set[int]:
        if not self.project:
            return set()
        series = self._run[f"metrics/{name}"]
        if not self._run.exists(f"metrics/{name}"):
            return set()
        values = series.fetch_values(include_timestamp=False, progress_bar=None)
        return {int(step) for step in values["step"]}

    def send_params(self, params: Mapping[str, str]) -> None:
        self._params |= params
        if self._run is not None:
            self._run["parameters"] = self._params

    def send_points(self, points: Sequence[Point]) -> None:
        if self._run is None:
            self._begin()
        for point in points:
            self._run[f"metrics/{point.name}"].append(
                point.value, step=point.iteration, timestamp=point.time_ms / 1000
            )
        if self.project:
            self._run.wait()

    def send_file(self, path: Path) -> None:
        if self.project:
            self._run[f"files/{path.name.replace('.', '_')}"].upload(str(path), wait=True)

    def end(self, status: Status) -> None:
        if self._run is None:
            return
        self._run["status"] = status
        self._run.stop()

    def _own_id(self) -> str:
        """The id by which a resumed run finds its run again (32 of the 36 letters allowed)."""
        path = self.folder / RUN_ID_FILE
        if not path.is_file():
            write_text(path, uuid.uuid4().hex + "\n")
        return path.read_text(encoding="utf-8").strip()


def _require_answer(address: str) -> None:
    """Raise OSError unless the server answers: the client would wait for ever, or a minute."""
    try:
        urllib.request.urlopen(address, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # an answer
