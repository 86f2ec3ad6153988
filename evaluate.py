"""Evaluates an experiment on its validation rows, or it or a predictor on --data_dataset."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "engine", "data", "views", "evaluation", "monitor")


def main() -> None:
    """Write metrics.json and report.html, and print a short table on stdout."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.run import evaluate
    from rsna.evaluation.together import run_together

    for line in run_together(config, evaluate):
        print(line)


if __name__ == "__main__":
    run_script(main)
