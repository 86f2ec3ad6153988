"""Optional behaviour around a fit, one callback per file."""

from common.callbacks.averages import AveragedWeights, StochasticWeightAverage, WeightAverage
from common.callbacks.checkpoints import CheckpointSaver
from common.callbacks.data_fingerprint import DataFingerprint
from common.callbacks.device_memory import DeviceMemory
from common.callbacks.early_stopping import EarlyStopping
from common.callbacks.learning_rates import LearningRates
from common.callbacks.max_time import MaxTime
from common.callbacks.monitor import TrainingMonitor
from common.callbacks.multilabel import MultiLabelMetrics
from common.callbacks.outputs import LatestOutputs, OutputSaver
from common.callbacks.telemetry import ActivationTelemetry
from common.networks.hooks import Callback

__all__ = [
    "ActivationTelemetry",
    "AveragedWeights",
    "Callback",
    "CheckpointSaver",
    "DataFingerprint",
    "DeviceMemory",
    "EarlyStopping",
    "LatestOutputs",
    "LearningRates",
    "MaxTime",
    "MultiLabelMetrics",
    "OutputSaver",
    "StochasticWeightAverage",
    "TrainingMonitor",
    "WeightAverage",
]
