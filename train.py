"""Trains a network: see --help for the flags, README.md for the way from data to report."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "network", "optimizer", "training", "views", "callbacks", "monitor")


def main() -> None:
    """Train, and print the id of the experiment on stdout; all else goes to stderr."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from common.slices.table import require_dataset

    if not config.training.tr_resume:
        require_dataset(config.dataset_folder)  # before torch is imported

    from rsna.training.folds import make_training

    training = make_training(config)
    experiment = training.run()
    if training.processes.is_main:
        print(experiment.id)


if __name__ == "__main__":
    run_script(main)
