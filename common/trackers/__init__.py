"""Trackers: where a run is shown beside its own metrics.jsonl, which stays the source of truth."""

from common.trackers.backend import Backend, Point
from common.trackers.base import Tracker, TrackerGroup
from common.trackers.delivery import Delivery
from common.trackers.mlflow import MLflowBackend, MLflowTracker, mlflow_options
from common.trackers.neptune import NeptuneBackend, NeptuneTracker, neptune_options
from common.trackers.remote import RemoteTracker
from common.trackers.tensorboard import EVENTS_FOLDER, TensorBoardBackend, TensorBoardTracker

__all__ = [
    "EVENTS_FOLDER",
    "Backend",
    "Delivery",
    "MLflowBackend",
    "MLflowTracker",
    "NeptuneBackend",
    "NeptuneTracker",
    "Point",
    "RemoteTracker",
    "TensorBoardBackend",
    "TensorBoardTracker",
    "Tracker",
    "TrackerGroup",
    "mlflow_options",
    "neptune_options",
]
