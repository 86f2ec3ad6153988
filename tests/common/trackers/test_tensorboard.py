import errno
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.trackers import FolderSender, TensorBoardBackend


def deliver(folder: Path, iterations, loss: float, flags="") -> FolderSender:
    record = folder / "metrics.jsonl"
    lines = [{"iteration": i, "time": 100.5 + i, "train_loss": loss} for i in iterations]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(flags or "{}")
    sender = FolderSender(TensorBoardBackend(folder), folder)
    sender.send()
    return sender


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def scalars(folder: Path) -> list[tuple[int, float, float]]:
    return [(e.step, e.value, e.wall_time) for e in read(folder).Scalars("train/loss")]


def test_its_reader_finds_values_times_and_flags(tmp_path):
    deliver(tmp_path, range(3), 0.5, "seed: 4667\n").finish("finished")
    assert scalars(tmp_path) == [(i, 0.5, 100.5 + i) for i in range(3)]
    text = read(tmp_path).Tensors("flags")[0].tensor_proto.string_val[0].decode()
    assert "| seed | 4667 |" in text


def test_values_are_there_while_the_run_goes_on(tmp_path):
    deliver(tmp_path, range(3), 0.5)
    assert len(scalars(tmp_path)) == 3


def test_a_resumed_run_takes_the_place_of_the_killed_one(tmp_path):
    deliver(tmp_path, range(10), 0.5)
    deliver(tmp_path, range(5), 0.25)
    assert [(step, value) for step, value, _ in scalars(tmp_path)] == [(i, 0.25) for i in range(5)]


def test_who_has_no_values_removes_none(tmp_path):
    deliver(tmp_path, range(3), 0.5)
    (tmp_path / "metrics.jsonl").unlink()
    FolderSender(TensorBoardBackend(tmp_path), tmp_path).finish("finished")
    assert len(scalars(tmp_path)) == 3


def test_a_full_disk_leaves_whole_events(tmp_path):
    sender = deliver(tmp_path, range(3), 0.5)
    real = sender.backend._file

    class Full:
        """Takes ten bytes, then none."""

        left = 10

        def __getattr__(self, name):
            return getattr(real, name)

        def write(self, data):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left, done = 0, real.write(data[: self.left])
            return done

    sender.backend._file = Full()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "time": 103.5, "train_loss": 0.5}\n')
    with pytest.raises(OSError, match="No space left"):
        sender.send()
    sender.backend._file = real
    sender.send()
    assert [step for step, _, _ in scalars(tmp_path)] == [0, 1, 2, 3]
