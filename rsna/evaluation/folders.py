"""Folders of predict.py and scripts/calibrate.py: refused before torch is imported."""

from pathlib import Path

from common.errors import InputError
from common.experiment import JSON_FILE, read_predictor_json
from config import Config
from rsna.sources.dicom import is_archive

STUDIES_FILE = "studies.csv"
"""The last table that a prediction writes."""


def prediction_folders(config: Config) -> tuple[Path, Path]:
    """Return input and output folder; InputError where a flag is missing or can not be used."""
    flags = config.prediction
    config.predictor_home(recorded=False)
    source = None if flags.pr_input is None else Path(flags.pr_input)
    if source is None:
        raise InputError("--pr_input is missing: say which folder, zip archive or prepared dataset")
    if not (source.is_dir() or is_archive(source)):
        raise InputError(
            f"--pr_input {flags.pr_input}: no such folder; give one with DICOM files or zip "
            f"archives, one zip archive, or a prepared dataset"
        )
    if flags.pr_output is None:
        raise InputError("--pr_output is missing: say which folder the predictions go to")
    output = Path(flags.pr_output)
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--pr_output {output} lies in --pr_input: choose a folder outside it")
    if output.exists() and not output.is_dir():
        raise InputError(f"--pr_output {output} is a file: choose a folder")
    if (output / STUDIES_FILE).is_file() and not flags.pr_overwrite:
        raise InputError(
            f"--pr_output {output}: holds predictions already: choose another folder, or give "
            f"--pr_overwrite 1 to replace them"
        )
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
