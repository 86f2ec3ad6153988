"""Compares new studies with the reference of a predictor, without labels."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "drift")


def main() -> None:
    """Print a table with an alarm where studies differ; with --dr_fit 1 make them the reference."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.drifting import find_drift

    for line in find_drift(config):
        print(line)


if __name__ == "__main__":
    run_script(main)
