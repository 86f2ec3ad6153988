"""The predictor that comes with the program."""

import logging
from pathlib import Path

from common.experiment import JSON_FILE
from config import Config

logger = logging.getLogger(__name__)

CT_ICH = Path(__file__).resolve().parent / "ct_ich"
CARD_FILE = "model_card.md"


def with_predictor(config: Config) -> Config:
    """Return the flags, with the predictor that comes with the program where they name none.

    Without one in the program they are as they were.
    """
    is_named = config.general.experiment_id is not None or config.predictor.pr_predictor is not None
    if is_named or not (CT_ICH / JSON_FILE).is_file():
        return config
    logger.warning(
        "neither --experiment_id nor --pr_predictor: predicts with the network that comes with the "
        "program, trained on 60 patients; read %s before you use a number",
        CT_ICH / CARD_FILE,
    )
    return config.with_flags(pr_predictor=str(CT_ICH))
