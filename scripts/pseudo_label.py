"""Makes a dataset of another one and slices that a model labelled, which are only trained on."""

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "data", "pseudo_labels")


def main() -> None:
    """Print the folder of the new dataset, and what is in it."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.preparation.pseudo_labels import make_pseudo_dataset

    folder, merged = make_pseudo_dataset(config)
    print(folder)
    for line in merged.lines():
        print(line)


if __name__ == "__main__":
    run_script(main)
