"""A dataset with slices that a model labelled, or with another labelled dataset, from its flags."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.ensembling.pseudo_labels import pseudo_labels, rows_to_use
from common.errors import InputError
from common.experiment import Experiment, PredictorHome
from common.preparation.merging import Labelled, Merged, merge_dataset
from common.scoring.predictions import MEAN_VIEW, read_predictions
from common.slices.folds import PSEUDO, TEST_SPLIT, owners
from common.slices.study_labels import read_study_labels
from common.slices.table import SliceTable
from common.words import count
from config import Config
from flags.ensemble import PseudoLabelConfig
from rsna.evaluation.scoring import predictor_info, task_of
from rsna_task import LABELS

logger = logging.getLogger(__name__)

GIVEN = "given"


def make_pseudo_dataset(config: Config) -> tuple[Path, Merged]:
    """Write the dataset that the flags ask for; return its folder and what is in it.

    Raises:
        InputError: a missing flag, dataset, experiment or table, or nothing to add.
    """
    flags = config.pseudo_labels
    if flags.pl_name is None:
        raise InputError("--pl_name is missing: give the name of the new dataset")
    if flags.pl_labels == GIVEN and flags.pl_source is None:
        raise InputError(
            "--pl_labels given needs --pl_source: name the dataset whose labels to train on"
        )
    base = config.dataset_folder
    source = base if flags.pl_source is None else config.named_dataset_folder(flags.pl_source)
    table = SliceTable.load(source)
    SliceTable.load(base)
    is_given = flags.pl_labels == GIVEN
    added = _given(table, config) if is_given else _predicted(config, table)
    note = {
        "dataset": base.name,
        "source": source.name,
        "experiment_id": config.general.experiment_id,
        "predictor": None if flags.pl_labels == GIVEN else config.predictor_home().id,
        **{name: value for name, value in config.flags().items() if name.startswith("pl_")},
    }
    # A path of the user's has no place in a dataset folder that may be passed on.
    note.pop("pl_predictions")
    target = config.named_dataset_folder(flags.pl_name)
    return target, merge_dataset(base, added, target, LABELS, note)


def thresholds(flags: PseudoLabelConfig, num_labels: int) -> list[list[float]]:
    """Return --pl_positive and --pl_negative for each of the labels."""
    found = []
    for name in ("pl_positive", "pl_negative"):
        values = list(getattr(flags, name))
        if len(values) not in (1, num_labels):
            raise InputError(f"--{name} {values}: must be one number, or one for each label")
        found.append(values * num_labels if len(values) == 1 else values)
    if any(low > high for high, low in zip(*found)):
        raise InputError("--pl_negative: must not be above --pl_positive, for any label")
    return found


def _given(table: SliceTable, config: Config) -> Labelled:
    """Return the slices of a dataset, or of some of its patients, that have labels of their own."""
    labels = table.labels(np.arange(len(table)), LABELS)
    chosen = table.readable & ~np.isnan(labels).any(axis=1)
    patients, num = owners(table.frame), config.pseudo_labels.pl_num_patients
    if num:
        known = np.sort(patients[chosen].unique())
        if num > len(known):
            raise InputError(
                f"--pl_num_patients {num}: {table.folder} has {count(len(known), 'patient')} with "
                f"labels: ask for fewer"
            )
        drawn = np.random.default_rng(config.general.seed).choice(known, num, replace=False)
        chosen &= patients.isin(drawn).to_numpy(dtype=bool)
    if not chosen.any():
        raise InputError(
            f"--pl_labels given: no slice of {table.folder} has all labels: let a model label "
            f"them (--pl_labels hard --experiment_id ...)"
        )
    ids = table.frame["image_id"].to_numpy(dtype=object)[chosen]
    return Labelled(table.folder, ids, labels[chosen], f"given:{table.folder.name}")


def _predicted(config: Config, table: SliceTable) -> Labelled:
    """Return the slices that an experiment is sure of."""
    flags, home = config.pseudo_labels, config.predictor_home()
    names = task_of(predictor_info(home)).label_names
    if len(names) < len(LABELS) and not flags.pl_partial:
        raise InputError(
            f"{home.title} predicts {', '.join(names)} alone, so that positive slices "
            f"would be left out and negative ones not: give --pl_partial 1, or an experiment that "
            f"predicts all labels"
        )
    path = _table_path(flags, home, table.folder.name)
    frame = read_predictions(path, names)
    frame = frame[frame["view"] == MEAN_VIEW]
    rows = table.rows_of(frame["image_id"])
    wanted = table.readable[rows]
    if flags.pl_source is None:
        wanted &= table.frame["split"].eq(TEST_SPLIT).to_numpy(dtype=bool)[rows]
    frame, rows = frame[wanted], rows[wanted]
    if frame.empty:
        raise InputError(f"{path}: no slice of the test of {table.folder.name} is predicted")
    probabilities = np.full((len(frame), len(LABELS)), np.nan)
    columns = [LABELS.index(label) for label in names]
    probabilities[:, columns] = frame[list(names)].to_numpy(dtype=np.float64)
    positive, negative = thresholds(flags, len(LABELS))
    labels = pseudo_labels(
        probabilities,
        flags.pl_labels,
        positive,
        negative,
        study_labels=_of_studies(table, rows) if flags.pl_use_studies else None,
    )
    used = rows_to_use(labels, bool(flags.pl_partial))
    logger.info("%d of %s above the thresholds", used.sum(), count(len(used), "slice"))
    ids = frame["image_id"].to_numpy(dtype=object)[used]
    return Labelled(table.folder, ids, labels[used], f"{PSEUDO}{home.id}")


def _table_path(flags: PseudoLabelConfig, home: PredictorHome, source: str) -> Path:
    if flags.pl_predictions is not None:
        return Path(flags.pl_predictions)
    if flags.pl_source is None and isinstance(home, Experiment):
        return home.predictions_file("test")
    path = home.evaluation(source).predictions_file
    if not path.is_file():
        raise InputError(
            f"--pl_source {source}: {home.title} has not predicted it: run predict.py on that "
            f"dataset, and give its predictions.parquet by --pl_predictions"
        )
    return path


def _of_studies(table: SliceTable, rows: np.ndarray) -> Any:
    """Return the labels (n, k) of the studies of rows, NaN where unknown."""
    by_study = read_study_labels(table, LABELS)
    if by_study is None:
        raise InputError(f"--pl_use_studies 1: {table.folder} has no labels of studies")
    ids = table.frame["study_id"].iloc[rows]
    return by_study.reindex(pd.Index(ids)).to_numpy(dtype=np.float64)
