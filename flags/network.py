"""Flags of the network."""

from dataclasses import dataclass
from typing import Literal

from flags.parsing import Switch, at_least, between, require


@dataclass(frozen=True)
class NetworkConfig:
    """Which network is trained, and from which weights."""

    net_model: str = "tf_efficientnet_lite0"
    """rsna-<family>-<variant>, such as rsna-seresnext-50.32.4d, or the name of any timm model; or
    study-bigru, study-lstm, study-first_place, study-transformer over the outputs of slice
    experiments (--data_features); or joint-<slice network>, a slice network and a transformer over
    the series trained as one; or volume-resnet10, volume-resnet18, in 3D."""
    net_pretrained: Switch = 1
    """1: start from ImageNet weights; 0: from random ones."""
    net_weight_file: str | None = None
    """Checkpoint, plain state dict or folder of a predictor to start from. With --data_fold all,
    {fold} in it stands for the number of each fold. Weights whose training, as recorded in their
    experiment's folder, saw what is validated are refused."""
    net_num_classes: int = 6
    """6: the labels of the challenge; 1: any hemorrhage alone."""
    net_drop_rate: float = 0.2
    """Dropout before the last layer."""
    net_num_dropouts: int = 1
    """Draws of that dropout while training, whose losses are averaged (multi-sample dropout)."""
    net_pooling: Literal["own", "avg", "max", "concat", "gem"] = "own"
    """How the feature map becomes features: as the backbone does by itself, its average, maximum,
    both beside each other, or generalized mean with a learnt exponent."""
    net_head: Literal["linear", "mlp", "narrow"] = "linear"
    """What makes logits of the features: one layer; a hidden one of 512 between batch norms (that
    of fastai); or hidden ones of 128 and 32."""
    net_drop_path_rate: float = 0.0
    """Stochastic depth, for backbones that have it."""
    net_study_inputs: Literal["logits", "both"] = "logits"
    """What a sequence network sees of a slice beside gaps and rank: the logits of the slice
    networks, or their features too."""
    net_study_dim: int = 128
    """Sequence networks: channels of a slice between layers."""
    net_study_hidden: int = 96
    """Sequence networks: units of each direction of a GRU or LSTM."""
    net_study_layers: int = 2
    """Sequence networks: recurrent or attention layers."""
    net_study_heads: int = 4
    """study-transformer: attention heads."""
    net_study_feature_drop: float = 0.5
    """Sequence networks: share of the features that training leaves out, the same in all slices of
    a series."""
    net_study_metadata: Switch = 1
    """1: sequence networks see z-gap, position, rank and number of slices."""
    net_study_auxiliary: float = 1.0
    """study-first_place: weight of the loss of the first stage."""
    net_encoder_frozen: Switch = 0
    """1: the slice network of a joint one stays as --net_weight_file has it; only the transformer
    learns."""
    net_encoder_slices: int = 0
    """Joint networks: slices that go through the slice network at once (0: all of a batch)."""
    net_encoder_checkpoint: Switch = 0
    """1: joint networks compute activations of the slice network again for the gradient: less
    memory, slower steps. Batch-norm statistics are then updated twice a step."""
    net_volume_width: int = 32
    """Volume networks: channels of the first of four stages; each next one has twice as many."""
    net_volume_mm: float = 5.0
    """Volume networks: distance in mm of the planes that series are resampled to."""

    def __post_init__(self) -> None:
        between(self, 0, 1, "net_drop_rate", "net_drop_path_rate")
        between(self, 1, 64, "net_num_dropouts")
        at_least(self, 1, "net_study_hidden", "net_study_layers", "net_study_heads")
        at_least(self, 1, "net_study_dim", "net_volume_width")
        at_least(self, 0, "net_encoder_slices")
        require(self, "net_volume_mm", 0.5 <= self.net_volume_mm <= 20, "from 0.5 to 20 mm")
        at_least(self, 0, "net_study_auxiliary")
        inside = 0 <= self.net_study_feature_drop < 1
        require(self, "net_study_feature_drop", inside, "at least 0, less than 1")
        require(
            self,
            "net_study_dim",
            not self.net_model.startswith(("study-transformer", "joint-"))
            or self.net_study_dim % (4 * self.net_study_heads) == 0,
            f"a multiple of 4 x --net_study_heads ({self.net_study_heads})",
        )
        rule = "6 (the labels of the challenge) or 1 (any alone)"
        require(self, "net_num_classes", self.net_num_classes in (1, 6), rule)
