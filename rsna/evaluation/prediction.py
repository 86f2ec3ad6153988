"""Predicts a dataset with a predictor: tables of slices, series and studies, and the submission."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import replacing
from common.predictors.base import AbstractPredictor
from common.scoring.predictions import build_predictions, write_predictions
from common.scoring.submission import SubmissionSample, build_submission, write_submission
from common.slices.series import DAMAGED, list_series, list_studies
from common.slices.table import STATUS_OK, SliceTable
from flags.prediction import ViewsConfig

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
    *,
    views: ViewsConfig | None = None,
    num_workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Returns what `predictor` says of every slice of a dataset, readable or not.

    Args:
        predictor: of any kind.
        table: the dataset.
        views: test-time augmentation; None for none.
        num_workers: processes that read slices.
        seed: of random views.
        device: where networks run.

    Raises:
        InputError: there is no slice that can be read.
    """
    rows = _slice_rows(table)
    if not table.readable[rows].any():
        raise InputError(f"no slice can be read: {count_line(table)}")
    views = views or ViewsConfig()
    total = int(table.readable[rows].sum()) * len(views.names) * predictor.num_networks
    with tqdm(total=total, unit="slice") as bar:
        result = predictor.predict_rows(
            table,
            rows,
            num_workers=num_workers,
            device=device,
            on_batch=bar.update,
            **view_options(views, seed),
        )
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


def view_options(views: ViewsConfig, seed: int) -> dict[str, Any]:
    """Returns the arguments of `AbstractPredictor.predict_rows` that say which views are averaged.

    They are left out where nothing but the plain view is asked for.
    """
    if len(views.names) == 1:
        return {}
    return {"views": views.names, "mean": views.pr_tta_mean, "seed": seed}


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
