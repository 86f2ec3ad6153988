"""Trackers: where a run is shown beside its own metrics.jsonl, which stays the source of truth."""

from common.trackers.backend import Backend, Point, Status, reason_of
from common.trackers.mlflow import MLflowBackend
from common.trackers.neptune import NeptuneBackend
from common.trackers.sender import FolderSender
from common.trackers.tensorboard import TensorBoardBackend
from common.trackers.tracker import Tracker

__all__ = [
    "Backend",
    "FolderSender",
    "MLflowBackend",
    "NeptuneBackend",
    "Point",
    "Status",
    "TensorBoardBackend",
    "Tracker",
    "reason_of",
]
