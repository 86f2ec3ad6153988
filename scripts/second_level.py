"""Fits a second level on the out-of-fold predictions of slice experiments: see --help."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "second_level")


def main() -> None:
    """Write an experiment folder, and print its id on stdout; all else goes to stderr."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.ensembling.second_level import SecondLevel

    print(SecondLevel(config).run().id)


if __name__ == "__main__":
    run_script(main)
