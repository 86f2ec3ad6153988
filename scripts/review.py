"""Makes pages of the studies worth a look, with boxes to tick, and label files of the ticks."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "predictor", "review")


def main() -> None:
    """Write the pages and their index, or with --rv_ticks what --pre_labels takes."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.review import review

    for line in review(config):
        print(line)


if __name__ == "__main__":
    run_script(main)
