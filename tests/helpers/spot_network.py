"""A network that sees spots of metal, and where: what heat maps of it show is known."""

from typing import Any

import torch
from predictor_factory import make_predictor
from torch import Tensor, nn

from common.predictors.slices import SlicePredictor
from common.transforms import SampleTransform
from rsna_task import LABELS


class SpotNetwork(nn.Module):
    """The logit of any is how much of one channel is bright; a cell is 16 pixels wide."""

    def __init__(self, channel: int = 0, sign: float = 1.0) -> None:
        super().__init__()
        self.channel = channel
        self.backbone = nn.Sequential()
        self.backbone.add_module("pool", nn.AvgPool2d(16))
        self.backbone.feature_info = [{"reduction": 16, "module": "pool", "num_chs": 1}]  # type: ignore[assignment]
        self.classifier = nn.Linear(1, len(LABELS))
        with torch.no_grad():
            self.classifier.weight[:] = sign * torch.arange(1.0, len(LABELS) + 1)[:, None]
            self.classifier.bias[:] = -0.05

    def forward(self, images: Tensor) -> Tensor:
        cells = self.backbone.pool(images[:, self.channel : self.channel + 1])
        return self.classifier(cells.sum(dim=(2, 3)) * 2)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 1.0, **arguments}


def transform_of(*nodes: dict[str, Any]) -> SampleTransform:
    """Any geometry, then a window in which metal is white and bone is black."""
    limits = {"window_width": [1200.0], "window_center": [1900.0]}
    ends = {f"{name}_{end}": value for name, value in limits.items() for end in ("mins", "maxs")}
    whole = node("Compose", transforms=[*nodes, node("DicomWindowShift", **ends)])
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": whole}, "a.json")


def spot_predictor(*nodes: dict[str, Any], sign: float = 1.0, **changes: Any) -> SlicePredictor:
    nodes = nodes or (node("Resize", height=160, width=160),)
    options = {
        "network": SpotNetwork(sign=sign),
        "transform": transform_of(*nodes),
        "tta_transform": None,
    }
    return make_predictor(**{**options, **changes})
