"""Prepares a dataset: DICOM or other slices become HU in a store, a table, labels and folds."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from common.cli import log_to_console, run_script
from common.errors import InputError
from config import Config, parse_config

GROUPS = ("general", "data", "preprocessing")


def main() -> None:
    """Prepares the dataset, and ends with the folds and a line of counts."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna_exploration import explore, is_only_explored

    if is_only_explored(config):
        tell(explore(config))
        return
    from common.preparation import prepare_dataset
    from sources import make_source

    flags = config.preprocessing
    prepared = prepare_dataset(
        make_source(flags.pre_source, source_folder(config), config.general.n_jobs),
        config.dataset_folder,
        n_jobs=config.general.n_jobs,
        num_folds=flags.pre_num_folds,
        fold_seed=flags.pre_fold_seed,
        resume_command=f"python {shlex.join(sys.argv)}",
    )
    if prepared.folds is not None:
        print(prepared.folds.to_string(float_format="{:.4f}".format))
        print(
            f"The prevalence of a label in a fold differs from that of all slices by at most "
            f"{100 * prepared.fold_deviation:.1f} % of it."
        )
    for note, count in prepared.notes.items():
        print(f"{count} slices: {note}")
    tell([f"{config.dataset_folder}: {prepared.line()}"])
    tell(explore(config))


def tell(lines: Iterable[str]) -> None:
    """Prints each line when it comes."""
    for line in lines:
        print(line, flush=True)


def source_folder(config: Config) -> Path:
    """Returns the folder of the original files; the demo has one of its own."""
    flags = config.preprocessing
    if flags.pre_folder is not None:
        return Path(flags.pre_folder)
    if flags.pre_source == "demo":
        return Path(config.data.data_input_folder) / "demo"
    raise InputError(f"--pre_folder is missing: where are the files of {flags.pre_source}?")


if __name__ == "__main__":
    run_script(main)
