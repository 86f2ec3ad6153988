"""Suggests a learning rate: trains while it grows, plots the loss, and keeps nothing else."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "network", "optimizer", "training", "lr_finder")


def main() -> None:
    """Write the plot and its figures, and print a suggestion on stdout."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from common.slices.table import require_dataset

    require_dataset(config.dataset_folder)  # before torch is imported

    from rsna.training.lr_finder import RSNALearningRateFinder, suggestion

    result = RSNALearningRateFinder(config).find()
    print(suggestion(result, config))


if __name__ == "__main__":
    run_script(main)
