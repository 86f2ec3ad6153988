"""Prepares a dataset: DICOM or other slices become HU in a store, a table, labels and folds."""

import shlex
import sys
from pathlib import Path

from common.cli import log_to_console, run_script
from common.errors import InputError
from config import Config, parse_config

GROUPS = ("general", "data", "preprocessing")


def main() -> None:
    """Prepares the dataset, and ends with the folds and a line of counts."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from common.preparation import Limits, prepare_dataset
    from sources import make_source

    flags = config.preprocessing
    folder, dataset_folder = source_folder(config), config.dataset_folder
    if flags.pre_address is not None:
        # Workers run in folders of their own.
        folder, dataset_folder = folder.resolve(), dataset_folder.resolve()
    prepared = prepare_dataset(
        make_source(flags.pre_source, folder, config.general.n_jobs),
        dataset_folder,
        n_jobs=config.general.n_jobs,
        num_folds=flags.pre_num_folds,
        fold_seed=flags.pre_fold_seed,
        resume_command=f"python {shlex.join(sys.argv)}",
        address=flags.pre_address,
        limits=Limits(flags.pre_series_timeout_s, flags.pre_series_memory_mb),
    )
    if prepared.folds is not None:
        print(prepared.folds.to_string(float_format="{:.4f}".format))
        print(
            f"The prevalence of a label in a fold differs from that of all slices by at most "
            f"{100 * prepared.fold_deviation:.1f} % of it."
        )
    for note, count in prepared.notes.items():
        print(f"{count} slices: {note}")
    print(f"{config.dataset_folder}: {prepared.line()}")


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
