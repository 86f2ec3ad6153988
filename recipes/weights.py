"""Loads the ImageNet weights of networks, and says how to go on where they can't be had.

python recipes/weights.py rsna-seresnext-50.32.4d rsna-densenet-121
"""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import log_to_console, run_script
from common.errors import InputError
from common.models.timm_factory import create_backbone
from rsna_model import ALIASES

logger = logging.getLogger(__name__)


def missing_weights(
    names: Sequence[str], create: Callable[..., Any] = create_backbone
) -> dict[str, str]:
    """Return the reason by name for each network whose weights can't be had."""
    reasons = {}
    for name in names:
        try:
            create(ALIASES.get(name, name), in_chans=3, pretrained=True)
        except InputError as error:
            if "ImageNet weights" not in str(error):
                raise
            reasons[name] = str(error)
    return reasons


def main() -> None:
    """End with status 2 where weights are missing."""
    log_to_console()
    names = sys.argv[1:]
    missing = missing_weights(names)
    if missing:
        models = " ".join(ALIASES.get(name, name) for name in missing)
        raise InputError(
            f"no ImageNet weights of {', '.join(missing)} on this machine, and the model hub can't "
            f"be reached. Either run `python recipes/weights.py {' '.join(missing)}` where it can, "
            f"and copy ~/.cache/huggingface and ~/.cache/torch here ({models} of timm); or set "
            f"PRETRAINED=0 to start from random weights, which takes longer and ends worse"
        )
    logger.info("ImageNet weights are there: %s", ", ".join(names))


if __name__ == "__main__":
    run_script(main)
