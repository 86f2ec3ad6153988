"""Folders of predict.py, deliver.py and scripts/calibrate.py: refused before torch is imported."""

import os
from importlib.util import find_spec
from pathlib import Path

from common.delivery.headers import Undeliverable, require_uids
from common.delivery.model import ModelRecord
from common.errors import InputError
from common.experiment import JSON_FILE, read_predictor_json
from common.preparation.engine import DEFAULT_LIMITS
from common.preparation.workers.runner import TaskRunner
from common.requirements import install_command
from common.slices.table import SLICES_FILE
from config import Config
from rsna.sources.dicom import DicomSource, is_archive

STUDIES_FILE = "studies.csv"
"""The last table that a prediction writes."""
PHANTOMS = "demo"


def prediction_folders(config: Config) -> tuple[Path, Path]:
    """Return input and output folder; InputError where a flag is missing or can not be used."""
    flags = config.prediction
    config.predictor_home(recorded=False)
    source, output = _in_and_out("pr", flags.pr_input, flags.pr_output, "prepared dataset")
    if (output / STUDIES_FILE).is_file() and not flags.pr_overwrite:
        raise InputError(
            f"--pr_output {output}: holds predictions already: choose another folder, or give "
            f"--pr_overwrite 1 to replace them"
        )
    return source, output


def preparing_processes(config: Config, source: Path) -> TaskRunner:
    """Return the processes that prepare `source`; the first imports while this process does."""
    runner = TaskRunner(config.resolved("preparation").general.n_jobs, limits=DEFAULT_LIMITS)
    # Of several processes that predict together, the main one prepares.
    if os.environ.get("RANK", "0") == "0" and not (source / SLICES_FILE).is_file():
        runner.start()
    return runner


def delivery_folders(config: Config) -> tuple[Path, Path]:
    """Return input and output folder of deliver.py.

    Raises:
        InputError: a flag is missing or can not be used, or the predictor is not to be delivered.
    """
    flags = config.delivery
    folders = _in_and_out("dl", flags.dl_input, flags.dl_output)
    deliverable_record(config)
    require_valid_uids(folders[0])
    return folders


def require_valid_uids(source: Path) -> None:
    """Raise InputError where a folder or archive has CT, but none that a result could refer to."""
    found = DicomSource(source)
    files = found.files()
    if "reason" in files:  # Those that have one are no files.
        files = files[files["reason"].isna()]
    try:
        require_uids(found.folder, files["source_file"])
    except Undeliverable as error:
        raise InputError(f"{source}: nothing to deliver: {error}") from error


def deliverable_record(config: Config) -> ModelRecord:
    """Return what the predictor says about itself.

    Raises:
        InputError: there is none, it is of phantoms alone, or what makes results is not installed.
    """
    if find_spec("highdicom") is None:
        raise InputError(
            f"the package highdicom, which is not installed, makes the results: "
            f"{install_command('clinic')}"
        )
    home = config.predictor_home(recorded=False)
    record = ModelRecord.read(home.predictor, config.engine.precision)
    if is_of_phantoms(record) and not config.delivery.dl_force:
        raise InputError(
            "the predictor was trained on phantoms alone and knows nothing of patients: "
            "give one that was trained on CT, or --dl_force 1, which all results then say"
        )
    return record


def is_of_phantoms(record: ModelRecord) -> bool:
    """Return whether a predictor was trained on the phantoms of the demo and nothing else."""
    return record.sources == {PHANTOMS}


def _in_and_out(
    prefix: str, given_in: str | None, given_out: str | None, also: str = ""
) -> tuple[Path, Path]:
    """Return what `--<prefix>_input` and `--<prefix>_output` name; InputError where they can't be.

    Args:
        also: what the input may be beside a folder or an archive.
    """
    kinds = f"folder, zip archive or {also}" if also else "folder or zip archive"
    if not given_in:
        raise InputError(f"--{prefix}_input is missing: say which {kinds}")
    source = Path(given_in)
    if not (source.is_dir() or is_archive(source)):
        raise InputError(
            f"--{prefix}_input {given_in}: no such folder; give one with DICOM files or zip "
            f"archives, " + (f"one zip archive, or a {also}" if also else "or one zip archive")
        )
    if not given_out:
        what = "predictions" if prefix == "pr" else "results"
        raise InputError(f"--{prefix}_output is missing: say which folder the {what} go to")
    output = Path(given_out)
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"--{prefix}_output {output} lies in --{prefix}_input: choose a folder outside it"
        )
    if output.exists() and not output.is_dir():
        raise InputError(f"--{prefix}_output {output} is a file: choose a folder")
    return source, output


def calibration_target(config: Config) -> Path:
    """Return where the calibrated predictor goes: beside the old one, with the dataset's name.

    Raises:
        InputError: a flag is missing or can not be used.
    """
    home, name = config.predictor_home(), config.data.data_dataset
    if "data_dataset" not in config.given:
        raise InputError("--data_dataset is missing: say which labelled dataset to calibrate on")
    read_predictor_json(home.predictor)
    old = home.predictor.resolve()
    target = old.with_name(f"{old.name}_{name}")
    if target.exists() and not (target / JSON_FILE).is_file():
        raise InputError(f"{target} exists and is no predictor: move it out of the way")
    if target.exists() and not config.calibration.cal_overwrite:
        raise InputError(
            f"{target} exists: predict with it, or give --cal_overwrite 1 to replace it"
        )
    return target
