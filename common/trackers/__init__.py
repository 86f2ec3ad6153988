"""Trackers: where a run is shown beside its own metrics.jsonl, which stays the source of truth."""

from common.trackers.base import Tracker, TrackerGroup
from common.trackers.mlflow import MLflowTracker

__all__ = ["MLflowTracker", "Tracker", "TrackerGroup"]
