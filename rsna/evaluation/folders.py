"""Input and output folder of predict.py: refused before torch is imported."""

from pathlib import Path

from common.errors import InputError
from config import Config
from rsna.sources.dicom import is_archive

STUDIES_FILE = "studies.csv"
"""The last table that a prediction writes."""


def prediction_folders(config: Config) -> tuple[Path, Path]:
    """Return input and output folder; InputError where a flag is missing or can not be used."""
    flags = config.prediction
    if config.general.experiment_id is None:
        raise InputError("--experiment_id is missing: say which experiment, such as 0001")
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
