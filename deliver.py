"""Delivers results in DICOM: reports, key images and heat maps of each study of a folder."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "engine", "delivery")


def main() -> None:
    """Write a folder with objects and result.json for each study, and print a line for each."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.folders import delivery_folders

    folders = delivery_folders(config)
    # torch takes seconds to import.
    from rsna.delivery import deliver

    for line in deliver(config, *folders):
        print(line)


if __name__ == "__main__":
    run_script(main)
