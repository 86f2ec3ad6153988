"""Makes an experiment of a published network, to predict, evaluate and train on."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "releases")


def main() -> None:
    """Write an experiment folder with a predictor, and print its id on stdout."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.releases.importing import import_release

    print(import_release(config).id)


if __name__ == "__main__":
    run_script(main)
