"""Prepares a dataset: DICOM or other slices become HU in a store, a table, labels and folds."""

from collections.abc import Iterable
from pathlib import Path

from common.cli import command_line, log_to_console, run_script
from common.errors import InputError
from config import Config, parse_config

GROUPS = ("general", "data", "preprocessing")


def main() -> None:
    """Prepares the dataset, and ends with the folds and a line of counts."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    if config.preprocessing.pre_check:
        check(config)
        return
    from rsna.preparation.exploration import explore, is_only_explored

    if is_only_explored(config):
        tell(explore(config))
        return
    from common.preparation import Limits, prepare_dataset
    from common.slices.pixel_steps import PixelSteps
    from rsna.sources import make_source

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
        valid_fraction=flags.pre_valid_fraction,
        fold_by=flags.pre_fold_by,
        drop_overlap=bool(flags.pre_drop_overlap),
        resume_command=command_line(),
        steps=PixelSteps(bool(flags.pre_head_crop), flags.pre_spacing, flags.pre_size),
        brain_min=flags.pre_brain_min,
        address=flags.pre_address,
        limits=Limits(flags.pre_series_timeout_s, flags.pre_series_memory_mb),
    )
    if prepared.folds is not None:
        print(prepared.folds.to_string(float_format="{:.4f}".format))
        print(
            f"The prevalence of a label in a fold differs from that of all slices by at most "
            f"{100 * prepared.fold_deviation:.1f} % of it."
        )
    if prepared.overlap.num_training:
        left_out = prepared.overlap.num_kept == 0
        advice = "they are not trained on" if left_out else "--pre_drop_overlap 1 leaves them out"
        print(f"{prepared.overlap.line().capitalize()}; {advice}.")
    for note, count in prepared.notes.items():
        print(f"{count} slices: {note}")
    tell([f"{config.dataset_folder}: {prepared.line()}"])
    tell(explore(config))


def tell(lines: Iterable[str]) -> None:
    """Prints each line when it comes."""
    for line in lines:
        print(line, flush=True)


def check(config: Config) -> None:
    """Verifies the prepared dataset, and ends with a line of counts; raises CheckFailed."""
    from common.preparation.checks.check import check_dataset
    from rsna_task import SUBTYPES

    checked = check_dataset(
        config.dataset_folder, subtypes=SUBTYPES, union="any", n_jobs=config.general.n_jobs
    )
    print(f"{config.dataset_folder}: {checked.line()}", flush=True)
    checked.raise_findings()


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
