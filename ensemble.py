"""Blends experiments into one: fitted on other folds than it is scored on, with all that adds."""

import logging

from common.cli import log_to_console, run_script
from config import parse_config

logger = logging.getLogger(__name__)

# What a blend takes of groups that it shares with other scripts.
FLAGS = {"data_dataset", "data_input_folder", "pr_dataframe", "pr_output", "pr_submit"}
SHARED = ("data_", "pr_")

GROUPS = ("general", "data", "ensemble", "prediction")


def main() -> None:
    """Prints the new experiment's id on stdout; the score, and what each member adds, on stderr."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    for name in sorted(config.given - FLAGS):
        if name.startswith(SHARED):
            logger.warning("--%s has no effect: members have their own", name)
    from common.scoring.kaggle_client import KaggleClient
    from rsna.ensembling.ensemble import make_ensemble

    client = KaggleClient(config.prediction.pr_submit) if config.prediction.pr_submit else None
    ensemble = make_ensemble(config)
    for line in ensemble.lines():
        logger.info(line)
    if client is not None and ensemble.submission is not None:
        client.submit(ensemble.submission, f"experiment {ensemble.experiment.id}")
    print(ensemble.experiment.id)


if __name__ == "__main__":
    run_script(main)
