"""Fits the calibration of an experiment or a predictor to labels of your own."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "data", "views", "evaluation", "calibration")


def main() -> None:
    """Write a predictor folder beside the old one, and print what calibration gains."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.folders import calibration_target

    calibration_target(config)
    # torch takes seconds to import.
    from rsna.evaluation.calibrating import calibrate
    from rsna.evaluation.together import run_together

    for line in run_together(config, calibrate):
        print(line)


if __name__ == "__main__":
    run_script(main)
