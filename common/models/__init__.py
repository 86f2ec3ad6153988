"""Networks: backbones from timm under heads of one shape; sequence networks over their
outputs."""

from common.models.base import AbstractModel, ImageModel, SeriesModel
from common.models.sequence import SequenceModel
from common.models.study import build_sequence_model, build_series_model
from common.models.timm_factory import TimmClassifier

__all__ = [
    "AbstractModel",
    "ImageModel",
    "SequenceModel",
    "SeriesModel",
    "TimmClassifier",
    "build_sequence_model",
    "build_series_model",
]
