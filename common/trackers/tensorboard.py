"""Shows a run in TensorBoard: event files in the experiment folder."""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from common.trackers.backend import Backend, Point, Status

EVENTS_FOLDER = "tensorboard"


class TensorBoardBackend(Backend):
    """Event files of scalars, with the parameters as a text.

    A file can't be corrected, so each process that has values begins anew with all of them, and
    removes the files of the one before: nothing is there twice after a resume.

    Args:
        experiment_folder: the files are in its folder `tensorboard`.
    """

    title = "TensorBoard"

    def __init__(self, experiment_folder: Path) -> None:
        self.folder = (experiment_folder / EVENTS_FOLDER).resolve()
        self._params: dict[str, str] = {}
        self._file: BinaryIO | None = None

    def connect(self) -> None:
        """Fail where the client is missing."""
        import tensorboard  # noqa: F401

    def send_params(self, params: Mapping[str, str]) -> None:
        """Keep the parameters for the beginning of the file."""
        self._params |= params

    def send_points(self, points: Sequence[Point]) -> None:
        """Add values: all of them, or none where the disk is full."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        events = []
        for point in points:
            value = Summary.Value(tag=_tag(point.name), simple_value=point.value)
            place = {"wall_time": point.time_ms / 1000, "step": point.iteration}
            events.append(Event(**place, summary=Summary(value=[value])))
        if self._file is None:
            self._file = self._begin()
        _append(self._file, events)

    def end(self, status: Status) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def ui_command(self) -> str:
        tensorboard = shlex.quote(str(Path(sys.executable).with_name("tensorboard")))
        return f"{tensorboard} --logdir {shlex.quote(str(self.folder.parent.parent))}"

    def _begin(self) -> BinaryIO:
        from tensorboard.compat.proto.event_pb2 import Event

        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        # The name that TensorBoard looks for; it sorts files by it.
        name = f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}"
        file = open(self.folder / name, "xb", buffering=0)  # noqa: SIM115
        _append(file, [Event(wall_time=time.time(), file_version="brain.Event:2")])
        if self._params:
            _append(file, [_text_event(self._params)])
        return file


def _tag(name: str) -> str:
    """`train_loss` as `train/loss`: TensorBoard groups by the part before the slash."""
    for group in ("valid_subset", "valid", "train", "activation"):
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return name


def _text_event(params: Mapping[str, str]) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    rows = "\n".join(f"| {name} | {value} |" for name, value in sorted(params.items()))
    table = f"| flag | value |\n|---|---|\n{rows}"
    value = Summary.Value(
        tag="flags",
        metadata=create_summary_metadata(display_name="flags", description=""),
        tensor=make_tensor_proto([table]),
    )
    return Event(wall_time=time.time(), step=0, summary=Summary(value=[value]))


def _append(file: BinaryIO, events: Sequence[Any]) -> None:
    """Append whole events; leaves the file as it was where that fails."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    data, end = buffer.getvalue(), file.tell()
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        file.seek(end)
        file.truncate()
        raise
