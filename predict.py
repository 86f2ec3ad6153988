"""Predicts a folder of DICOM files, or a prepared dataset, with a trained experiment."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import log_to_console, run_script
from common.errors import InputError
from common.files import make_folder
from config import Config, parse_config

if TYPE_CHECKING:
    from common.slices.table import SliceTable


def main() -> None:
    """Writes tables of slices, series and studies, and the submission that a sample asks for."""
    log_to_console()
    config = parse_config(__doc__ or "", ("general", "prediction", "views"))
    source, output = _folders(config)
    from common.experiment import PREDICTOR_FOLDER
    from common.predictors.loading import load_predictor
    from common.scoring.kaggle_client import KaggleClient
    from common.scoring.submission import read_sample
    from rsna.evaluation.prediction import (
        SUBMISSION_FILE,
        count_line,
        predict_options,
        predict_table,
        write_prediction,
    )
    from rsna_model import build_model

    folder = config.experiment_folder(config.general.experiment_id or "")
    predictor = load_predictor(folder / PREDICTOR_FOLDER, build_model)
    # Refused before the work, not after it.
    asked_for = config.prediction.pr_dataframe
    sample = read_sample(Path(asked_for), predictor.label_names) if asked_for is not None else None
    client = KaggleClient(config.prediction.pr_submit) if config.prediction.pr_submit else None
    make_folder(output)
    table = _open_table(config, source, output, predictor.training)
    prediction = predict_table(predictor, table, predict_options(config))
    write_prediction(prediction, predictor, output, sample)
    print(f"{len(prediction.predictions)} slices and {len(prediction.studies)} studies: {output}")
    if len(prediction.filled):
        print(f"{len(prediction.filled)} slices can't be read and have the prior")
    if client is not None:
        message = f"experiment {config.general.experiment_id}"
        print(f"{client.competition}: {client.submit(output / SUBMISSION_FILE, message)}")
    print(count_line(table))


def _folders(config: Config) -> tuple[Path, Path]:
    """Returns input and output folder; InputError where a flag is missing or can not be used."""
    flags = config.prediction
    if config.general.experiment_id is None:
        raise InputError("--experiment_id is missing: say which experiment, such as 0001")
    if flags.pr_input is None or not _is_input(Path(flags.pr_input)):
        raise InputError(
            f"--pr_input {flags.pr_input}: no such folder; give one with DICOM files or zip "
            f"archives, one zip archive, or a prepared dataset"
        )
    if flags.pr_output is None:
        raise InputError("--pr_output is missing: say which folder the predictions go to")
    source, output = Path(flags.pr_input), Path(flags.pr_output)
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--pr_output {output} lies in --pr_input: choose a folder outside it")
    if output.exists() and not output.is_dir():
        raise InputError(f"--pr_output {output} is a file: choose a folder")
    return source, output


def _is_input(path: Path) -> bool:
    from rsna.sources.dicom import is_archive

    return path.is_dir() or is_archive(path)


def _open_table(
    config: Config, source: Path, output: Path, training: Mapping[str, Any]
) -> "SliceTable":
    """Returns the slices of a prepared dataset, or of DICOM files after preparing them.

    Both as the slices were prepared that the predictor was trained on.
    """
    from common.slices.pixel_steps import require_same_steps, steps_of
    from common.slices.table import SLICES_FILE, SliceTable

    if (source / SLICES_FILE).is_file():
        require_same_steps(training, source)
        return SliceTable.load(source)
    from common.preparation import prepare_dataset
    from rsna.sources.dicom import DicomSource

    prepare_dataset(
        DicomSource(source),
        output / "dataset",
        n_jobs=config.general.n_jobs,
        resume_command=shlex.join(["python", *sys.argv]),
        steps=steps_of(training),
    )
    return SliceTable.load(output / "dataset")


if __name__ == "__main__":
    run_script(main)
