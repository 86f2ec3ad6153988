"""The fit loop and the networks that specialise it."""

from common.networks.classifier import ImageClassifierNetwork
from common.networks.network import AbstractNetwork, FitSettings, StepOutput

__all__ = ["AbstractNetwork", "FitSettings", "ImageClassifierNetwork", "StepOutput"]
