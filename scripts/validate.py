"""Scores a predictor on several datasets by a frozen protocol, in one table."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "data", "views", "evaluation", "validation")


def main() -> None:
    """Write a table and a page over the datasets, or the protocol, and print it on stdout."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.together import run_together
    from rsna.evaluation.validation import validate

    for line in run_together(config, validate):
        print(line)


if __name__ == "__main__":
    run_script(main)
