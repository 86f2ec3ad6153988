"""Networks: backbones from timm under heads of one shape."""

from common.models.base import AbstractModel
from common.models.timm_factory import TimmClassifier

__all__ = ["AbstractModel", "TimmClassifier"]
