"""Predicts a dataset with a predictor: tables of slices, series and studies, and the submission."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from common.cli import command_line
from common.dicom.rejection import NOT_WANTED
from common.errors import InputError
from common.files import make_folder, replacing
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.loading import load_predictor
from common.preparation import prepare_dataset
from common.scoring.kaggle_client import KaggleClient
from common.scoring.metrics import Floats
from common.scoring.predictions import build_predictions, probabilities_of, write_predictions
from common.scoring.submission import (
    SubmissionSample,
    build_submission,
    read_sample,
    write_submission,
)
from common.slices.pixel_steps import require_same_steps, steps_of
from common.slices.series import DAMAGED, list_series, list_studies
from common.slices.table import SLICES_FILE, STATUS_OK, SliceTable
from common.words import count, line_of_counts
from config import Config
from rsna.build import find_device
from rsna.evaluation.deciding import with_decisions
from rsna.evaluation.folders import STUDIES_FILE, prediction_folders
from rsna.evaluation.study_pages import INDEX_FILE, study_lines, write_study_pages
from rsna.sources.dicom import DicomSource
from rsna_model import build_model

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"
SERIES_FILE = "series.csv"
SUBMISSION_FILE = "submission.csv"
FILLED_FILE = "filled_with_prior.csv"
LEFT_OUT_FILE = "left_out.csv"


@dataclass(frozen=True)
class Prediction:
    """What was predicted.

    Attributes:
        predictions: the prediction table, one row per image.
        series, studies: see `common.slices.series`.
        filled: image_id and reason of what can't be read and has the prior instead.
        left_out: image_id and reason of what is not asked for: it has no prediction.
    """

    predictions: pd.DataFrame
    series: pd.DataFrame
    studies: pd.DataFrame
    filled: pd.DataFrame
    left_out: pd.DataFrame


def predict(config: Config) -> Iterator[str]:
    """Predict --pr_input, write the tables and the submission, and yield the lines to print."""
    source, output = prediction_folders(config)
    home = config.predictor_home(recorded=False)
    predictor = load_predictor(home.predictor, build_model)
    # Refused before the work, not after it.
    asked_for, competition = config.prediction.pr_dataframe, config.prediction.pr_submit
    sample = read_sample(Path(asked_for), predictor.label_names) if asked_for is not None else None
    client = KaggleClient(competition) if competition else None
    make_folder(output)
    table = _open_table(config, source, output, predictor.training)
    prediction = predict_table(predictor, table, predict_options(config))
    (output / STUDIES_FILE).unlink(missing_ok=True)  # it comes last, and says that all is there
    write_study_pages(
        table,
        prediction.predictions,
        prediction.studies,
        predictor.label_names,
        output,
        config.prediction.pr_pages,
    )
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
    yield count_line(table)


def predict_table(
    predictor: AbstractPredictor,
    table: SliceTable,
    options: PredictOptions,
) -> Prediction:
    """Return the prediction of every slice of a dataset, readable or not.

    Raises:
        InputError: there is no slice that can be read.
    """
    rows = image_rows(table)
    if not table.readable[rows].any():
        raise InputError(f"no slice can be read: {count_line(table)}")
    result = predict_with_progress(predictor, table, rows, options)
    if result.unreadable.all():
        raise InputError(f"no slice in {table.store.folder} is what was stored: prepare them again")
    frame = table.frame.iloc[rows].assign(readable=~result.unreadable)
    names = predictor.label_names
    predictions = build_predictions(
        frame,
        result.logits,
        names,
        fold=None,
        experiment_id=str(predictor.training.get("experiment_id", "")),
        calibration=predictor.calibration,
    )
    series = list_series(frame)
    probabilities = predictions[list(names)].to_numpy()
    studies = make_studies(predictor, frame, probabilities, series, result.series_logits)
    studies = with_decisions(studies, names, predictor.operating_points, predictor.conformal)
    reasons = frame["status"].where(frame["status"] != STATUS_OK, DAMAGED)
    named = pd.DataFrame({"image_id": frame["image_id"], "reason": reasons})
    is_left_out = frame["status"].isin(NOT_WANTED) & ~frame["readable"]
    filled, left_out = named[~frame["readable"] & ~is_left_out], named[is_left_out]
    if len(filled):
        logger.warning("%s can't be read: the prior", count(len(filled), "slice"))
    if len(left_out):
        logger.warning("%s left out by choice: no prediction", count(len(left_out), "slice"))
    return Prediction(
        predictions[~is_left_out.to_numpy()].reset_index(drop=True),
        series,
        studies,
        filled,
        left_out,
    )


def make_studies(
    predictor: AbstractPredictor,
    frame: pd.DataFrame,
    probabilities: Floats,
    series: pd.DataFrame,
    series_logits: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return the table of studies (`list_studies`) by the predictor's rule.

    Args:
        frame: rows with a bool column `readable`.
        probabilities: (n, k) of these.
        series: the result of `list_series` for them.
        series_logits: (n, k) of the series of each row, where the predictor has its own.
    """
    of_series = None if series_logits is None else probabilities_of(series_logits)
    prior = predictor.study_prior
    studies = list_studies(
        frame,
        probabilities,
        series,
        predictor.prior if prior is None else prior,
        predictor.label_names,
        predictor.study_calibration,
        of_series,
    )
    num_filled = int(studies["status"].eq("prior").sum())
    if prior is None and num_filled:
        logger.warning(
            "%s can't be read and have the prior of slices, which is too low for studies: this "
            "predictor records none of studies",
            count(num_filled, "study"),
        )
    return studies


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
        submission, missing = build_submission(
            sample, prediction.predictions, predictor.prior, names
        )
        write_submission(folder / SUBMISSION_FILE, submission, sample)
        if missing:
            logger.warning("%d images asked for are not in the input: prior", len(missing))
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
    views = config.views.names
    return PredictOptions(
        num_workers=config.general.n_jobs,
        views=views,
        # One view is its own mean; by way of probabilities its logits would be cut.
        mean=config.views.pr_tta_mean if len(views) > 1 else "logits",
        seed=config.general.seed,
        device=find_device(config),
    )


def predict_with_progress(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    options: PredictOptions,
    title: str | None = None,
) -> RowLogits:
    """Return the logits of rows of a slice table, and show how many slices are done."""
    num_slices = int(table.readable[rows].sum())
    total = num_slices * len(options.views) * predictor.num_networks
    with tqdm(total=total, unit="slice", desc=title, disable=None) as bar:
        return predictor.predict_rows(table, rows, replace(options, on_batch=bar.update))


def count_line(table: SliceTable) -> str:
    """Return the counts of a prepared dataset, as its preparation prints them."""
    frame = table.frame
    stored = frame[table.readable]
    rejected = frame.loc[~table.readable, "status"].value_counts().to_dict()
    num_files, num_series = frame["source_file"].nunique(), stored["store_file"].nunique()
    return line_of_counts(num_files, len(stored), num_series, rejected)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as csv, in one step."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def image_rows(table: SliceTable) -> np.ndarray:
    """Return one row for each image that is known by its id; a readable one where there is one."""
    order = np.argsort(~table.readable, kind="stable")
    image_ids = table.frame["image_id"].iloc[order]
    return np.sort(order[(image_ids.notna() & ~image_ids.duplicated()).to_numpy()])


def _open_table(
    config: Config, source: Path, output: Path, training: Mapping[str, Any]
) -> SliceTable:
    """Return the slices of a prepared dataset, or of DICOM files after preparing them.

    Both as the slices were prepared that the predictor was trained on.
    """
    if (source / SLICES_FILE).is_file():
        require_same_steps(training, source)
        return SliceTable.load(source)
    prepare_dataset(
        DicomSource(source),
        output / "dataset",
        n_jobs=config.general.n_jobs,
        remove=True,  # what is predicted is what is there now
        resume_command=command_line(),
        steps=steps_of(training),
        select=config.select.ids,
    )
    return SliceTable.load(output / "dataset")
