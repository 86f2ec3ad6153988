"""Networks: backbones from timm under heads of one shape; sequence networks over their
outputs."""

from common.models.base import AbstractModel
from common.models.sequence import SequenceModel
from common.models.study import build_sequence_model
from common.models.timm_factory import TimmClassifier

__all__ = ["AbstractModel", "SequenceModel", "TimmClassifier", "build_sequence_model"]
