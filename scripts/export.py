"""Writes engines into a predictor: OpenVINO then predicts with it, without torch."""

from common.cli import log_to_console, run_script
from common.errors import InputError
from config import parse_config

GROUPS = ("general", "predictor", "data")


def main() -> None:
    """Write the engines, compare them with torch on a dataset, and print what they change."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    if "data_dataset" not in config.given:
        raise InputError("--data_dataset is missing: say on whose slices engines are compared")
    # torch takes seconds to import.
    from rsna.evaluation.exporting import export

    for line in export(config):
        print(line)


if __name__ == "__main__":
    run_script(main)
