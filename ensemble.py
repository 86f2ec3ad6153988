"""Blends experiments into one: fitted on other folds than it is scored on, with all that adds."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "ensemble", "prediction")


def main() -> None:
    """Print the new experiment's id on stdout; the score, and what each member adds, on stderr."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.ensembling.ensemble import make_ensemble

    print(make_ensemble(config).experiment.id)


if __name__ == "__main__":
    run_script(main)
