"""The fit loop and the networks that specialise it."""

from common.networks.classifier import ImageClassifierNetwork
from common.networks.network import AbstractNetwork, FitSettings, StepOutput
from common.networks.sequence import SequenceClassifierNetwork

__all__ = [
    "AbstractNetwork",
    "FitSettings",
    "ImageClassifierNetwork",
    "SequenceClassifierNetwork",
    "StepOutput",
]
