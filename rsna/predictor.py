"""A predictor to call from Python: opened once, then a study at a time.

    predictor = Predictor.open("output/results/0001")
    prediction = predictor.predict_folder("incoming/study")
    print(prediction.studies)

predict.py is this with flags and files around it.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from common.dicom.rejection import NOT_WANTED
from common.errors import InputError
from common.experiment import find_predictor
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.engine import Precision
from common.preparation import prepare_dataset
from common.preparation.workers.runner import TaskRunner
from common.scoring.metrics import Floats
from common.scoring.predictions import build_predictions, probabilities_of
from common.slices.pixel_steps import require_same_steps, steps_of
from common.slices.series import DAMAGED, list_series, list_studies
from common.slices.table import SLICES_FILE, STATUS_OK, SliceTable
from common.words import count, line_of_counts
from rsna.evaluation.deciding import with_decisions
from rsna.opening import open_predictor
from rsna.sources.base import AbstractSource
from rsna.sources.dicom import DicomSource, is_archive
from rsna.sources.volume import VolumeSource

logger = logging.getLogger(__name__)

_DEFAULT_OPTIONS = PredictOptions()


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """What was predicted of all studies of a folder; its tables name patients, its repr does not.

    Attributes:
        table: the slices, readable or not: `table.frame` has their source file (relative to the
            folder that was predicted), series, position and geometry, `table.image_hu(row)` their
            pixels as they were stored. Where no work folder was given, these last as long as the
            table.
        rows: int64 (n,), the row of `table` of each row of `predictions`.
        predictions: the prediction table, one row per image.
        series, studies: see `common.slices.series`; studies have calls and a decision where the
            predictor has operating points and a triage.
        filled: image_id and reason of what can't be read and has the prior instead.
        left_out: image_id and reason of what is not asked for: it has no prediction.
    """

    table: SliceTable
    rows: NDArray[np.int64]
    predictions: pd.DataFrame
    series: pd.DataFrame
    studies: pd.DataFrame
    filled: pd.DataFrame
    left_out: pd.DataFrame


class Predictor:
    """A predictor that stays in memory: opening it takes seconds, each study then little.

    It starts no process unless `options.num_workers` asks for some, and opening it no thread.
    Threads may share it: their calls wait for each other. A process that was forked from the one
    that opened it is refused, as the threads of torch do not survive a fork: open it there, or
    start processes by `spawn`, to which it can be pickled. As codecs are not isolated where
    `num_workers` is 0, files from strangers belong into a process that may die.

    Args:
        loaded: what predicts rows; see `common.predictors`.
        options: views, batch size, device and workers, also those that prepare files.
        runner: processes that prepare files, in place of those; it ends them then.
    """

    def __init__(
        self,
        loaded: AbstractPredictor,
        options: PredictOptions = _DEFAULT_OPTIONS,
        runner: TaskRunner | None = None,
    ) -> None:
        self.loaded = loaded
        self.options = options
        self._runner = runner
        self._lock = threading.Lock()
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        options: PredictOptions = _DEFAULT_OPTIONS,
        engine: Precision | None = None,
    ) -> "Predictor":
        """Return the predictor in a folder, or that of an experiment, ready to predict.

        Args:
            folder: what --pr_predictor takes.
            options: as of the class; the defaults are those of predict.py on a CPU, in this
                process.
            engine: None: torch; else the precision of the engines that an export wrote into it
                (`common.predictors.engine`), which need no torch.

        Raises:
            InputError: there is none, or it is damaged: the checksum of its weights is compared.
        """
        home = find_predictor(Path(folder), "predictor")
        return cls(open_predictor(home.predictor, engine), options)

    def __reduce__(self) -> tuple[Any, ...]:
        return Predictor, (self.loaded, self.options)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of the columns of all tables."""
        return tuple(self.loaded.label_names)

    def predict_folder(
        self,
        path: Path | str,
        work: Path | str | None = None,
        select: Collection[str] = (),
    ) -> Prediction:
        """Return the prediction of all studies in a folder of DICOM, or in a prepared dataset.

        The slices are prepared as those were that the predictor was trained on.

        Args:
            path: folder of DICOM files or zip archives, one zip archive, or a prepared dataset.
            work: where the prepared slices go and stay; not with a prepared dataset. None: a
                folder that this user alone can read and that goes with the table of the result.
            select: ids of series that are used whatever the rules say.

        Raises:
            InputError: there is no such folder, no slice in it can be read, or the dataset was
                prepared in another way. Files that can't be used are rows with a status, no error.
            Interrupted: by SIGINT or SIGTERM, in the main thread.
        """
        path = Path(path)
        if (path / SLICES_FILE).is_file():
            return self.predict_table(SliceTable.load(path))
        if not (path.is_dir() or is_archive(path)):
            raise InputError(
                f"{path}: no such folder: give one with DICOM files or zip archives, one zip "
                f"archive, or a prepared dataset"
            )
        return self._predict_source(DicomSource(path), work, select)

    def predict_volume(self, hu: ArrayLike, spacing: tuple[float, float, float]) -> Prediction:
        """Return the prediction of one study, a volume in memory.

        It is prepared, checked and predicted as a DICOM series of the same pixels would be. Row z
        of `predictions` is slice z of the volume; `studies` has one row.

        Args:
            hu: HU of a head CT without contrast medium, integers or finite floats (slices, rows,
                columns). The first slice is the lowest, nearest to the feet; rows run from front
                to back and columns from the patient's right to the left, as in a picture with the
                face up. Arrays in the order of NIfTI, (x, y, z), are to be transposed and turned.
            spacing: of slices, rows and columns, mm (z, y, x); slices are evenly spaced.

        Raises:
            InputError: the array has another shape, values that are not finite or not HU, or the
                spacing can't be that of a head.
        """
        return self._predict_source(VolumeSource(hu, spacing))

    def predict_table(self, table: SliceTable) -> Prediction:
        """Return the prediction of every slice of a dataset, readable or not.

        Raises:
            InputError: there is no slice that can be read, or it was prepared in another way.
        """
        with self._alone():
            require_same_steps(self.loaded.training, table.folder)
            return self._predict(table)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads waiting; InputError in a forked process."""
        if os.getpid() != self._process:
            raise InputError(
                "this predictor was opened before a fork, which the threads of torch do not "
                "survive: open it in the process that predicts, or start that by spawn"
            )
        with self._lock:
            yield

    def _predict_source(
        self,
        source: AbstractSource,
        work: Path | str | None = None,
        select: Collection[str] = (),
    ) -> Prediction:
        with self._alone(), contextlib.ExitStack() as if_it_fails:
            folder = Path(tempfile.mkdtemp(prefix="ich-") if work is None else work)
            if work is None:
                if_it_fails.callback(shutil.rmtree, folder, ignore_errors=True)
            prepare_dataset(
                source,
                folder,
                n_jobs=self.options.num_workers,
                remove=True,  # what is predicted is what is there now
                steps=steps_of(self.loaded.training),
                select=select,
                runner=self._runner,
            )
            if self._runner is not None:
                self._runner.rest()  # they would hold memory beside the network's
            prediction = self._predict(SliceTable.load(folder))
            if_it_fails.pop_all()
        if work is None:
            weakref.finalize(prediction.table, shutil.rmtree, folder, ignore_errors=True)
        return prediction

    def _predict(self, table: SliceTable) -> Prediction:
        rows = image_rows(table)
        if not table.readable[rows].any():
            raise InputError(f"no slice can be read: {count_line(table)}")
        predictor, names = self.loaded, self.label_names
        result = predict_with_progress(predictor, table, rows, self.options)
        if result.unreadable.all():
            raise InputError(
                f"no slice in {table.store.folder} is what was stored: prepare them again"
            )
        frame = table.frame.iloc[rows].assign(readable=~result.unreadable)
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
        is_left_out = (frame["status"].isin(NOT_WANTED) & ~frame["readable"]).to_numpy(dtype=bool)
        filled, left_out = named[~frame["readable"] & ~is_left_out], named[is_left_out]
        if len(filled):
            logger.warning("%s can't be read: the prior", count(len(filled), "slice"))
        if len(left_out):
            logger.warning("%s left out by choice: no prediction", count(len(left_out), "slice"))
        predictions = predictions[~is_left_out].reset_index(drop=True)
        return Prediction(table, rows[~is_left_out], predictions, series, studies, filled, left_out)


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


def image_rows(table: SliceTable) -> np.ndarray:
    """Return one row for each image that is known by its id; a readable one where there is one."""
    order = np.argsort(~table.readable, kind="stable")
    image_ids = table.frame["image_id"].iloc[order]
    return np.sort(order[(image_ids.notna() & ~image_ids.duplicated()).to_numpy()])
