"""scripts/calibrate.py: a predictor calibrated to local labels, as a new predictor folder."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.experiment import JSON_FILE, PredictorHome
from common.files import make_folder, replacing_folder
from common.predictors.base import AbstractPredictor
from common.scoring.local_calibration import LocalData, cross_fit_local, fit_local, score_local
from common.slices.folds import owners
from common.slices.pixel_steps import require_same_steps
from common.slices.series import used_rows
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies
from common.words import count, shown, spread
from config import Config
from rsna.evaluation.deciding import (
    NEARLY,
    POINTS,
    TRIAGE,
    Deciding,
    call_studies,
    decided_metrics,
    decision_lines,
    fitted_record,
    kept_records,
)
from rsna.evaluation.folders import calibration_target
from rsna.evaluation.labelled import Labelled, PredictedRows, find_labelled, predict_labelled
from rsna.evaluation.model_card import write_card
from rsna.evaluation.prediction import predict_options
from rsna.evaluation.scoring import predictor_info, task_of
from rsna.evaluation.unseen import require_unseen_rows, require_unseen_source
from rsna.opening import open_predictor
from rsna.predictor import predict_with_progress

logger = logging.getLogger(__name__)


def calibrate(config: Config) -> Iterator[str]:
    """Fit a predictor's calibration to a labelled dataset; write it, and yield lines to print.

    Slices and studies are calibrated, or, where studies alone have labels, studies alone; on top of
    the calibration that they have.

    Raises:
        InputError: flags that can't be used, nothing to fit to, or patients that the predictor was
            trained or fitted on.
    """
    home, target = config.predictor_home(), calibration_target(config)
    name, held_out = config.data.data_dataset, config.evaluation.ids
    table, task = SliceTable.load(config.dataset_folder), task_of(predictor_info(home))
    predictor = open_predictor(home.predictor)
    require_same_steps(predictor.training, table.folder)
    require_unseen_source(home, table, name, held_out)
    labelled = find_labelled(table, name, task.label_names, held_out)
    require_unseen_rows(home, table, labelled.rows, name)
    if predictor.fitted_on and not predictor.fitted_on_salt:
        raise InputError(f"{home.title} is a blend of an earlier version: blend again")
    make_folder(target.parent)
    options = predict_options(config)
    found = predict_labelled(
        labelled, lambda rows: predict_with_progress(predictor, table, rows, options, name)
    )
    data = _local_data(table, labelled, found, predictor)
    cross_fitted = cross_fit_local(data, config.general.seed)
    scores = score_local(data, cross_fitted, task.label_names, task.label_weights)
    fitted = fit_local(data, label_names=task.label_names)
    predictor.calibration, predictor.study_calibration = fitted.slices, fitted.studies
    _drop_decisions(predictor, home)
    how, names = Deciding.from_flags(config.evaluation), task.label_names
    studies = ScoredStudies(data.study_labels, cross_fitted[1], data.study_patients)
    decided = decided_metrics(call_studies(studies, names, how), names, how)
    _record(predictor, table, labelled.rows, name, decided, how)
    patients = np.union1d(data.patients.astype(str), data.study_patients.astype(str))
    predictor.calibrated_on = {
        "predictor_sha256": _digest(home.predictor),
        "dataset": name,
        "num_patients": len(patients),
        "num_studies": len(data.study_labels),
        "num_slices": int((~np.isnan(data.labels).all(axis=1)).sum()),
        "scores": scores,
        "on_top_of": predictor.calibrated_on,
    }
    with replacing_folder(target) as temporary:
        predictor.save(temporary)
    write_card(PredictorHome(target), new=True)
    yield from _lines(predictor.calibrated_on)
    yield from decision_lines(decided, task.label_names)
    yield f"calibrated predictor: {target}"


def _drop_decisions(predictor: AbstractPredictor, home: PredictorHome) -> None:
    """Take off thresholds and triage of the probabilities as they were before, and say so."""
    for key in (POINTS, TRIAGE):
        if getattr(predictor, key) is not None:
            setattr(predictor, key, None)
            logger.warning("%s of %s is of other probabilities, and dropped", key, home.title)


def _local_data(
    table: SliceTable, labelled: Labelled, found: PredictedRows, predictor: AbstractPredictor
) -> LocalData:
    """Return what calibrators are fitted to: readable slices of studies that have a used volume."""
    names = list(predictor.label_names)
    used = found.frame.index[used_rows(found.frame, found.series)]
    studies = table.frame["study_id"]
    of_used = studies.loc[used].unique()
    kept = ~found.unreadable & studies.iloc[found.rows].isin(of_used).to_numpy(dtype=bool)
    if not kept.any():
        raise InputError(f"{table.folder}: no labelled study has a series that can be used")
    if not kept.all():
        lost = count(int((~kept).sum()), "slice")
        logger.warning("%s not fitted to: unreadable, or of a study without CT of a head", lost)
    rows = found.rows[kept]
    frame = table.frame.iloc[rows]
    codes, ids = frame["study_id"].factorize()
    own = found.series_logits
    return LocalData(
        found.logits[kept].astype(np.float64),
        labelled.labels[rows],
        owners(frame).to_numpy(dtype=object).astype(str),
        codes,
        np.isin(rows, used),
        labelled.studies.reindex(ids)[names].to_numpy(dtype=np.float64),
        owners(frame.drop_duplicates("study_id")).to_numpy(dtype=object).astype(str),
        None if own is None else own[kept].astype(np.float64),
        predictor.calibration,
        predictor.study_calibration,
    )


def _record(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: np.ndarray,
    name: str,
    decided: Mapping[str, Any],
    how: Deciding,
) -> None:
    """Record what was decided, and digests of what was fitted on, beside those of a blend."""
    fitted = fitted_record(table, rows, name, predictor.fitted_on_salt)
    predictor.fitted_on_salt = fitted["salt"]
    predictor.fitted_on = sorted({*predictor.fitted_on, *fitted["digests"]})
    for key, record in kept_records(decided, how, fitted, NEARLY).items():
        setattr(predictor, key, record)
        if record is None:
            logger.warning("%s: too few patients, the predictor keeps none", key)


def _digest(folder: Path) -> str:
    """Return the SHA-256 of a predictor: of all its predictor.json, which have those of weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(JSON_FILE)):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    num = count(record["num_patients"], "patient")
    yield f"{num}, {count(record['num_studies'], 'study')} of {record['dataset']}:"
    for name, part in record["scores"].items():
        for stage in ("before", "calibrated"):
            own, prior = part[stage], part["scored_prior_weighted_log_loss"]
            loss = own["weighted_log_loss"]
            of_prior = f", {loss / prior:.2f} of the scored prior's" if loss and prior else ""
            score = shown(loss, 4) + spread(own["interval"], 4)
            yield f"{name:<8} {stage:<11} log loss {score}{of_prior}"
        gain = shown(part["gain"]["difference"], 4) + spread(part["gain"]["interval"], 4)
        yield f"{name:<8} {'gain':<11} {gain}"
    yield "calibrated: each patient by a fit to others; in parentheses 95 % intervals"
