"""The study networks of the task: their loss over slices, and the metric over all of them."""

from typing import Any

from common.models import SequenceModel, build_sequence_model
from common.networks import SequenceClassifierNetwork
from config import Config
from rsna_network import RSNANetwork


class RSNAStudyNetwork(SequenceClassifierNetwork, RSNANetwork):
    """Slices of whole series, trained and validated with the weights of the task."""


def create_study_model(
    config: Config, feature_dims: list[int], num_networks: int, num_labels: int
) -> SequenceModel:
    """Returns the network that the flags name, with random weights.

    Args:
        config: the flags.
        feature_dims: features of each slice experiment; empty where only logits are seen.
        num_networks: slice experiments.
        num_labels: labels of the task.
    """
    flags = config.network
    specification: dict[str, Any] = {
        "name": flags.net_model,
        "num_labels": num_labels,
        "feature_dims": feature_dims,
        "num_networks": num_networks,
        "dim": flags.net_study_dim,
        "hidden": flags.net_study_hidden,
        "num_layers": flags.net_study_layers,
        "num_heads": flags.net_study_heads,
        "drop_rate": flags.net_drop_rate,
        "feature_drop": flags.net_study_feature_drop,
        "metadata": bool(flags.net_study_metadata),
    }
    return build_sequence_model(specification)
