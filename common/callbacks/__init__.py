"""What is optional around a fit, one file each."""

from common.callbacks.averages import AveragedWeights, StochasticWeightAverage, WeightAverage
from common.callbacks.base import Callback
from common.callbacks.checkpoints import CheckpointSaver
from common.callbacks.monitor import TrainingMonitor
from common.callbacks.same_data import SameData

__all__ = [
    "AveragedWeights",
    "Callback",
    "CheckpointSaver",
    "SameData",
    "StochasticWeightAverage",
    "TrainingMonitor",
    "WeightAverage",
]
