import json

import pytest
from tracker_stubs import RecordingBackend

from common.trackers import Delivery
from common.trackers.delivery import MAX_POINTS


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
    return RecordingBackend(str(tmp_path / "calls"))


def test_values_arrive_once_as_the_file_grows(record, backend):
    delivery = Delivery(backend)
    delivery.follow(record)
    delivery.deliver()  # no file yet
    write(record, [1, 2], train_loss=0.5, valid_auc=None)
    delivery.deliver()
    delivery.deliver()
    with open(record, "a") as file:
        file.write('{"iteration": 3, "ti')
    delivery.deliver()
    assert len(points(backend)) == 2 and delivery.num_left() == 0
    with open(record, "a") as file:
        file.write('me": 4.5, "train_loss": 0.25}\n')
    assert delivery.num_left() == 1
    delivery.deliver()
    assert points(backend) == [
        ("train_loss", 0.5, 2500, 1),
        ("train_loss", 0.5, 3500, 2),
        ("train_loss", 0.25, 4500, 3),
    ]
    assert backend.calls("connect") and len(backend.calls("connect")) == 1


def test_another_process_sends_what_is_missing_only(record, backend):
    write(record, range(1, 4), train_loss=0.5)
    first = Delivery(backend)
    first.follow(record)
    first.deliver()
    write(record, range(4, 6), train_loss=0.5, valid_loss=1.0)
    for expected in ((4, 3), (0, 7)):
        again = Delivery(RecordingBackend(str(backend.path)))
        again.follow(record)
        again.deliver()
        assert (again.num_sent, again.num_known) == expected
    assert len(points(backend)) == len({(p[0], p[3]) for p in points(backend)}) == 7


def test_what_failed_is_sent_the_next_time(record, backend, monkeypatch):
    write(record, range(3000), train_loss=0.5)
    delivery = Delivery(backend)
    delivery.follow(record)
    send, calls = RecordingBackend.send_points, []

    def failing(self, batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise ConnectionError("down")
        send(self, batch)

    monkeypatch.setattr(RecordingBackend, "send_points", failing)
    with pytest.raises(ConnectionError):
        delivery.deliver()
    assert delivery.num_left() == 3000
    delivery.deliver()
    assert max(calls) <= MAX_POINTS
    # The batch that had arrived has come twice, with the same time: stores take it for one.
    assert len(set(points(backend))) == 3000
    assert delivery.num_left() == 0


def test_only_what_is_public_is_sent(record, backend, tmp_path):
    write(record, [1], train_loss=float("inf"), **{"1.2.840": 1.0, "valid_loss": 2.0, "word": "x"})
    delivery = Delivery(backend)
    delivery.add_params({"seed": 1, "pre_folder": "/data/Doe"})
    for name in ("report.html", "valid.parquet", "config.yaml"):
        (tmp_path / name).touch()
        delivery.add_file(tmp_path / name)
    with open(record, "a") as file:
        file.write("no json\n[1]\n")
    delivery.follow(record)
    delivery.deliver()
    assert [(p[0], p[1]) for p in points(backend)] == [("valid_loss", 2.0)]
    assert backend.calls("params") == [{"seed": "1"}]
    assert backend.calls("file") == ["report.html"]


def test_long_records_are_read_in_parts(record, backend):
    write(record, range(20000), train_loss=0.5)
    delivery = Delivery(backend)
    delivery.follow(record)
    delivery.deliver()
    assert [point[3] for point in points(backend)] == list(range(20000))
