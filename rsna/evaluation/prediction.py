"""Predicts a dataset with a predictor: tables of slices, series and studies, and the submission."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from common.cli import command_line
from common.errors import Interrupted
from common.files import held, make_folder, write_text
from common.predictors.base import AbstractPredictor, PredictOptions
from common.preparation.workers.runner import TaskRunner
from common.scoring.kaggle_client import KaggleClient
from common.scoring.predictions import write_predictions
from common.scoring.submission import (
    SubmissionSample,
    build_submission,
    read_sample,
    write_submission,
)
from common.words import count
from config import Config
from rsna.evaluation.folders import STUDIES_FILE, prediction_folders
from rsna.evaluation.study_pages import INDEX_FILE, study_lines, write_study_pages
from rsna.evaluation.together import share_of_rows
from rsna.opening import device_of, open_predictor
from rsna.predictor import Prediction, Predictor, count_line

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"
SERIES_FILE = "series.csv"
SUBMISSION_FILE = "submission.csv"
FILLED_FILE = "filled_with_prior.csv"
LEFT_OUT_FILE = "left_out.csv"


def predict(config: Config, runner: TaskRunner) -> Iterator[str]:
    """Predict --pr_input, write the tables and the submission, and yield the lines to print.

    Args:
        runner: the processes that prepare files.
    """
    source, output = prediction_folders(config)
    home = config.predictor_home(recorded=False)
    predictor = open_predictor(home.predictor, config.engine.precision)
    # Refused before the work, not after it.
    asked_for, competition = config.prediction.pr_dataframe, config.prediction.pr_submit
    sample = read_sample(Path(asked_for), predictor.label_names) if asked_for is not None else None
    client = KaggleClient(competition) if competition else None
    make_folder(output)
    warm = Predictor(predictor, predict_options(config), runner)
    busy = f"--pr_output {output}: another process predicts into it: wait for its end"
    with held(output, busy):
        try:
            prediction = warm.predict_folder(source, output / "dataset", config.select.ids)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal_number, command_line()) from interrupted
        (output / STUDIES_FILE).unlink(missing_ok=True)  # it comes last, and says that all is there
        made, names, num_pages = prediction, predictor.label_names, config.prediction.pr_pages
        write_study_pages(made.table, made.predictions, made.studies, names, output, num_pages)
        write_prediction(prediction, predictor, output, sample)
    num_slices, num_studies = len(prediction.predictions), len(prediction.studies)
    yield f"{count(num_slices, 'slice')} and {count(num_studies, 'study')}: {output}"
    yield from study_lines(prediction.studies, predictor.label_names)
    if config.prediction.pr_pages:
        yield f"pages: {output / INDEX_FILE}"
    for lost, what in ((prediction.filled, "can't be read"), (prediction.left_out, "left out")):
        if len(lost):
            yield f"{count(len(lost), 'slice')} {what}"
    if client is not None:
        message = home.title.lower()
        yield f"{client.competition}: {client.submit(output / SUBMISSION_FILE, message)}"
    yield count_line(prediction.table)


def write_prediction(
    prediction: Prediction,
    predictor: AbstractPredictor,
    folder: Path,
    sample: SubmissionSample | None = None,
) -> None:
    """Write the tables into `folder`, and the checked submission where a sample asks for it.

    Images of the sample that the input lacks get the prior, and are listed with what could not be
    read.
    """
    names = predictor.label_names
    filled = prediction.filled
    if sample is not None:
        made, missing = build_submission(sample, prediction.predictions, predictor.prior, names)
        write_submission(folder / SUBMISSION_FILE, made, sample)
        if missing:
            lacking = count(len(missing), "image")
            logger.warning(
                "%s of the sample submission not in the input: the prior is written", lacking
            )
        by_choice = prediction.left_out.set_index("image_id")["reason"]
        reasons = [by_choice.get(name, "not in the input") for name in missing]
        absent = pd.DataFrame({"image_id": missing, "reason": reasons})
        filled = pd.concat([filled, absent], ignore_index=True)
    write_csv(folder / FILLED_FILE, filled)
    write_csv(folder / LEFT_OUT_FILE, prediction.left_out)
    write_predictions(folder / PREDICTIONS_FILE, prediction.predictions, names)
    write_csv(folder / SERIES_FILE, prediction.series)
    write_csv(folder / STUDIES_FILE, prediction.studies)


def predict_options(config: Config) -> PredictOptions:
    """Return how the flags ask for predictions: views, their mean, workers, device."""
    views, device = config.views.names, device_of(config)
    config = config.resolved("prediction")
    if config.chosen:
        logger.info(config.chosen)
    return PredictOptions(
        batch_size=config.general.tr_batch_size_valid,
        num_workers=config.general.n_jobs,
        views=views,
        # One view is its own mean; by way of probabilities its logits would be cut.
        mean=config.views.pr_tta_mean if len(views) > 1 else "logits",
        seed=config.general.seed,
        device=device,
        share=share_of_rows(),
    )


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as csv, in one step."""
    write_text(path, frame.to_csv(index=False))
