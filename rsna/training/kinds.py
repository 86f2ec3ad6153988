"""The parts of a training by the prefix of --net_model."""

import logging

from common.precision import set_precision
from common.seeding import seed_everything
from config import Config
from rsna.build import fit_settings
from rsna.training.bag import PREFIX as BAG
from rsna.training.bag import BagParts
from rsna.training.frozen import FrozenParts
from rsna.training.parts import SliceParts, TrainingParts
from rsna.training.sequence import SequenceParts
from rsna.training.series import JointParts, VolumeParts

logger = logging.getLogger(__name__)

# Prefix of --net_model -> its parts; any other name is a network of single slices.
PARTS: dict[str, type[TrainingParts]] = {
    "study-": SequenceParts,
    "joint-": JointParts,
    BAG: BagParts,
    "volume-": VolumeParts,
}


def parts_class(config: Config) -> type[TrainingParts]:
    """Return the class of the parts that --net_model asks for."""
    name = config.network.net_model
    if config.network.net_encoder is not None and name.startswith("study-"):
        return FrozenParts
    return next((kind for prefix, kind in PARTS.items() if name.startswith(prefix)), SliceParts)


def build_parts(config: Config) -> TrainingParts:
    """Return the parts of a training, drawn from its seed."""
    seed_everything(config.general.seed)
    config = config.resolved("training")
    settings = fit_settings(config)
    training, device = config.training, settings.device
    switches = map(bool, (training.tr_tf32, training.tr_deterministic, training.tr_compile))
    set_precision(device, *switches)
    if training.tr_sync_bn and not (settings.processes.are_many and device.type == "cuda"):
        logger.warning("--tr_sync_bn has no effect without torchrun and GPUs")
    return parts_class(config)(config, settings)
