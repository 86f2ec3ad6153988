"""Neptune: offline with its real client where it is installed, else with a stand-in."""

import base64
import importlib.util
import json
import re
import sys
from types import ModuleType

import pytest

from common.trackers import FolderSender, NeptuneBackend
from common.trackers.neptune import token_address

HAS_CLIENT = importlib.util.find_spec("neptune") is not None


def token(address: str) -> str:
    return base64.b64encode(json.dumps({"api_address": address}).encode()).decode()


class StandIn:
    """What the backend uses of the client, keeping points by path."""

    def __init__(self) -> None:
        self.inits: list[dict] = []
        self.values: dict = {}
        self.series: dict[str, list] = {}

    def module(self) -> ModuleType:
        module = ModuleType("neptune")
        module.init_run = self.init_run
        return module

    def init_run(self, **options):
        self.inits.append(options)
        return self

    def __getitem__(self, path):
        return _Field(self, path)

    def __setitem__(self, path, value):
        self.values[path] = value

    def exists(self, path):
        return path in self.series

    def wait(self):
        pass

    stop = wait


class _Field:
    def __init__(self, run, path):
        self.run, self.path = run, path

    def append(self, value, step, timestamp):
        self.run.series.setdefault(self.path, []).append((step, value, timestamp))

    def fetch_values(self, include_timestamp, progress_bar):
        return {"step": [float(step) for step, _, _ in self.run.series[self.path]]}

    def upload(self, path, wait):
        self.run.values[self.path] = path


@pytest.fixture
def stand_in(monkeypatch):
    run = StandIn()
    monkeypatch.setitem(sys.modules, "neptune", run.module())
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", "unused")
    monkeypatch.setenv("NEPTUNE_RETRIES_TIMEOUT", "5")
    return run


def deliver(folder, iterations, **arguments):
    lines = [{"iteration": i, "time": 100.5 + i, "train_loss": 0.5} for i in iterations]
    record = folder / "metrics.jsonl"
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("seed: 1\npre_folder: /data/Doe\n")
    sender = FolderSender(NeptuneBackend(folder, **arguments), folder)
    sender.send()
    sender.finish("finished")
    return sender


@pytest.mark.parametrize(
    ("address", "project", "where"),
    [
        ("", "a/b", "offline.*no token"),
        ("https://app.neptune.ai", "a/b", "offline.*closed on 2026-03-05"),
        ("https://neptune.ai", "a/b", "offline.*closed on 2026-03-05"),
        ("https://neptune.hospital.org", None, "offline.*no --nml_project"),
        ("https://neptune.hospital.org", "a/b", "the server at https://neptune.hospital.org"),
    ],
)
def test_one_line_says_where_a_run_goes(tmp_path, monkeypatch, address, project, where):
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token(address) if address else "no token at all")
    backend = NeptuneBackend(tmp_path, project)
    assert re.search(where, backend.where)
    assert bool(backend.project) == (not backend.where.startswith("offline"))


def test_a_token_names_its_server():
    assert token_address(token("http://x:1")) == "http://x:1"
    assert token_address("") == token_address("%%%") == token_address("W10=") == ""


def test_a_server_gets_each_value_once(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr("common.trackers.neptune._require_answer", lambda address: None)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token("http://x"))
    for last, expected in ((3, (3, 0)), (5, (2, 3))):
        sender = deliver(tmp_path, range(last), project="a/b")
        assert (sender.num_sent, sender.num_known) == expected
    assert stand_in.series == {"metrics/train_loss": [(i, 0.5, 100.5 + i) for i in range(5)]}
    first, second = stand_in.inits
    assert first["mode"] == "async" and first["custom_run_id"] == second["custom_run_id"]
    assert len(first["custom_run_id"]) <= 36
    for name in ("capture_stdout", "capture_stderr", "capture_hardware_metrics", "git_ref"):
        assert first[name] is False
    assert stand_in.values["parameters"] == {"seed": "1"}


def test_a_server_that_does_not_answer_is_found_out_at_once(tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token("http://127.0.0.1:9"))
    with pytest.raises(OSError):
        deliver(tmp_path, range(3), project="a/b")
    assert not stand_in.inits


@pytest.mark.skipif(not HAS_CLIENT, reason="pip install -r requirements/neptune.txt")
def test_the_real_client_offline(tmp_path):
    for last in (10, 5):  # a resumed run takes the place of the killed one
        deliver(tmp_path, range(last))
    (data,) = (tmp_path / "neptune" / "offline").rglob("data-1.log")
    operations = [json.loads(line)["obj"] for line in data.read_text().splitlines()]
    values = [
        (value["step"], value["value"], value["ts"])
        for operation in operations
        if operation["path"] == ["metrics", "train_loss"]
        for value in operation["values"]
    ]
    assert values == [(i, 0.5, 100.5 + i) for i in range(5)]
    assert "Doe" not in data.read_text()
    (tmp_path / "metrics.jsonl").unlink()
    FolderSender(NeptuneBackend(tmp_path), tmp_path).finish("finished")
    assert data.is_file()
