"""Predicts a dataset with a predictor: tables of slices, series and studies, and the submission."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.errors import InputError
from common.files import replacing
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.scoring.predictions import build_predictions, write_predictions
from common.scoring.submission import SubmissionSample, build_submission, write_submission
from common.slices.series import DAMAGED, list_series, list_studies
from common.slices.table import STATUS_OK, SliceTable
from config import Config
from rsna.build import find_device

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"
STUDIES_FILE = "studies.csv"
SERIES_FILE = "series.csv"
SUBMISSION_FILE = "submission.csv"
FILLED_FILE = "filled_with_prior.csv"


@dataclass(frozen=True)
class Prediction:
    """What was predicted.

    Attributes:
        predictions: the prediction table, one row per image.
        series, studies: see `common.slices.series`.
        filled: image_id and reason of what has the prior instead of a prediction.
    """

    predictions: pd.DataFrame
    series: pd.DataFrame
    studies: pd.DataFrame
    filled: pd.DataFrame


def predict_table(
    predictor: AbstractPredictor,
    table: SliceTable,
    options: PredictOptions,
) -> Prediction:
    """Return the prediction of every slice of a dataset, readable or not.

    Args:
        predictor: of any kind.
        table: the dataset.
        options: how; see `predict_options`.

    Raises:
        InputError: there is no slice that can be read.
    """
    rows = _slice_rows(table)
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
    studies = list_studies(
        frame,
        predictions[list(names)].to_numpy(),
        series,
        predictor.prior,
        names,
        predictor.study_calibration,
    )
    unread = frame[~frame["readable"]]
    reasons = unread["status"].where(unread["status"] != STATUS_OK, DAMAGED)
    filled = pd.DataFrame({"image_id": unread["image_id"], "reason": reasons})
    if len(filled):
        logger.warning("%d slices can't be read and have the prior", len(filled))
    return Prediction(predictions, series, studies, filled)


def write_prediction(
    prediction: Prediction,
    predictor: AbstractPredictor,
    folder: Path,
    sample: SubmissionSample | None = None,
) -> None:
    """Writes the tables into `folder`, and the checked submission where a sample asks for it.

    Images that the sample asks for and the input lacks get the prior, and are listed with what
    could not be read.
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
        absent = pd.DataFrame({"image_id": missing, "reason": "not in the input"})
        filled = pd.concat([filled, absent], ignore_index=True)
    write_csv(folder / FILLED_FILE, filled)
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
    with tqdm(total=total, unit="slice", desc=title) as bar:
        return predictor.predict_rows(table, rows, replace(options, on_batch=bar.update))


def count_line(table: SliceTable) -> str:
    """Returns how many files were read, slices stored, and what was rejected, by reason."""
    frame = table.frame
    stored = frame[table.readable]
    rejected = frame.loc[~table.readable, "status"].value_counts()
    reasons = ", ".join(f"{count} {status}" for status, count in rejected.items())
    return (
        f"read {frame['source_file'].nunique()} files, stored {len(stored)} slices in "
        f"{stored['store_file'].nunique()} series, rejected {rejected.sum()}"
        + (f" ({reasons})" if reasons else "")
    )


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes a table as csv, in one step."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def _slice_rows(table: SliceTable) -> np.ndarray:
    """Returns one row for each image that is known by its id; a readable one where there is one."""
    order = np.argsort(~table.readable, kind="stable")
    image_ids = table.frame["image_id"].iloc[order]
    return np.sort(order[(image_ids.notna() & ~image_ids.duplicated()).to_numpy()])
