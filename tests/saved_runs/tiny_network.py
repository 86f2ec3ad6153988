"""A timm network of two thousand weights, for experiments that are kept in the repository."""

from timm.models import register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

NAME = "test_ich_tiny"

_CONFIG = ByoModelCfg(
    blocks=(
        ByoBlockCfg(type="bottle", d=1, c=16, s=2, gs=1, br=1.0),
        ByoBlockCfg(type="bottle", d=1, c=16, s=2, gs=1, br=1.0),
    ),
    stem_chs=16,
    stem_pool="",
    act_layer="relu",
)


@register_model
def test_ich_tiny(pretrained: bool = False, **options) -> ByobNet:
    """Return the network with random weights, whatever `pretrained` says."""
    options.pop("pretrained_cfg", None)
    options.pop("pretrained_cfg_overlay", None)
    options.pop("cache_dir", None)
    network = ByobNet(_CONFIG, **options)
    network.default_cfg = network.pretrained_cfg = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "input_size": (3, 32, 32),
        "num_classes": 1000,
    }
    return network
