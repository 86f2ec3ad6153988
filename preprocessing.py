"""Prepares a dataset: DICOM or other slices become HU in a store, a table, labels and folds."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "data", "preprocessing", "select")


def main() -> None:
    """Prepare, check or explore the dataset, and print each line when it comes."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.preparation.preparation import preprocess

    for line in preprocess(config):
        print(line, flush=True)


if __name__ == "__main__":
    run_script(main)
