"""preprocessing.py: a dataset prepared, checked or explored, as the flags ask for."""

import logging
from collections.abc import Iterator
from pathlib import Path

from common.cli import command_line
from common.errors import InputError
from common.preparation import Limits, Preparation, prepare_dataset
from common.preparation.checks.check import check_dataset
from common.preparation.label_file import ACCESSION, LabelFile, LabelFiles
from common.slices.pixel_steps import PixelSteps
from config import Config
from rsna.preparation.exploration import explore, is_only_explored
from rsna.sources import AbstractSource, make_source
from rsna.sources.dicom import DicomSource
from rsna_task import SUBTYPES

logger = logging.getLogger(__name__)


def preprocess(config: Config) -> Iterator[str]:
    """Do what the flags ask for, and yield the lines to print.

    Raises:
        InputError: flags or files that can't be used.
        CheckFailed: --pre_check found something.
    """
    config = config.resolved("preparation")
    if config.preprocessing.pre_check:
        yield from _check(config)
        return
    if not is_only_explored(config):
        yield from _lines(_prepare(config), config)
    yield from explore(config)


def _prepare(config: Config) -> Preparation:
    flags = config.preprocessing
    folder, dataset_folder = _source_folder(config), config.dataset_folder
    if flags.pre_address is not None:
        # Workers run in folders of their own.
        folder, dataset_folder = folder.resolve(), dataset_folder.resolve()
    files = [LabelFile.read(path, SUBTYPES, "any") for path in _label_paths(flags.pre_labels)]
    label_file = LabelFiles.of(files)
    source = _source(config, folder, label_file)
    if config.chosen:
        logger.info(config.chosen)
    return prepare_dataset(
        source,
        dataset_folder,
        n_jobs=config.general.n_jobs,
        num_folds=flags.pre_num_folds,
        fold_seed=flags.pre_fold_seed,
        valid_fraction=flags.pre_valid_fraction,
        fold_by=flags.pre_fold_by,
        drop_overlap=bool(flags.pre_drop_overlap),
        remove=bool(flags.pre_remove),
        resume_command=command_line(),
        steps=PixelSteps(
            bool(flags.pre_head_crop), flags.pre_spacing, flags.pre_size, bool(flags.pre_brain_crop)
        ),
        brain_min=flags.pre_brain_min,
        select=config.select.ids,
        address=flags.pre_address,
        limits=Limits(flags.pre_series_timeout_s, flags.pre_series_memory_mb),
        label_file=label_file,
        train_studies=bool(flags.pre_train_studies),
    )


def _label_paths(given: str | None) -> list[Path]:
    """Return the files of --pre_labels: one, or several with commas between them."""
    if given is None:
        return []
    return [Path(given)] if Path(given).is_file() else [Path(name) for name in given.split(",")]


def _source(
    config: Config, folder: Path, label_file: LabelFile | LabelFiles | None
) -> AbstractSource:
    name = config.preprocessing.pre_source
    if label_file is None:
        return make_source(name, folder, config.general.n_jobs)
    if name != DicomSource.name:
        raise InputError(
            f"--pre_labels: --pre_source {name} has labels of its own; leave the flag out, or give "
            f"--pre_source {DicomSource.name}"
        )
    return DicomSource(folder, with_accession=ACCESSION in label_file.key)


def _source_folder(config: Config) -> Path:
    """Return the folder of the original files; the demo has one of its own."""
    flags = config.preprocessing
    if flags.pre_folder is not None:
        return Path(flags.pre_folder)
    if flags.pre_source == "demo":
        return Path(config.data.data_input_folder) / "demo"
    raise InputError(f"--pre_folder is missing: where are the files of {flags.pre_source}?")


def _lines(prepared: Preparation, config: Config) -> Iterator[str]:
    """Yield the folds, and what is worth a note; the line of counts comes last."""
    if prepared.folds is not None:
        yield prepared.folds.to_string(float_format="{:.4f}".format)
        yield (
            f"The prevalence of a label in a fold differs from that of all slices by at most "
            f"{100 * prepared.fold_deviation:.1f} % of it."
        )
    if prepared.overlap.num_training:
        left_out = prepared.overlap.num_kept == 0
        advice = "they are not trained on" if left_out else "--pre_drop_overlap 1 leaves them out"
        yield f"{prepared.overlap.line().capitalize()}; {advice}."
    for note, count in prepared.notes.items():
        yield f"{count} slices: {note}"
    yield f"{config.dataset_folder}: {prepared.line()}"


def _check(config: Config) -> Iterator[str]:
    """Verify the prepared dataset, and yield a line of counts; CheckFailed comes after it."""
    checked = check_dataset(
        config.dataset_folder, subtypes=SUBTYPES, union="any", n_jobs=config.general.n_jobs
    )
    yield from (f"worth a look: {note}" for note in checked.notes)
    yield f"{config.dataset_folder}: {checked.line()}"
    checked.raise_findings()
