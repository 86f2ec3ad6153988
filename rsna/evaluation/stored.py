"""Stored predictions of a dataset, and its studies by the rule that evaluate.py scores them by."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import JSON_FILE, Experiment, PredictorHome, find_predictor
from common.scoring.metrics import Floats
from common.scoring.predictions import MEAN_VIEW, read_predictions, series_probabilities
from common.scoring.study_calibration import StudyCalibration, study_probabilities
from common.slices.folds import FOLDS_FILE, is_in, owners, read_folds
from common.slices.leakage import folds_digest
from common.slices.table import SliceTable, require_dataset
from common.tables import read_parquet
from config import Config, recorded_config
from rsna.evaluation.scoring import predictor_info, task_of, used_of
from rsna.evaluation.unseen import require_unseen_rows, source_note
from rsna_task import CHALLENGE, Task

# Of `common.predictors.series`, which takes torch to import.
_STUDY_RULE = "study_rule"


@dataclass(frozen=True)
class Stored:
    """A prediction table of an experiment or a predictor.

    Attributes:
        name: as pages show it.
        path: of the table.
        home: what made it; None where that is not known.
        is_evaluated: whether it is of an evaluation, and not of the training's own rows.
        info: content of its predictor.json; empty where there is no home.
    """

    name: str
    path: Path
    home: PredictorHome | None = None
    is_evaluated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config | None:
        """The flags of the training whose own rows these are; None for others."""
        own = isinstance(self.home, Experiment) and not self.is_evaluated
        return recorded_config(self.home.folder) if own and self.home is not None else None

    @property
    def task(self) -> Task:
        return task_of(self.info) if self.info else CHALLENGE

    def read(self, table: SliceTable) -> pd.DataFrame:
        """Return the rows of the view `mean` that are in a dataset.

        Raises:
            InputError: there is none.
        """
        frame = read_predictions(self.path, self.task.label_names)
        known = is_in(frame["image_id"], table.frame["image_id"])
        frame = frame[known & frame["view"].eq(MEAN_VIEW).to_numpy(dtype=bool)]
        if frame.empty:
            raise InputError(f"{self.path}: no row of it is in {table.folder}")
        return frame.reset_index(drop=True)

    def studies(self, table: SliceTable, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the probabilities of the studies of rows, indexed by study id.

        Of the used volume among them by the predictor's rule; of a blend's own rows those that it
        has fitted without them.
        """
        names = list(self.task.label_names)
        path = Experiment(self.path.parent.parent).predictions_file("studies")
        if self.config is not None and self.path.stem == "oof" and path.is_file():
            return _of_blend(path, names)
        of_series = series_probabilities(frame, names)
        if of_series is None and self.is_evaluated and self.info.get(_STUDY_RULE):
            raise InputError(f"{self.path}: an earlier version wrote it: evaluate.py again")
        content = self.info.get("study_calibration") if self.is_evaluated else None
        used = used_of(table, table.rows_of(frame["image_id"]))
        codes, ids = pd.factorize(frame["study_id"][used])
        values = study_probabilities(
            frame.loc[used, names].to_numpy(np.float64),
            codes,
            len(ids),
            StudyCalibration.from_json(content),
            None if of_series is None else of_series[used],
        )
        return pd.DataFrame(values, index=ids, columns=names)

    def doubts(self, table: SliceTable, rows: NDArray[np.int64]) -> list[str]:
        """Return why scores on rows may be too good, in words; none where nothing is known."""
        if self.home is None:
            return ["unknown what it was trained on"]
        found = []
        if self.path.stem.endswith("_best"):
            found.append("checkpoint selected on these rows")
        config = self.config
        if config is not None and config.callbacks.cb_early_stopping_patience:
            found.append("length of training chosen on these rows")
        if config is not None:
            return found + list(source_note(self.home, table).values())
        try:
            require_unseen_rows(self.home, table, rows, table.folder.name)
        except InputError:
            found.append("trained or fitted on some of these patients")
        return found


def find_stored(config: Config, names: list[str], flag: str) -> tuple[Path, list[Stored]]:
    """Return the dataset folder, and the predictions of it that each name stands for.

    Dataset and input folder are those of the experiments, where they are not given.

    Raises:
        InputError: there is none, or experiments are of several datasets and none is asked for.
    """
    homes = [_home(config, name, flag) for name in names]
    data = {
        name: recorded_config(home.folder).data
        for name, (home, _) in zip(names, homes, strict=True)
        if isinstance(home, Experiment)
    }
    if "data_dataset" not in config.given and len({of.data_dataset for of in data.values()}) != 1:
        listed = ", ".join(f"{name} of {of.data_dataset}" for name, of in data.items())
        raise InputError(
            f"{flag}: of several datasets, or of none that is known ({listed or 'none'}): say "
            f"which one by --data_dataset"
        )
    first = next(iter(data.values()), config.data)
    asked = {"data_dataset", "data_input_folder"} - config.given
    config = config.with_flags(**{name: getattr(first, name) for name in asked})
    folder = config.dataset_folder
    require_dataset(folder)
    found = [
        _stored(name, home, path, data[name].data_dataset if name in data else None, folder, flag)
        for name, (home, path) in zip(names, homes, strict=True)
    ]
    return folder, _with_own_names(found)


def _home(config: Config, name: str, flag: str) -> tuple[PredictorHome | None, Path | None]:
    """Return what a name stands for: a home, and the table where it names one."""
    path = Path(name)
    if path.suffix == ".parquet":
        if not path.is_file():
            raise InputError(f"{flag} {name}: no such prediction table")
        for folder in path.resolve().parents:
            if Experiment(folder).exists:
                return Experiment(folder), path
            if (folder / JSON_FILE).is_file():
                return PredictorHome(folder), path
        return None, path
    experiment = Experiment(config.experiment_folder(name))
    if experiment.exists:
        return experiment, None
    if not path.is_dir():
        raise InputError(
            f"{flag} {name}: no experiment at {experiment.folder}; say where it is with "
            f"--output_dir, or give the folder of a predictor, or a prediction table"
        )
    return find_predictor(path, flag), None


def _stored(
    name: str,
    home: PredictorHome | None,
    path: Path | None,
    own_dataset: str | None,
    folder: Path,
    flag: str,
) -> Stored:
    if home is None:
        assert path is not None
        return Stored(path.stem, path)
    if not home.has_predictor:
        raise InputError(f"{flag} {name}: not trained to its end: go on with it (--tr_resume 1)")
    info, dataset = predictor_info(home), folder.name
    if path is not None:
        own = isinstance(home, Experiment) and path.resolve().parent == home.predictions.resolve()
        return Stored(f"{home.id}, {path.stem}" if own else home.id, path, home, not own, info)
    evaluated = home.evaluation(dataset).predictions_file
    rows = home.out_of_fold_file if isinstance(home, Experiment) else None
    if rows is not None and rows.is_file():
        # A dataset that has more to train on, but validates the same patients, is as good.
        made_with, folds = info["training"].get("folds_sha256"), folder / FOLDS_FILE
        if own_dataset == dataset or (
            not evaluated.is_file()
            and folds.is_file()
            and made_with == folds_digest(read_folds(folds))
        ):
            return Stored(home.id, rows, home, False, info)
    if not evaluated.is_file():
        which = "experiment_id" if isinstance(home, Experiment) else "pr_predictor"
        raise InputError(
            f"{flag} {name}: no predictions of {dataset}: first evaluate.py --{which} {name} "
            f"--data_dataset {dataset}"
        )
    return Stored(home.id, evaluated, home, True, info)


def _with_own_names(found: list[Stored]) -> list[Stored]:
    """Return them with a number behind names that come twice."""
    names = [each.name for each in found]
    numbers = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [
        each if number == 1 else replace(each, name=f"{each.name} ({number})")
        for each, number in zip(found, numbers)
    ]


def _of_blend(path: Path, names: list[str]) -> pd.DataFrame:
    frame = read_parquet(path, "blend again")
    kind = "calibrated" if f"calibrated_{names[0]}" in frame else "raw"
    found = frame.set_index("study_id")[[f"{kind}_{name}" for name in names]]
    return found.set_axis(names, axis=1)


def study_owners(table: SliceTable, study_ids: pd.Index) -> NDArray[Any]:
    """Return the patient of each study, or the study itself where none is known."""
    frame = table.frame.drop_duplicates("study_id")
    return pd.Series(owners(frame).to_numpy(), frame["study_id"]).reindex(study_ids).to_numpy()


def columns_of(frame: pd.DataFrame, task: Task) -> Floats:
    """Return the probabilities (n, k)."""
    return frame[list(task.label_names)].to_numpy(dtype=np.float64)
