"""The networks of the task by name."""

from typing import Any

from common.models import AbstractModel, TimmClassifier
from common.models.joint import JointModel
from common.models.volume import VolumeModel
from rsna_task import LABELS

# rsna-<family>-<variant>, the names of the 2019 framework, and what they are in timm.
_RESNETS = {f"rsna-resnet-{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
_RESNETS |= {f"rsna-resnet-{depth}d": f"resnet{depth}d" for depth in (50, 101)}
_DENSENETS = {f"rsna-densenet-{depth}": f"densenet{depth}" for depth in (121, 161, 169, 201)}
_EFFICIENTNETS = {f"rsna-efficientnet-b{n}": f"tf_efficientnet_b{n}" for n in range(8)}
ALIASES = {
    **_RESNETS,
    **_DENSENETS,
    **_EFFICIENTNETS,
    "rsna-seresnext-50.32.4d": "legacy_seresnext50_32x4d",
    "rsna-seresnext-101.32.4d": "legacy_seresnext101_32x4d",
    "rsna-resnext-101.32.8d.wsl": "resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
    "rsna-resnext-101.32.4d": "resnext101_32x4d",
    "rsna-inception-v3": "inception_v3",
    "rsna-inception-v4": "inception_v4",
}


class RSNAModel(TimmClassifier):
    """A timm backbone with one logit per label of the task.

    Args:
        name: rsna-<family>-<variant> (see `ALIASES`) or the name of any timm model.
        options: see `TimmClassifier`.
    """

    def __init__(self, name: str, num_classes: int = len(LABELS), **options: Any) -> None:
        super().__init__(ALIASES.get(name, name), num_classes, **options)


def build_model(specification: dict[str, Any]) -> AbstractModel:
    """The architecture that the `specification` of a network describes, with random weights."""
    name = str(specification["name"])
    if name.startswith("joint-"):
        return JointModel(**specification)
    if name.startswith("volume-"):
        return VolumeModel(**specification)
    return RSNAModel(**specification)
