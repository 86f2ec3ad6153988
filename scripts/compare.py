"""Compares experiments on the patients that all of them have scored."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "comparison")


def main() -> None:
    """Write a table and a page, and print the main scores with their differences."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.comparing import compare_experiments

    for line in compare_experiments(config):
        print(line)


if __name__ == "__main__":
    run_script(main)
