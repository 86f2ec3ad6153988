"""The training of a slice encoder and a sequence transformer as one network."""

import logging
from pathlib import Path
from typing import ClassVar

from common.checkpoint import inference_weights, load_checkpoint, load_weights
from common.models.joint import JointModel
from common.series_predictor import JointPredictor, SeriesPredictor
from config import Config
from rsna_dataset import image_shape
from rsna_model import ALIASES
from rsna_series_training import RSNASeriesTraining

logger = logging.getLogger(__name__)

PREFIX = "joint-"


class RSNAJointTraining(RSNASeriesTraining):
    """A training of `joint-<slice network>`.

    --net_weight_file takes the weights of a slice experiment for the encoder, or those of a whole
    joint network.
    """

    predictor_class: ClassVar[type[SeriesPredictor]] = JointPredictor

    def _create_model(self) -> JointModel:  # type: ignore[override]
        flags = self.config.network
        is_fresh = not self.is_resumed and flags.net_weight_file is None
        model = create_joint_model(
            self.config, len(self.task.label_names), bool(flags.net_pretrained) and is_fresh
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            path = Path(flags.net_weight_file)
            names = inference_weights(load_checkpoint(path, "--net_weight_file"))
            is_whole = any(name.startswith("encoder.") for name in names)
            load_weights(model if is_whole else model.encoder, path)
            logger.info("weights of %s loaded", "the whole network" if is_whole else "the encoder")
        elif flags.net_encoder_frozen and not self.is_resumed:
            logger.warning(
                "--net_encoder_frozen 1 without --net_weight_file: the encoder has never seen "
                "a head, and will not learn"
            )
        if self.config.training.tr_sync_bn and self.settings.device.type == "cuda":
            # Imported late: timm makes folders when it is.
            from timm.layers import convert_sync_batchnorm

            model.encoder = convert_sync_batchnorm(model.encoder)
        return model

    def _gathers_statistics(self) -> bool:
        return not self.config.network.net_encoder_frozen


def create_joint_model(config: Config, num_labels: int, pretrained: bool) -> JointModel:
    """Returns the network that the flags name."""
    flags = config.network
    backbone = flags.net_model.removeprefix(PREFIX)
    backbone = ALIASES.get(backbone, backbone)
    return JointModel(
        f"{PREFIX}{backbone}",
        encoder={
            "name": backbone,
            "num_classes": num_labels,
            "in_chans": image_shape(config)[0],
            "pooling": flags.net_pooling,
            "head": flags.net_head,
            "drop_rate": flags.net_drop_rate,
            "drop_path_rate": flags.net_drop_path_rate,
        },
        sequence={
            "dim": flags.net_study_dim,
            "num_layers": flags.net_study_layers,
            "num_heads": flags.net_study_heads,
            "drop_rate": flags.net_drop_rate,
            "feature_drop": flags.net_study_feature_drop,
            "metadata": bool(flags.net_study_metadata),
        },
        frozen=bool(flags.net_encoder_frozen),
        chunk=flags.net_encoder_slices,
        checkpointing=bool(flags.net_encoder_checkpoint),
        pretrained=pretrained,
    )
