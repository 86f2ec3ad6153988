"""Any timm backbone as a classifier; ImageNet weights from a package where there is one.

timm is imported when a backbone is made: its own imports take seconds and make a folder.
"""

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.models.base import ImageModel, start_bias
from common.models.encoders import (
    PACKAGED_WEIGHTS,
    WEIGHTS_FILES,
    find_encoder,
    load_encoder,
    packaged_file,
    read_weights,
    require_architecture,
)
from common.models.heads import HEADS
from common.models.hub import without_retries
from common.models.pooling import OWN_POOLING, POOLINGS
from common.words import first_line

logger = logging.getLogger(__name__)


class TimmClassifier(ImageModel):
    """A timm backbone, pooling, dropout and a head.

    Args:
        name: as `find_encoder` takes it.
        in_chans: channels of the image; pretrained first layers are adapted to them.
        pretrained: start from the weights of that name.
        drop_rate: dropout before the last layer.
        drop_path_rate: stochastic depth; an InputError for backbones without it.
        pooling: `own` for the backbone's own, or a name in `POOLINGS`, for backbones with a feature
            map.
        head: a name in `HEADS`.
        num_dropouts: draws of the dropout while training, whose losses are averaged (multi-sample
            dropout, Inoue 2019).
        image_size: (height, width) of the images, for backbones that are made for one size; others
            take any.
        config: of an architecture, in place of timm's (see `find_encoder`); it is kept in the
            specification, which makes the network without the folder or the hub.

    Attributes:
        mean, std: normalisation of a window in [0, 1] that the weights were trained with.
        image_size: (height, width) of the images that the backbone takes; None for any.
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
        pooling: str = OWN_POOLING,
        head: str = "linear",
        num_dropouts: int = 1,
        image_size: Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        architecture, config = (name, config) if config else find_encoder(name)
        size = fixed_size(architecture, image_size, config)
        super().__init__(
            name=architecture,
            num_classes=num_classes,
            in_chans=in_chans,
            pooling=pooling,
            head=head,
            image_size=size and list(size),
            **({"config": dict(config)} if config else {}),
        )
        self.image_size = size
        self.backbone = create_backbone(
            architecture,
            in_chans,
            pretrained and not config,
            drop_path_rate,
            pooling != OWN_POOLING,
            size,
            config,
        )
        if pretrained and config:
            load_encoder(self.backbone, read_weights(name), in_chans, f"--net_model {name}")
        self.mean = tuple(self.backbone.pretrained_cfg.get("mean", (0.5, 0.5, 0.5)))
        self.std = tuple(self.backbone.pretrained_cfg.get("std", (0.5, 0.5, 0.5)))
        self.pooling = nn.Identity() if pooling == OWN_POOLING else POOLINGS[pooling]()
        self._has_channels_last = False
        self.feature_dim = self._probe(in_chans, image_size)
        self.neck, width = HEADS[head](self.feature_dim, drop_rate)
        self.num_dropouts = num_dropouts
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def _probe(self, in_chans: int, image_size: Sequence[int] | None) -> int:
        """Find the form of the backbone's output; return the width of the pooled features.

        Some backbones widen them after `num_features`, and some have channels last. A small image
        tells as well as a large one.
        """
        name, usual = self.specification["name"], self.backbone.pretrained_cfg["input_size"][1:]
        size = self.image_size or min(tuple(image_size or usual), tuple(usual))
        training = self.backbone.training
        try:
            with torch.no_grad():
                output = self.backbone.eval()(torch.zeros(1, in_chans, *size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--net_model {name}: does not take images of {size[0]} x {size[1]} pixels "
                f"({first_line(error)}): choose another --data_img_size, such as "
                f"{usual[-1]}"
            ) from error
        self.backbone.train(training)
        if self.specification["pooling"] == OWN_POOLING:
            return output.shape[1]
        if output.ndim != 4:
            raise InputError(
                f"--net_pooling {self.specification['pooling']}: {name} has no feature map "
                f"to pool; use {OWN_POOLING}"
            )
        self._has_channels_last = _has_channels_last(output.shape, size)
        return self._pooled(output).shape[1]

    def _pooled(self, output: Tensor) -> Tensor:
        return self.pooling(output.permute(0, 3, 1, 2) if self._has_channels_last else output)

    def forward_features(self, images: Tensor) -> Tensor:
        return self._pooled(self.backbone(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (batch, labels); in training with dropouts (batch, draws, labels)."""
        features = self.neck(features)
        if self.training and self.num_dropouts > 1:
            features = features[:, None].expand(-1, self.num_dropouts, -1)
        return self.classifier(self.dropout(features))

    def require_image_size(self, size: tuple[int, int] | None, flag: str) -> None:
        """Raise InputError naming the flag where images of this (height, width) can't be taken."""
        if self.image_size is not None and size != self.image_size:
            raise InputError(
                f"--{flag}: makes images of {size} pixels, but {self.specification['name']} takes "
                f"one size only, and those of training are {self.image_size}: give --data_img_size"
            )

    def trains_on_one(self, size: Sequence[int]) -> bool:
        """Return whether a batch of one image of this (height, width) can be trained on.

        It can't where batch norm meets maps of one pixel: one value has no variance.
        """
        model = copy.deepcopy(self).train()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                model(torch.zeros(1, self.specification["in_chans"], *size))
        except ValueError:
            return False
        return True

    def parameter_depths(self) -> dict[str, int]:
        """Return layers as timm numbers them for layer decay, with the classifier on top."""
        from timm.models import group_parameters

        if not hasattr(self.backbone, "group_matcher"):
            return super().parameter_depths()
        matcher = self.backbone.group_matcher(coarse=False)
        depths = group_parameters(self.backbone, matcher, reverse=True)
        head = max(depths.values()) + 1
        return {
            name: depths.get(name.removeprefix("backbone."), head)
            for name, _ in self.named_parameters()
        }

    def start_from_prevalence(self, prevalence: Sequence[float]) -> None:
        start_bias(self.classifier, prevalence)


def _has_channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether rows and columns of a map, with the aspect of the image, come first."""
    height, width = size
    return abs(shape[1] * width - shape[2] * height) < abs(shape[2] * width - shape[3] * height)


def fixed_size(
    name: str, image_size: Sequence[int] | None, config: Mapping[str, Any] | None = None
) -> tuple[int, int] | None:
    """Return the one (height, width) that the timm model `name` is to take; None for any.

    Args:
        image_size: the (height, width) that is asked for; None for the model's own.
        config: in place of timm's.
    """
    require_architecture(name)
    weights = _pretrained_config(name, config)
    if weights is None or not weights.fixed_input_size:
        return None
    height, width = image_size or weights.input_size[1:]
    return int(height), int(width)


def _pretrained_config(name: str, config: Mapping[str, Any] | None) -> Any:
    """Return timm's `PretrainedCfg` of a model, or that of `config`; None where there is none."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    return PretrainedCfg(**config["pretrained_cfg"]) if config else get_pretrained_cfg(name)


def create_backbone(
    name: str,
    in_chans: int,
    pretrained: bool,
    drop_path_rate: float = 0.0,
    has_map: bool = False,
    image_size: tuple[int, int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """Return the timm model `name` without its classifier: images to pooled features.

    Args:
        in_chans: channels of the images; pretrained first layers are adapted to them, so that
            equal channels give what they gave (`adapt_channels`).
        pretrained: with the weights that timm has for it.
        has_map: leaves out the pooling, where the model can do so.
        image_size: (height, width) for models that are made for one size; see `fixed_size`.
        config: arguments and data configuration in place of timm's; see `find_encoder`.

    Raises:
        InputError: an unknown name, weights that can't be had, no stochastic depth, or no map.
    """
    import timm

    require_architecture(name)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    if config:
        # Such as checkpoint_path: another file, which nobody has asked for.
        foreign = inspect.signature(timm.create_model).parameters.keys() & config["model_args"]
        if foreign:
            raise InputError(
                f"--net_model {name}: model_args of its configuration has {', '.join(foreign)}, "
                f"which makes no part of a network: remove it"
            )
        weights = _pretrained_config(name, config).to_dict()
        options = {**config["model_args"], "pretrained_cfg": weights, **options}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if has_map:
        options["global_pool"] = ""
    if image_size is not None:
        options["img_size"] = image_size
    try:
        if not pretrained:
            return timm.create_model(name, **options)
        usual = _pretrained_config(name, config)
        num_channels = usual.input_size[0] if usual else 3
        trained = _create_pretrained(name, options | {"in_chans": num_channels})
        if in_chans == num_channels:
            return trained
        backbone = timm.create_model(name, **options)
        load_encoder(backbone, trained.state_dict(), in_chans, f"--net_model {name}")
        return backbone
    except (TypeError, AssertionError) as error:
        problem = _refused_option(name, str(error), options)
        if problem is None:
            raise
        raise InputError(problem) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise InputError(
            f"--net_pretrained 1: the ImageNet weights of {name} can't be had "
            f"({first_line(error)}): connect to the model hub once, give --net_weight_file, "
            f"or start from random weights with --net_pretrained 0"
        ) from error


def _refused_option(name: str, error: str, options: dict[str, Any]) -> str | None:
    """Return the message about an argument that the model does not take; None for other errors."""
    if "drop_path_rate" in error:
        rate = options["drop_path_rate"]
        return f"--net_drop_path_rate {rate}: {name} has no stochastic depth"
    if "global_pool" in options and ("pool" in error or not error):
        return f"--net_pooling: {name} has no feature map to pool; use {OWN_POOLING}"
    if "img_size" in options:
        height, width = options["img_size"]
        return (
            f"--net_model {name}: does not take images of {height} x {width} pixels "
            f"({first_line(error)}): choose another --data_img_size"
        )
    if "pretrained_cfg" in options:
        return f"--net_model {name}: config.json has arguments it does not take ({error})"
    return None


def find_weights(name: str) -> str | None:
    """Return where the ImageNet weights of a timm model are on this disk; None where nowhere."""
    require_architecture(name)
    if packaged_file(name):
        return f"in the package {PACKAGED_WEIGHTS[name]}"
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    places: list[Any] = []
    if config is not None and config.hf_hub_id:
        places = [try_to_load_from_cache(config.hf_hub_id, file) for file in WEIGHTS_FILES]
    if config is not None and config.url:
        name = Path(str(config.url)).name
        places.append(f"{torch.hub.get_dir()}/checkpoints/{name}")
    found = [Path(place) for place in places if isinstance(place, str | Path)]
    return next((str(place) for place in found if place.is_file()), None)


def _create_pretrained(name: str, options: dict[str, Any]) -> Any:
    """Return the backbone with the weights that timm's hub or a package has, its stem as it is."""
    import timm

    path = packaged_file(name)
    if path is None:
        with without_retries():
            return timm.create_model(name, pretrained=True, **options)
    source = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(name).state_dict()
    tensors = list(source.values())
    shapes = [tuple(value.shape) for value in names.values()]
    if [tuple(tensor.shape) for tensor in tensors] != shapes:
        raise InputError(f"{path}: the tensors are not those of {name}: reinstall its package")
    overlay = {"state_dict": dict(zip(names, tensors, strict=True)), "hf_hub_id": None}
    logger.info("ImageNet weights of %s from the package %s", name, PACKAGED_WEIGHTS[name])
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
