import json

import pytest
from tracker_stubs import RecordingBackend

from common.trackers import FolderSender
from common.trackers.sender import MAX_POINTS


def write(path, iterations, **values):
    with open(path, "a") as file:
        for iteration in iterations:
            line = {"iteration": iteration, "micro_step": 1, "epoch": 0, "time": 1.5 + iteration}
            file.write(json.dumps(line | values) + "\n")


def points(backend):
    return [tuple(point) for batch in backend.calls("points") for point in batch]


@pytest.fixture
def record(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def backend(tmp_path):
    return RecordingBackend(tmp_path / "calls")


def test_values_arrive_once_as_the_file_grows(record, backend):
    sender = FolderSender(backend, record.parent)
    sender.send()  # no file yet
    write(record, [1, 2], train_loss=0.5, valid_auc=None)
    sender.send()
    sender.send()
    with open(record, "a") as file:
        file.write('{"iteration": 3, "ti')
    sender.send()
    assert len(points(backend)) == 2
    with open(record, "a") as file:
        file.write('me": 4.5, "train_loss": 0.25}\n')
    sender.send()
    assert points(backend) == [
        ("train_loss", 0.5, 2500, 1),
        ("train_loss", 0.5, 3500, 2),
        ("train_loss", 0.25, 4500, 3),
    ]
    assert backend.calls("connect") and len(backend.calls("connect")) == 1


def test_another_process_sends_what_is_missing_only(record, backend):
    write(record, range(1, 4), train_loss=0.5)
    first = FolderSender(backend, record.parent)
    first.send()
    write(record, range(4, 6), train_loss=0.5, valid_loss=1.0)
    for expected in ((4, 3), (0, 7)):
        again = FolderSender(RecordingBackend(backend.path), record.parent)
        again.send()
        assert (again.num_sent, again.num_known) == expected
    assert len(points(backend)) == len({(p[0], p[3]) for p in points(backend)}) == 7


def test_what_failed_is_sent_the_next_time(record, backend, monkeypatch):
    write(record, range(3000), train_loss=0.5)
    sender = FolderSender(backend, record.parent)
    send, calls = RecordingBackend.send_points, []

    def failing(self, batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise ConnectionError("down")
        send(self, batch)

    monkeypatch.setattr(RecordingBackend, "send_points", failing)
    with pytest.raises(ConnectionError):
        sender.send()
    sender.send()
    assert max(calls) <= MAX_POINTS
    assert len(points(backend)) == sender.num_sent == 3000
    assert len(set(points(backend))) == 3000


def test_only_what_is_public_is_sent(record, backend, tmp_path):
    write(record, [1], train_loss=float("inf"), **{"1.2.840": 1.0, "valid_loss": 2.0, "word": "x"})
    sender = FolderSender(backend, record.parent)
    (tmp_path / "config.yaml").write_text("seed: 1\npre_folder: /data/Doe\n")
    for name in ("report.html", "valid.parquet", "train.log", "folds.csv"):
        (tmp_path / name).touch()
    with open(record, "a") as file:
        file.write("no json\n[1]\n")
    sender.finish("finished")
    assert [(p[0], p[1]) for p in points(backend)] == [("valid_loss", 2.0)]
    assert backend.calls("params") == [{"seed": "1"}]
    assert backend.calls("file") == ["report.html"]


def test_long_records_are_sent_in_parts(record, backend):
    write(record, range(20000), train_loss=0.5)
    sender = FolderSender(backend, record.parent)
    sender.send()
    assert [point[3] for point in points(backend)] == list(range(20000))
    assert max(map(len, backend.calls("points"))) == MAX_POINTS
