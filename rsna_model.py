"""The networks of the task by name."""

from typing import Any

from common.models import AbstractModel, TimmClassifier
from common.models.bag import BagModel
from common.models.joint import JointModel
from common.models.volume import VolumeModel
from rsna_task import LABELS

# rsna-<family>-<variant>, in the manner of the 2019 framework, and what they are in timm.
_RESNETS = {f"rsna-resnet-{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
_RESNETS |= {f"rsna-resnet-{depth}d": f"resnet{depth}d" for depth in (50, 101)}
_DENSENETS = {f"rsna-densenet-{depth}": f"densenet{depth}" for depth in (121, 161, 169, 201)}
_EFFICIENTNETS = {f"rsna-efficientnet-b{n}": f"tf_efficientnet_b{n}" for n in range(8)}
# Newer than the challenge; the number behind a MaxViT is the size it was trained at.
_MODERN = {
    f"rsna-convnext-{size}": f"convnext_{size}" for size in ("nano", "tiny", "small", "base")
}
_MODERN |= {f"rsna-efficientnetv2-b{n}": f"tf_efficientnetv2_b{n}" for n in range(4)}
_MODERN |= {f"rsna-efficientnetv2-{size}": f"tf_efficientnetv2_{size}" for size in "sml"}
_MODERN |= {
    f"rsna-maxvit-{size}.{pixels}": f"maxvit_{size}_tf_{pixels}"
    for size in ("tiny", "small", "base")
    for pixels in (224, 384, 512)
}
_MODERN["rsna-maxvit-nano.256"] = "maxvit_rmlp_nano_rw_256"
ALIASES = {
    **_RESNETS,
    **_DENSENETS,
    **_EFFICIENTNETS,
    **_MODERN,
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
    """Return the architecture that a network's `specification` describes, with random weights."""
    name = str(specification["name"])
    if name.startswith("bag-"):
        return BagModel(**specification)
    if name.startswith("joint-"):
        return JointModel(**specification)
    if name.startswith("volume-"):
        return VolumeModel(**specification)
    return RSNAModel(**specification)
